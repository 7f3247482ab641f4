"""The meaning of `log_collection`: what a worker says goes before `default_worker`; targets of all come in addition."""

from __future__ import annotations

import base64
import importlib
import re
import urllib.parse
from typing import Any

from hsu_core.model.logging_rules import NO_RULES, LineFormat, LogRules, LogTarget, TargetKind
from hsu_core.wire.faults import FaultList
from hsu_core.wire.log_models import AuthenticationModel, LogCollectionModel, TargetModel, WorkerLogModel
from hsu_core.wire.tree import Path

_KINDS = {
    "file": TargetKind.FILE,
    "stdout": TargetKind.STDOUT,
    "master_stdout": TargetKind.STDOUT,
    "process_manager_stdout": TargetKind.STDOUT,
    "stderr": TargetKind.STDERR,
    "master_stderr": TargetKind.STDERR,
    "process_manager_stderr": TargetKind.STDERR,
    "syslog": TargetKind.SYSLOG,
    "http": TargetKind.HTTP,
}
PATTERN_CHARACTERS = 200
REPEATS_LIMIT = 3
"""Open repetitions in one pattern, none inside another: what keeps the time of a search within milliseconds."""

BOTH = ("stdout", "stderr")


def convert_log_rules(
    top: LogCollectionModel | None, own: WorkerLogModel | None, path: Path, found: FaultList
) -> LogRules:
    """Return the rules of the worker whose own block stands at `path`."""
    if (top is not None and top.enabled is False) or (own is not None and own.enabled is False):
        return NO_RULES
    default = top.default_worker if top is not None and top.default_worker is not None else None
    if default is not None and default.enabled is False:
        default = None
    default_path: Path = ("log_collection", "default_worker")
    blocks = [(own, path), (default, default_path)]
    _warn_of_block(own, path, found)
    streams = tuple(
        stream
        for stream in BOTH
        if next((said for block, _ in blocks if (said := getattr(block, f"capture_{stream}", None)) is not None), True)
    )
    targets = _global_targets(top, streams, found)
    for block, at in blocks:
        if block is not None and block.outputs is not None:
            targets += _own_targets(block, at, streams, found)
            break
    filters = next(
        (
            (block.processing.filters, (*at, "processing", "filters"))
            for block, at in blocks
            if block is not None and block.processing is not None and block.processing.filters is not None
        ),
        None,
    )
    processing = [block.processing for block, _ in blocks if block is not None and block.processing is not None]
    metadata = _metadata(top)
    if any(body.add_metadata is False for body in processing[:1]):
        metadata = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    level = ""
    if filters is not None:
        body, at = filters
        include = _patterns(body.include_patterns, (*at, "include_patterns"), found)
        exclude = _patterns(body.exclude_patterns, (*at, "exclude_patterns"), found)
        level = body.level_filter or ""
    is_parsed = next((body.parse_structured for body in processing if body.parse_structured is not None), False)
    if not targets:
        return NO_RULES
    return LogRules(tuple(targets), include, exclude, level, bool(is_parsed), metadata)


def warn_unused(top: LogCollectionModel | None, found: FaultList) -> None:
    """Warn of the keys at the top that have no effect here."""
    if top is None:
        return
    at: Path = ("log_collection",)
    _warn_of_block(top.default_worker, (*at, "default_worker"), found)
    if top.system is not None:
        found.warn((*at, "system"), "not carried out by this version: the agent has its own folders and no buffers")
    if top.enhancement is not None:
        for key in ("parsers", "enrichers"):
            if getattr(top.enhancement, key) is not None:
                found.warn((*at, "enhancement", key), "not carried out by this version: JSON and logfmt are parsed")


def _warn_of_block(block: WorkerLogModel | None, path: Path, found: FaultList) -> None:
    if block is None:
        return
    if block.buffering is not None:
        found.warn((*path, "buffering"), "has no effect: lines are handed on at once, and wait in the raw files")
    if block.processing is not None and block.processing.parsers is not None:
        found.warn((*path, "processing", "parsers"), "not carried out by this version: JSON and logfmt are parsed")


