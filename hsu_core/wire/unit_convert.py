"""The meaning of HSU's `unit` block, and a warning for every key of it that is not carried out."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from hsu_core.model.limits import LimitsSpec
from hsu_core.model.spec import (
    Check,
    ExecCheck,
    Execution,
    HealthSpec,
    HttpCheck,
    Probe,
    ProcessCheck,
    RestartSpec,
    StopSpec,
    TcpCheck,
)
from hsu_core.wire.faults import FaultList
from hsu_core.wire.limit_convert import convert_limits
from hsu_core.wire.restart_convert import convert_hsu_restart
from hsu_core.wire.tree import Path
from hsu_core.wire.unit_models import Control, HealthCheck, HsuGrpc, Managed

HSU_INTERVAL_S = 30.0
HSU_TIMEOUT_S = 5.0
"""HSU's documented defaults of `run_options`."""


class UnitParts(NamedTuple):
    """What a unit says; None where it says nothing."""

    execution: Execution
    restart: RestartSpec | None
    stop: StopSpec | None
    health: HealthSpec | None
    limits: LimitsSpec


def convert_unit(unit: Managed, path: Path, found: FaultList, profile: str = "") -> UnitParts:
    """Return the parts of a managed unit at `path`; `profile` is the worker's `profile_type`."""
    control = unit.control
    at = (*path, "control")
    _warn_unused(control, at, found)
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
        health=_health(unit.health_check, (*path, "health_check"), found) if unit.health_check else None,
        limits=_limits(control, (*at, "limits"), found),
    )


def warn_keys(model: BaseModel, keys: tuple[str, ...], path: Path, found: FaultList, why: str = "") -> None:
    """Warn of each of these keys that is given."""
    for key in keys:
        if getattr(model, key) is not None:
            found.warn((*path, key), f"not carried out by this version{why}")


def _warn_unused(control: Control, path: Path, found: FaultList) -> None:
    warn_keys(control, ("process_file", "log_collection"), path, found)


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


def _health(check: HealthCheck, path: Path, found: FaultList) -> HealthSpec:
    options = check.run_options
    if options is not None and options.enabled is False:
        return HealthSpec()
    converted = _check(check, path, found)
    period_s = options.interval if options and options.interval is not None else HSU_INTERVAL_S
    timeout_s = options.timeout if options and options.timeout is not None else min(HSU_TIMEOUT_S, period_s)
    if timeout_s > period_s or period_s < 0.1 or timeout_s <= 0:
        found.fault(
            (*path, "run_options"),
            f"timeout of {timeout_s:g} s does not fit interval of {period_s:g} s",
            "write an interval of 100ms or more and a timeout above 0 and not above the interval",
        )
    retries = options.retries if options and options.retries is not None else Probe(ProcessCheck()).failure_threshold
    probe = Probe(
        check=converted,
        period_s=period_s,
        timeout_s=timeout_s,
        initial_delay_s=(options.initial_delay if options else None) or 0.0,
        failure_threshold=max(1, retries),
    )
    return HealthSpec(readiness=probe, liveness=probe)


def _check(check: HealthCheck, path: Path, found: FaultList) -> Check:
    body = getattr(check, check.type, None)
    if check.type == "process":
        return ProcessCheck()
    if body is None:
        found.fault(path, f"type is {check.type} and there is no `{check.type}` block", f"add {check.type}: {{...}}")
        return ProcessCheck()
    if check.http is not None and check.type == "http":
        method = (check.http.method or "GET").upper()
        headers = tuple(sorted((check.http.headers or {}).items()))
        return HttpCheck(url=check.http.url, method=method, headers=headers)
    if check.tcp is not None and check.type == "tcp":
        return TcpCheck(port=check.tcp.port, host=check.tcp.address)
    if check.exec is not None and check.type == "exec":
        return ExecCheck((check.exec.command, *(check.exec.args or ())))
    return _grpc(check.grpc, (*path, "grpc"), found)


def _grpc(grpc: HsuGrpc | None, path: Path, found: FaultList) -> Check:
    host, _, port = (grpc.address if grpc else "").rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65535):
        found.fault((*path, "address"), "needs HOST:PORT", "write for example localhost:50051")
        return ProcessCheck()
    found.warn(path, "a grpc check only tests that the connection opens in this version (as HSU did)")
    return TcpCheck(port=int(port), host=host or "127.0.0.1")
