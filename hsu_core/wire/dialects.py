"""The second HSU dialect (`process_manager`, `managed_processes`, `management`) as an alias table of the first.

Only keys are renamed; faults keep their lines. HSU's flat `http_endpoint` becomes `http.url`.
"""

from __future__ import annotations

from typing import Any

from hsu_core.wire.faults import FaultList
from hsu_core.wire.tree import Document, Path

TOP_KEYS = {"process_manager": "master", "managed_processes": "workers"}
WORKER_KEYS = {"management": "unit"}
UNIT_KEYS = {"standard_managed": "managed", "integrated_managed": "integrated"}
RESTART_KEYS = {"process_profile_multipliers": "worker_profile_multipliers"}


def resolve_dialect(found: FaultList) -> None:
    """Rename the keys of the second dialect; a document of the first is left alone."""
    document = found.document
    if not any(key in document.data for key in TOP_KEYS):
        return
    for old, new in TOP_KEYS.items():
        if old in document.data and new in document.data:
            found.fault((old,), f"both {old} and {new} are given", f"keep {new}")
    data = _renamed(document.data, TOP_KEYS)
    workers = data.get("workers")
    if isinstance(workers, list):
        data["workers"] = [_worker(item) for item in workers]
    lines = {_renamed_path(path): line for path, line in document.lines.items()}
    found.document = Document(data, document.file, lines)
    found.warn(
        (), "read as HSU's process_manager dialect: faults name the keys of the native one", code="manifest.dialect"
    )


def _renamed(body: Any, table: dict[str, str]) -> Any:
    return {table.get(key, key): value for key, value in body.items()} if isinstance(body, dict) else body


def _worker(item: Any) -> Any:
    worker = _renamed(item, WORKER_KEYS)
    if not isinstance(worker, dict):
        return worker
    kind = worker.get("type")
    if isinstance(kind, str):
        worker["type"] = UNIT_KEYS.get(kind, kind)
    unit = _renamed(worker.get("unit"), UNIT_KEYS)
    if isinstance(unit, dict):
        worker["unit"] = {kind: _unit(body) for kind, body in unit.items()}
    return worker


def _unit(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    unit = dict(body)
    control = unit.get("control")
    if isinstance(control, dict) and "context_aware_restart" in control:
        renamed = _renamed(control["context_aware_restart"], RESTART_KEYS)
        unit["control"] = {**control, "context_aware_restart": renamed}
    check = unit.get("health_check")
    if isinstance(check, dict) and isinstance(check.get("http_endpoint"), str) and "http" not in check:
        rest = {key: value for key, value in check.items() if key != "http_endpoint"}
        unit["health_check"] = {**rest, "http": {"url": check["http_endpoint"]}}
    return unit


def _renamed_path(path: Path) -> Path:
    tables = ((0, TOP_KEYS), (2, WORKER_KEYS), (3, UNIT_KEYS), (6, RESTART_KEYS))
    parts = list(path)
    for place, table in tables:
        if len(parts) > place:
            parts[place] = table.get(str(parts[place]), parts[place])
    return tuple(parts)
