"""The meaning of HSU's `unit` block, and a warning for every key of it that is not carried out."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from hsu_core.model.ids import is_name
from hsu_core.model.limits import LimitsSpec
from hsu_core.model.process_files import SCENARIOS, ProcessFileSpec, Scope
from hsu_core.model.spec import (
    Execution,
    HealthSpec,
    RestartSpec,
    StopSpec,
)
from hsu_core.model.unmanaged import UnmanagedSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import closest_fix
from hsu_core.wire.health_convert import convert_hsu_health
from hsu_core.wire.limit_convert import convert_limits
from hsu_core.wire.restart_convert import convert_hsu_restart
from hsu_core.wire.tree import Path
from hsu_core.wire.unit_models import Control, Managed


class UnitParts(NamedTuple):
    """What a unit says; None where it says nothing."""

    execution: Execution
    restart: RestartSpec | None
    stop: StopSpec | None
    health: HealthSpec | None
    limits: LimitsSpec
    unmanaged: UnmanagedSpec | None = None
    process_file: ProcessFileSpec | None = None


def convert_unit(unit: Managed, path: Path, found: FaultList, profile: str = "") -> UnitParts:
    """Return the parts of a managed unit at `path`; `profile` is the worker's `profile_type`."""
    control = unit.control
    at = (*path, "control")
    execution = control.execution
    if not execution.executable_path.strip():
        found.fault((*at, "execution", "executable_path"), "the path is empty", "write a program, such as ./bin/web")
    return UnitParts(
        execution=Execution(
            executable_path=execution.executable_path,
            args=tuple(execution.args or ()),
            environment=tuple(sorted((execution.environment or {}).items())),
            working_directory=execution.working_directory or "",
        ),
        restart=convert_hsu_restart(
            control.restart_policy, control.context_aware_restart, control.restart, profile, at, found
        ),
        stop=_stop(control),
        health=convert_hsu_health(unit.health_check, (*path, "health_check"), found) if unit.health_check else None,
        limits=_limits(control, (*at, "limits"), found),
        process_file=_process_file(control, at, found),
    )


def warn_keys(model: BaseModel, keys: tuple[str, ...], path: Path, found: FaultList, why: str = "") -> None:
    """Warn of each of these keys that is given."""
    for key in keys:
        if getattr(model, key) is not None:
            found.warn((*path, key), f"not carried out by this version{why}")


def _process_file(control: Control, path: Path, found: FaultList) -> ProcessFileSpec | None:
    body = control.process_file
    if body is None:
        return None
    folder = body.base_directory or body.basedirectory or ""
    if folder and not folder.startswith("/"):
        found.fault((*path, "process_file"), f"{folder[:60]!r} is not absolute", "write for example /run/shop")
    word = body.service_context or body.servicecontext or body.scenario or "user"
    scope = SCENARIOS.get(word.lower())
    if scope is None:
        fix = closest_fix(word, list(SCENARIOS))
        found.fault((*path, "process_file"), f"{word[:60]!r} is no scope of process files", fix)
    name = (body.app_name or body.appname or "") if body.use_subdirectory or body.usesubdirectory else ""
    if name and not is_name(name):
        found.fault((*path, "process_file"), f"{name[:60]!r} is no name of a folder", "use letters, digits, _ and -")
    return ProcessFileSpec(scope or Scope.USER, folder, name)


def _stop(control: Control) -> StopSpec | None:
    if control.graceful_timeout is None and control.stop_signal is None:
        return None
    default = StopSpec()
    grace_s = control.graceful_timeout
    return StopSpec(control.stop_signal or default.signal, default.grace_s if grace_s is None else grace_s)


def _limits(control: Control, path: Path, found: FaultList) -> LimitsSpec:
    context = control.context_aware_restart
    times = (context.sustained_violation_time, context.spike_tolerance_time) if context else (None, None)
    return convert_limits(control.limits, path, found, sustained_s=times[0], spike_s=times[1])
