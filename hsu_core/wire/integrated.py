"""HSU's integrated units as what they are: managed ones that are told their port and answer a ping on it.

Such a program is started with `--port N` and offers CoreService/Ping (or the gRPC health protocol) there. The
document is rewritten before it is checked, so an integrated unit can have every key of a managed one.
"""

from __future__ import annotations

from typing import Any

from hsu_core.wire.faults import FaultList
from hsu_core.wire.health_convert import HSU_INTERVAL_S, HSU_PING, HSU_TIMEOUT_S
from hsu_core.wire.tree import Document, Path

PORT_NAME = "integrated"
"""Name of the port that the program is told, if the worker gives none of that name a number."""

RUN_OPTIONS = "health_check_run_options"
"""Key of an integrated unit with the rhythm of its ping."""


def resolve_integrated(found: FaultList) -> None:
    """Rewrite the integrated workers of a document."""
    document = found.document
    workers = document.data.get("workers")
    if not isinstance(workers, list):
        return
    chosen = {index for index, item in enumerate(workers) if _is_integrated(item)}
    if not chosen:
        return
    written = [_managed(item) if index in chosen else item for index, item in enumerate(workers)]

    def moved(path: Path) -> Path:
        is_inside = (
            len(path) > 3 and path[1] in chosen and path[:1] == ("workers",) and path[2:4] == ("unit", "integrated")
        )
        return (*path[:3], "managed", *path[4:]) if is_inside else path

    lines = {moved(path): line for path, line in document.lines.items()}
    found.document = Document({**document.data, "workers": written}, document.file, lines)


def _is_integrated(item: Any) -> bool:
    """Return whether a worker has the shape of an integrated one; what has not is refused by the usual checks."""
    if not isinstance(item, dict) or item.get("type") != "integrated" or not isinstance(item.get("unit"), dict):
        return False
    unit = item["unit"].get("integrated")
    control = unit.get("control") if isinstance(unit, dict) else None
    execution = control.get("execution") if isinstance(control, dict) else None
    arguments = execution.get("args") if isinstance(execution, dict) else None
    return isinstance(execution, dict) and isinstance(arguments, list | None) and item["unit"].keys() == {"integrated"}


def _managed(item: dict[str, Any]) -> dict[str, Any]:
    unit = item["unit"]["integrated"]
    control = unit["control"]
    arguments = [*(control["execution"].get("args") or []), "--port", f"{{port.{PORT_NAME}}}"]
    rest = {key: value for key, value in unit.items() if key != RUN_OPTIONS}
    managed = {**rest, "control": {**control, "execution": {**control["execution"], "args": arguments}}}
    ports = item.get("ports")
    worker = {**item, "type": "managed", "unit": {"managed": managed}}
    if ports is None or isinstance(ports, dict):
        worker["ports"] = {PORT_NAME: "dynamic", **(ports or {})}
    if "health" not in item and "health_check" not in unit:
        worker["health"] = _health(unit.get(RUN_OPTIONS))
    return worker


def _health(options: Any) -> dict[str, Any]:
    """Return the probes of a program that answers a ping, in HSU's rhythm."""
    said = options if isinstance(options, dict) else {}
    if said.get("enabled") is False:
        return {}
    probe: dict[str, Any] = {
        "any": [{"grpc": {"port": PORT_NAME, "method": HSU_PING}}, {"grpc": {"port": PORT_NAME}}],
        "period": said.get("interval", HSU_INTERVAL_S),
        "timeout": said.get("timeout", HSU_TIMEOUT_S),
    }
    if "initial_delay" in said:
        probe["initial_delay"] = said["initial_delay"]
    if "retries" in said:
        probe["failure_threshold"] = said["retries"]
    return {"readiness": probe, "liveness": dict(probe)}
