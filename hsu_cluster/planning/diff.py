"""What differs between two specifications, field by field, in the words of the manifest's structure. Pure.

Named parts (workers, ports, files, pairs) are compared by name, so that an added worker is one difference
and not a shift of all behind it. File contents are shown as size and checksum: they can hold secrets.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from hsu_core.model.spec import AppSpec, Constraint, FileSpec, PortSpec, WorkerSpec

VALUE_LIMIT = 200
"""Longest value shown, in characters."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field: dotted path, text before and after (None: not there)."""

    path: str
    before: str | None
    after: str | None


def diff_specs(before: AppSpec | None, after: AppSpec | None) -> tuple[FieldChange, ...]:
    """Return the fields that differ, sorted by path; None stands for no such app."""
    old, new = flatten(before), flatten(after)
    return tuple(
        FieldChange(path, _short(old.get(path)), _short(new.get(path)))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def flatten(spec: AppSpec | WorkerSpec | None) -> Mapping[str, str]:
    """Return every leaf of a specification as path -> text."""
    leaves: dict[str, str] = {}
    if isinstance(spec, AppSpec):
        for worker in spec.workers:
            _walk(f"workers.{worker.id}", worker, leaves)
        for analysis in spec.analyses:
            for metric in analysis.metrics:
                _walk(f"analyses.{analysis.name}.{metric.name}", metric, leaves)
        if spec.base_directory:
            leaves["base_directory"] = spec.base_directory
    elif spec is not None:
        _walk("", spec, leaves)
    return leaves


def _walk(path: str, value: object, leaves: dict[str, str]) -> None:
    match value:
        case None | "" | ():
            return
        case Constraint():
            leaves[path] = str(value)
        case Enum():
            leaves[path] = str(value.value)
        case FileSpec():
            content = value.content.encode()
            leaves[path] = f"{len(content)} bytes, crc32 {zlib.crc32(content):08x}"
        case PortSpec():
            leaves[path] = "dynamic" if value.is_dynamic else str(value.number)
        case tuple():
            for index, item in enumerate(value):
                name, inner = _named(index, item)
                _walk(f"{path}{name}", inner, leaves)
        case bool():
            leaves[path] = "true" if value else "false"
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                inner_path = f"{path}.{field.name}" if path else field.name
                _walk(inner_path, getattr(value, field.name), leaves)
            if not dataclasses.fields(value):
                leaves[path] = type(value).__name__
            elif path.endswith((".check", ".query")):
                leaves[f"{path}.kind"] = type(value).__name__
        case _:
            leaves[path] = str(value)


def _named(index: int, item: object) -> tuple[str, object]:
    """Return the path part of a tuple's item (by name where it has one) and what is to be walked below it."""
    if isinstance(item, PortSpec):
        return f".{item.name}", item
    if isinstance(item, FileSpec):
        return f".{item.path}", item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return f".{item[0]}", item[1]
    return f"[{index}]", item


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= VALUE_LIMIT:
        return text
    return f"{text[:VALUE_LIMIT]}... ({len(text)} characters)"