def _metadata(top: LogCollectionModel | None) -> tuple[str, ...]:
    enhancement = top.enhancement if top is not None else None
    if enhancement is None or enhancement.enabled is False or enhancement.metadata is None:
        return ()
    said = enhancement.metadata
    asked = {
        "hostname": said.add_hostname,
        "timestamp": said.add_timestamp,
        "sequence": said.add_sequence,
        "line_number": said.add_line_number,
        "master_id": said.add_master_id or said.add_process_manager_id,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def _global_targets(top: LogCollectionModel | None, streams: tuple[str, ...], found: FaultList) -> list[LogTarget]:
    if top is None or top.global_aggregation is None or top.global_aggregation.enabled is False:
        return []
    at: Path = ("log_collection", "global_aggregation", "targets")
    bodies = top.global_aggregation.targets or []
    return [made for number, body in enumerate(bodies) if (made := _target(body, streams, (*at, number), found))]


def _own_targets(block: WorkerLogModel, path: Path, streams: tuple[str, ...], found: FaultList) -> list[LogTarget]:
    outputs = block.outputs
    if outputs is None:
        return []
    lists: list[tuple[list[TargetModel] | None, tuple[str, ...], Path]] = [
        (outputs.forwarding, streams, (*path, "outputs", "forwarding"))
    ]
    if outputs.separate is not None:
        for stream in streams:
            lists.append(
                (getattr(outputs.separate, stream), (stream,), (*path, "outputs", "separate", stream)),
            )
    return [
        made
        for bodies, chosen, at in lists
        for number, body in enumerate(bodies or [])
        if (made := _target(body, chosen, (*at, number), found))
    ]


def _target(body: TargetModel, streams: tuple[str, ...], path: Path, found: FaultList) -> LogTarget | None:
    kind = _KINDS.get(body.type.replace("-", "_"))
    if kind is None:
        found.warn((*path, "type"), f"{body.type} is not carried out by this version", f"use {', '.join(_KINDS)}")
        return None
    config = {key: str(value) for key, value in (body.config or {}).items()}
    place = body.path or body.url or body.address or config.get("url") or config.get("address") or ""
    if kind is TargetKind.SYSLOG:
        place = place or "unix:/dev/log"
    if not _is_place(kind, place):
        fix = {
            TargetKind.FILE: "write a path without `..`, such as {worker_id}-stdout.log",
            TargetKind.SYSLOG: "write unix:/dev/log, udp://HOST:PORT or tcp://HOST:PORT as `address`",
        }.get(kind, "write `url: http://HOST/PATH`")
        found.fault(path, f"{place or 'nothing'} is no place for {kind} lines", fix)
        return None
    default = LogTarget(kind)
    rotation = body.rotation
    return LogTarget(
        kind=kind,
        place=place if kind not in (TargetKind.STDOUT, TargetKind.STDERR) else "",
        format=LineFormat((body.format or "plain").replace("-", "_")),
        prefix=body.prefix or "",
        streams=streams,
        max_bytes=(rotation.max_size if rotation else None) or default.max_bytes,
        max_files=(rotation.max_files if rotation else None) or default.max_files,
        max_age_s=(rotation.max_age if rotation else None) or default.max_age_s,
        authorization=_authorization(body.authentication, (*path, "authentication"), found),
    )


def _is_place(kind: TargetKind, place: str) -> bool:
    if kind in (TargetKind.STDOUT, TargetKind.STDERR):
        return True
    if kind is TargetKind.FILE:
        return bool(place) and ".." not in re.split(r"[/\\]", place)
    try:
        parts = urllib.parse.urlsplit(place)
        port = parts.port
    except ValueError:
        return False
    if kind is TargetKind.SYSLOG:
        return place.startswith("unix:/") or (parts.scheme in ("udp", "tcp") and bool(parts.hostname and port))
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _authorization(body: AuthenticationModel | None, path: Path, found: FaultList) -> str:
    if body is None:
        return ""
    if body.type == "token":
        return f"Bearer {body.token or ''}"
    if body.type == "basic":
        pair = f"{body.username or ''}:{body.password or ''}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
    found.warn((*path, "type"), "certificate is not carried out by this version", "use token or basic")
    return ""


def _patterns(patterns: list[str] | None, path: Path, found: FaultList) -> tuple[str, ...]:
    for number, pattern in enumerate(patterns or []):
        try:
            re.compile(pattern)
            repeats = _repeats(importlib.import_module("re._parser").parse(pattern))
        except (re.error, RecursionError, OverflowError) as error:
            found.fault((*path, number), f"is no regular expression: {error}", "see the syntax of Python's `re`")
            continue
        if repeats > REPEATS_LIMIT or len(pattern) > PATTERN_CHARACTERS:
            found.fault(
                (*path, number),
                f"could take too long: over {PATTERN_CHARACTERS} characters, or repetitions in repetitions",
                f"use at most {REPEATS_LIMIT} of * and +, none inside another",
            )
    return tuple(patterns or [])


def _repeats(parsed: Any) -> int:
    """Return the open repetitions of a parsed pattern; many if one is inside another, or if it refers back."""
    total = 0
    for operation, argument in parsed:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            inner = _repeats(argument[2])
            total += REPEATS_LIMIT + 1 if inner and argument[1] > 1 else inner + (1 if argument[1] > 1 else 0)
        elif name.startswith("GROUPREF"):
            total += REPEATS_LIMIT + 1
        else:
            total += sum(_repeats(part) for part in _parts(argument))
    return total


def _parts(argument: Any) -> list[Any]:
    """Return the parsed patterns inside an argument of an operation."""
    if type(argument).__name__ == "SubPattern":
        return [argument]
    if isinstance(argument, list | tuple):
        return [part for item in argument for part in _parts(item)]
    return []
