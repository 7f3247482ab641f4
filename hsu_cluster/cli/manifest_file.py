"""A manifest file of this machine: read, checked, and resolved into a document that stands alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hsu_cluster.cli.text import close_to
from hsu_core.model.errors import InvalidInput

if TYPE_CHECKING:
    from hsu_core.wire.manifest import ParsedManifest

STANDARD_INPUT = "-"

STRATEGIES = ("rolling", "recreate", "canary", "blue-green")
"""Strategies that the manifest knows and this version's leader does not carry out."""


def load_manifest(
    name: str, environment: Mapping[str, str], namespace: str | None, variables: Sequence[str] | None = None
) -> ParsedManifest:
    """Return the checked manifest of a file (`-`: standard input). Raises InvalidManifest with every fault.

    `variables` are `NAME=VALUE` texts that win over the file's `vars`.
    """
    from hsu_core.wire.manifest import parse_manifest

    text, folder = _read(name)
    return parse_manifest(
        text,
        file="stdin" if name == STANDARD_INPUT else name,
        namespace=namespace,
        environment=environment,
        read_file=lambda path: (folder / path).read_bytes(),
        base_directory=str(folder),
        variables=dict(_variable(text) for text in variables or ()),
    )


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidInput(f"read variable {text[:80]!r}", "", "write --var NAME=VALUE", code="input.variable")
    return name, value


def _read(name: str) -> tuple[bytes, Path]:
    if name == STANDARD_INPUT:
        return sys.stdin.buffer.read(), Path.cwd()
    path = Path(name)
    try:
        return path.read_bytes(), path.absolute().parent
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"read {name}", reason, _nearby(path), code="input.file") from error


def _nearby(path: Path) -> str:
    """Return a hint to a file of a similar name in the same folder, or an empty text."""
    try:
        near = close_to(path.name, [each.name for each in path.parent.iterdir()])
    except OSError:
        return ""
    return f"did you mean {path.parent / near}?" if near and near != path.name else ""


def check_strategy(strategy: str | None) -> None:
    """Refuse a strategy that does not exist."""
    if strategy is None or strategy in STRATEGIES:
        return
    near = close_to(strategy, STRATEGIES)
    hint = f"did you mean {near}?" if near else f"use {', '.join(STRATEGIES)}"
    raise InvalidInput(f"deploy with strategy {strategy!r}", "there is no such strategy", hint, code="input.strategy")


def with_strategy(document: Mapping[str, object], strategy: str | None) -> dict[str, object]:
    """Return the document with the strategy of every worker replaced."""
    if strategy is None:
        return dict(document)
    workers = document.get("workers")
    changed = [
        {**worker, "rollout": {**(worker.get("rollout") or {}), "strategy": strategy}}
        for worker in (workers if isinstance(workers, list) else [])
    ]
    return {**document, "workers": changed}
