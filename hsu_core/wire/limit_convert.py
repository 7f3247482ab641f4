"""The meaning of a `limits` block: model in, `LimitsSpec` out. What a given host can hold is not asked here."""

from __future__ import annotations

from typing import Any, TypeVar

from hsu_core.model.limits import (
    WARNING_THRESHOLD_PERCENT,
    CpuLimits,
    IoLimits,
    LimitsSpec,
    MemoryLimits,
    MonitoringSpec,
    NetworkLimits,
    ProcessLimits,
    StorageLimits,
)
from hsu_core.model.spec import Resources
from hsu_core.wire.faults import FaultList
from hsu_core.wire.limit_models import CpuLimit, IoLimit, Limits, MemoryLimit, Part, ProcessLimit
from hsu_core.wire.tree import Path

Number = TypeVar("Number", int, float)

MEBIBYTE = 2**20

SHORTEST_INTERVAL_S = 0.1
"""Samples more often than this cost more than they tell."""

_WEIGHTS = (1, 1000)
_SHARES = (2, 262_144)
"""What the kernel takes for weights of the disk and shares of the processor."""


def convert_limits(
    limits: Limits | None,
    path: Path,
    found: FaultList,
    *,
    sustained_s: float | None = None,
    spike_s: float | None = None,
) -> LimitsSpec:
    """Return the limits at `path`. The two times are those of `context_aware_restart`, if it states them."""
    if limits is None:
        return LimitsSpec()
    network, storage = limits.network, limits.storage
    for name, part in (("io", limits.io), ("process", limits.process)):
        if part is not None and part.check_interval is not None:
            text = "not carried out by this version: it is looked at in the rhythm of the other limits"
            found.warn((*path, name, "check_interval"), text)
    if limits.cpu_shares is not None:
        _within(limits.cpu_shares, _SHARES, (*path, "cpu_shares"), found)
    given = {
        "sustained_violation_s": _first(limits.sustained_violation_time, sustained_s),
        "spike_tolerance_s": _first(limits.spike_tolerance_time, spike_s),
    }
    return LimitsSpec(
        memory=_memory(limits.memory, (*path, "memory"), found),
        cpu=_cpu(limits.cpu, (*path, "cpu"), found),
        io=_io(limits.io, (*path, "io"), found),
        process=_process(limits, path, found),
        network=NetworkLimits(
            max_connections=network.max_connections if network else None, **_common(network, (*path, "network"), found)
        ),
        storage=StorageLimits(
            max_log_bytes=storage.max_log_size if storage else None,
            max_temporary_bytes=storage.max_temporary_size if storage else None,
            **_common(storage, (*path, "storage"), found),
        ),
        monitoring=_monitoring(limits, (*path, "monitoring"), found),
        priority=limits.priority,
        cpu_shares=limits.cpu_shares,
        **{name: value for name, value in given.items() if value is not None},
    )


def reservation(limits: LimitsSpec) -> Resources:
    """Return what the limits reserve for placement: resident memory and processors."""
    return Resources(cpu_milli=limits.cpu.max_cores_milli or 0, memory_bytes=limits.memory.max_rss_bytes or 0)


def _memory(body: MemoryLimit | None, path: Path, found: FaultList) -> MemoryLimits:
    if body is None:
        return MemoryLimits()
    from_mb = None if body.limit_mb is None else body.limit_mb * MEBIBYTE
    if body.max_rss is not None and from_mb is not None and body.max_rss != from_mb:
        found.fault((*path, "limit_mb"), "max_rss says another size", "keep one of them")
    return MemoryLimits(
        max_rss_bytes=_above_zero(_first(body.max_rss, from_mb)),
        max_virtual_bytes=_above_zero(body.max_virtual),
        max_swap_bytes=body.max_swap,
        check_interval_s=_interval(body.check_interval, (*path, "check_interval"), found),
        **_common(body, path, found),
    )


def _cpu(body: CpuLimit | None, path: Path, found: FaultList) -> CpuLimits:
    if body is None:
        return CpuLimits()
    return CpuLimits(
        max_cores_milli=_above_zero(body.max_cores),
        max_percent=_above_zero(body.max_percent),
        max_time_s=_above_zero(body.max_time),
        check_interval_s=_interval(body.check_interval, (*path, "check_interval"), found),
        **_common(body, path, found),
    )


def _io(body: IoLimit | None, path: Path, found: FaultList) -> IoLimits:
    if body is None:
        return IoLimits()
    if body.weight:
        _within(body.weight, _WEIGHTS, (*path, "weight"), found)
    names = ("weight", "max_read_bps", "max_write_bps", "max_read_ops", "max_write_ops")
    given: dict[str, Any] = {name: _above_zero(getattr(body, name)) for name in names}
    return IoLimits(**given, **_common(body, path, found))


def _process(limits: Limits, path: Path, found: FaultList) -> ProcessLimits:
    """Return the limits of processes; HSU's older flat forms stand in where the block says nothing."""
    body = limits.process or ProcessLimit()
    for flat, name in (("max_processes", "max_processes"), ("max_open_files", "max_file_descriptors")):
        old, new = getattr(limits, flat), getattr(body, name)
        if old is not None and new is not None and old != new:
            found.fault((*path, flat), f"process.{name} says {new}", "keep one of them")
    return ProcessLimits(
        max_processes=_above_zero(_first(body.max_processes, limits.max_processes)),
        max_file_descriptors=_above_zero(_first(body.max_file_descriptors, limits.max_open_files)),
        max_child_processes=body.max_child_processes,
        **_common(body, (*path, "process"), found),
    )


def _monitoring(limits: Limits, path: Path, found: FaultList) -> MonitoringSpec:
    body, default = limits.monitoring, MonitoringSpec()
    if body is None:
        return default
    interval_s = _interval(body.interval, (*path, "interval"), found)
    retention_s, is_alerting = body.history_retention, body.alerting_enabled
    return MonitoringSpec(
        is_enabled=body.enabled is not False,
        interval_s=default.interval_s if interval_s is None else interval_s,
        history_retention_s=default.history_retention_s if retention_s is None else retention_s,
        is_alerting=default.is_alerting if is_alerting is None else is_alerting,
    )


def _common(body: Part | None, path: Path, found: FaultList) -> dict[str, Any]:
    """Return threshold and policy of a part."""
    threshold = WARNING_THRESHOLD_PERCENT if body is None or body.warning_threshold is None else body.warning_threshold
    if not 0 <= threshold <= 100:
        found.fault((*path, "warning_threshold"), f"{threshold:g} is not a percentage", "write one from 0 to 100")
    return {"warning_threshold_percent": threshold, "policy": body.policy if body is not None else None}


def _interval(value: float | None, path: Path, found: FaultList) -> float | None:
    if value is not None and value < SHORTEST_INTERVAL_S:
        found.fault(path, f"{value:g} s is too often", "write 100ms or more")
    return value


def _within(value: int, bounds: tuple[int, int], path: Path, found: FaultList) -> None:
    if not bounds[0] <= value <= bounds[1]:
        found.fault(path, f"{value} is outside {bounds[0]} to {bounds[1]}", "write one between them")


def _first(*values: Number | None) -> Number | None:
    return next((value for value in values if value is not None), None)


def _above_zero(value: Number | None) -> Number | None:
    """Return the limit; 0 is HSU's word for none."""
    return value or None
