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


LOG_KEYS = {"default": "default_worker"}
LOG_SYSTEM_KEYS = {
    "process_directory": "worker_directory",
    "max_managed_processes": "max_workers",
    "max_processes": "max_workers",
}

CONTROL_KEYS = frozenset({"execution", "limits", "restart", "restart_policy", "context_aware_restart"})
UNIT_KINDS = frozenset({"managed", "unmanaged", "integrated", *UNIT_KEYS})


def resolve_dialect(found: FaultList) -> None:
    """Rename the keys of the second dialect, and nest what HSU's oldest files have directly in the unit."""
    _rename_second_dialect(found)
    _nest_flat_units(found)


def _nest_flat_units(found: FaultList) -> None:
    """Put `unit.execution` and its neighbours where they belong: `unit.managed.control`."""
    document = found.document
    workers = document.data.get("workers")
    if not isinstance(workers, list):
        return
    flat = {
        index
        for index, item in enumerate(workers)
        if isinstance(item, dict)
        and isinstance(item.get("unit"), dict)
        and "execution" in item["unit"]
        and not UNIT_KINDS & item["unit"].keys()
    }
    if not flat:
        return
    nested = [_nested(item) if index in flat else item for index, item in enumerate(workers)]

    def moved(path: Path) -> Path:
        is_inside = len(path) > 3 and path[0] == "workers" and path[1] in flat and path[2] == "unit"
        if not is_inside:
            return path
        below = ("managed", "control") if path[3] in CONTROL_KEYS else ("managed",)
        return (*path[:3], *below, *path[3:])

    lines = {moved(path): line for path, line in document.lines.items()}
    found.document = Document({**document.data, "workers": nested}, document.file, lines)
    for index in sorted(flat):
        path = ("workers", index, "unit")
        found.warn(path, "read as unit.managed.control: HSU's older nesting", code="manifest.dialect")


def _nested(worker: Any) -> Any:
    unit = worker["unit"]
    control = {key: value for key, value in unit.items() if key in CONTROL_KEYS}
    rest = {key: value for key, value in unit.items() if key not in CONTROL_KEYS}
    return {**worker, "unit": {"managed": {**rest, "control": control}}}


def _log_collection(body: Any) -> Any:
    logs = _renamed(body, LOG_KEYS)
    if isinstance(logs, dict) and "system" in logs:
        logs["system"] = _renamed(logs["system"], LOG_SYSTEM_KEYS)
    return logs


def _rename_second_dialect(found: FaultList) -> None:
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
    if "log_collection" in data:
        data["log_collection"] = _log_collection(data["log_collection"])
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
