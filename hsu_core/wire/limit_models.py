"""HSU's `limits` block, nested as HSU nests it, with its older flat forms. No meaning yet."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hsu_core.model.limits import LimitPolicy
from hsu_core.wire import forms
from hsu_core.wire.fields import Boolean, Count, Cpu, Duration, Positive, Size, Strict, closest_fix, shown, wrong
from hsu_core.wire.forms import Takes
from hsu_core.wire.tree import resolve_scalar


def _policy(value: Any) -> LimitPolicy:
    words = [str(policy) for policy in LimitPolicy]
    word = value.replace("-", "_") if isinstance(value, str) else value
    if word not in words:
        raise wrong(f"{shown(value)} is not a policy of limits", closest_fix(str(value), words))
    return LimitPolicy(word)


_COUNT_FORM = forms.whole(0, 1_000_000)


def _scalar_limit(key: str, form: forms.Form) -> Takes:
    def convert(value: Any) -> Any:
        return {key: value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    return Takes(convert, forms.beside(form))


def _niceness(value: Any) -> int:
    number = resolve_scalar(value.strip()) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not -20 <= number <= 19:
        raise wrong(f"{shown(value)} is not a priority", "write a whole number from -20 (first) to 19 (last)")
    return int(number)


Policy = Annotated[LimitPolicy, Takes(_policy, forms.words(*(str(policy).replace("_", "-") for policy in LimitPolicy)))]


class Part(Strict):
    """What every part of the limits has."""

    warning_threshold: Positive | None = None
    policy: Policy | None = None


class MemoryLimit(Part):
    """`limits.memory`; a bare size is `max_rss`."""

    max_rss: Size | None = None
    limit_mb: Count | None = None
    max_virtual: Size | None = None
    max_swap: Size | None = None
    check_interval: Duration | None = None


class CpuLimit(Part):
    """`limits.cpu`; a bare number is `max_cores`."""

    max_cores: Cpu | None = None
    max_percent: Positive | None = None
    max_time: Duration | None = None
    check_interval: Duration | None = None


class IoLimit(Part):
    """`limits.io`: rates in bytes and operations a second. `check_interval` is not carried out."""

    weight: Count | None = None
    max_read_bps: Size | None = None
    max_write_bps: Size | None = None
    max_read_ops: Count | None = None
    max_write_ops: Count | None = None
    check_interval: Duration | None = None


class ProcessLimit(Part):
    """`limits.process`; a bare number is `max_processes`. `check_interval` is not carried out."""

    max_processes: Count | None = None
    max_file_descriptors: Count | None = None
    max_child_processes: Count | None = None
    check_interval: Duration | None = None


class NetworkLimit(Part):
    """`limits.network`."""

    max_connections: Count | None = None


class StorageLimit(Part):
    """`limits.storage`."""

    max_log_size: Size | None = None
    max_temporary_size: Size | None = None


class MonitoringModel(Strict):
    """`limits.monitoring`: how use is sampled."""

    enabled: Boolean | None = None
    interval: Duration | None = None
    history_retention: Duration | None = None
    alerting_enabled: Boolean | None = None


class Limits(Strict):
    """All limits of a worker; `max_processes` and `max_open_files` are HSU's older flat forms."""

    memory: Annotated[MemoryLimit, _scalar_limit("max_rss", forms.SIZE)] | None = None
    cpu: Annotated[CpuLimit, _scalar_limit("max_cores", forms.CPU)] | None = None
    io: IoLimit | None = None
    process: Annotated[ProcessLimit, _scalar_limit("max_processes", _COUNT_FORM)] | None = None
    network: Annotated[NetworkLimit, _scalar_limit("max_connections", _COUNT_FORM)] | None = None
    storage: StorageLimit | None = None
    monitoring: MonitoringModel | None = None
    priority: Annotated[int, Takes(_niceness, forms.whole(-20, 19))] | None = Field(default=None)
    cpu_shares: Count | None = None
    sustained_violation_time: Duration | None = None
    spike_tolerance_time: Duration | None = None
    max_processes: Count | None = None
    max_open_files: Count | None = None
