"""The meaning of HSU's unmanaged unit: a process that somebody else starts."""

from __future__ import annotations

from hsu_core.model.limits import LimitsSpec
from hsu_core.model.restarts import RestartPolicy, RestartSpec
from hsu_core.model.spec import Execution, HealthSpec, StopSpec
from hsu_core.model.unmanaged import DEFAULT_INTERVAL_S, Discovery, UnmanagedSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.health_convert import convert_hsu_health
from hsu_core.wire.manifest_models import WorkerModel
from hsu_core.wire.tree import Path
from hsu_core.wire.unit_convert import UnitParts, warn_keys
from hsu_core.wire.unit_models import DiscoveryModel, Unmanaged, UnmanagedControl

GRACE_S = 30.0
"""HSU's grace of an unmanaged unit."""

SHORTEST_INTERVAL_S = 0.1
"""Looks for a process more often than this cost more than they are worth."""

_NEEDED = {
    "pid-file": "pid_file",
    "process-name": "process_name",
    "port": "port",
    "service-name": "service_name",
}
_NOT_OURS = ("restart", "limits", "hooks", "process", "schedule", "files", "logs")
"""Keys that speak of a start, or of processes that are held together."""


def convert_unmanaged(model: WorkerModel, unit: Unmanaged, path: Path, found: FaultList) -> UnitParts:
    """Return the parts of the unmanaged worker at `path`. It is looked for again and again, so it never gives up."""
    at = (*path, "unit", "unmanaged")
    control = unit.control or UnmanagedControl()
    for key in _NOT_OURS:
        if getattr(model, key) is not None:
            found.fault((*path, key), "an unmanaged process is not started by the agent", "remove it")
    if (model.replicas or 0) > 1:
        found.fault((*path, "replicas"), "an unmanaged unit is one process", "write one worker for each")
    for name, number in (model.ports or {}).items():
        if not number:
            found.fault((*path, "ports", name), "an unmanaged process has its port already", "write its number")
    warn_keys(
        control, ("service_manager", "service_name"), (*at, "control"), found, ": signals are sent to the process"
    )
    if control.can_restart and not control.can_terminate:
        found.fault(
            (*at, "control", "can_restart"),
            "a restart ends the process, so that its owner starts it again, and can_terminate is not true",
            "set can_terminate: true too, or remove can_restart",
        )
    spec = _spec(unit.discovery, control, (*at, "discovery"), found)
    health = convert_hsu_health(unit.health_check, (*at, "health_check"), found) if unit.health_check else None
    if health is not None and not spec.can_restart:
        health = HealthSpec(readiness=health.readiness)
    if model.health is not None and model.health.liveness is not None and not spec.can_restart:
        text = "a failing liveness probe would restart the process, and can_restart is not true"
        found.fault((*path, "health", "liveness"), text, "use readiness")
    interval_s = spec.interval_s
    grace_s = GRACE_S if control.graceful_timeout is None else control.graceful_timeout
    return UnitParts(
        execution=Execution(""),
        restart=RestartSpec(RestartPolicy.ALWAYS, base_s=interval_s, factor=1.0, ceiling_s=interval_s),
        stop=None if model.stop is not None else StopSpec(grace_s=grace_s),
        health=health,
        limits=LimitsSpec(),
        unmanaged=spec,
    )


def _spec(body: DiscoveryModel, control: UnmanagedControl, at: Path, found: FaultList) -> UnmanagedSpec:
    needed = _NEEDED[body.method]
    if not getattr(body, needed):
        found.fault((*at, needed), f"the method {body.method} needs it", f"add {needed}")
    if body.pid_file and not body.pid_file.startswith("/"):
        found.fault((*at, "pid_file"), "the path is not absolute", "write for example /run/db.pid")
    interval_s = DEFAULT_INTERVAL_S if body.check_interval is None else body.check_interval
    if interval_s < SHORTEST_INTERVAL_S:
        found.fault((*at, "check_interval"), f"{interval_s:g} s is too short", "write 100ms or more")
    return UnmanagedSpec(
        method=Discovery(body.method),
        pid_file=body.pid_file or "",
        process_name=body.process_name or "",
        process_args=tuple(body.process_args or ()),
        port=body.port or 0,
        protocol=body.protocol or "tcp",
        service_name=body.service_name or "",
        interval_s=max(interval_s, SHORTEST_INTERVAL_S),
        can_terminate=control.can_terminate is True,
        can_restart=control.can_restart is True,
        allowed_signals=None if control.allowed_signals is None else tuple(control.allowed_signals),
    )
