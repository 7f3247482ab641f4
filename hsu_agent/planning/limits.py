"""What is to be done about a worker that uses too much: limits and one sample in, decisions out. Pure.

A value above its warning threshold is told of once. A value above its limit counts once it has been there longer
than `spike_tolerance_s`; its policy acts once that has lasted `sustained_violation_s` too. Limits that the kernel
holds are only warned of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from hsu_core.model.enforcement import Enforcement, FieldSupport
from hsu_core.model.limits import LimitPolicy, LimitsSpec
from hsu_core.model.quantity import format_cpu, format_duration, format_size

CHECK_S = 2.0
"""How often use is compared with limits when the manifest does not say."""

SLOWEST_CHECK_S = 10.0
"""HSU compares at least this often, however rare its samples are."""

CALM_PERCENT = 5.0
"""How far below its threshold a value must fall before the next warning of it."""

THROTTLE_S = 30.0
"""How long a worker is slowed before it is judged anew: a slowed one always seems to behave."""

ESCALATION_STEP_S = 10.0
"""Time between the steps of `escalate` where no `sustained_violation_time` is given."""

SLOW_SHARE = 0.1
"""Share of its speed that is left to a worker which is slowed for something else than its speed."""

ADJUSTMENT = 1.25
GREATEST_ADJUSTMENT = 2.0
"""`restart_adjusted` raises a limit by a quarter each time, up to twice what the manifest says."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one worker uses, all its processes together. Bytes, seconds, and rates a second since the sample before.

    `cpu_percent`: 100 is one processor. `descriptors`: of the process that has the most. None: not looked at.
    """

    at_s: float
    cpu_percent: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    virtual_bytes: int = 0
    processes: int = 0
    threads: int = 0
    descriptors: int | None = None
    connections: int | None = None
    read_bytes: int = 0
    write_bytes: int = 0
    read_bps: float = 0.0
    write_bps: float = 0.0
    read_ops: float = 0.0
    write_ops: float = 0.0
    log_bytes: int | None = None
    temporary_bytes: int | None = None


class Measure(StrEnum):
    """What is done about a worker."""

    WARN = "warn"
    LOG = "log"
    ALERT = "alert"
    THROTTLE = "throttle"
    RELEASE = "release"
    STOP = "stop"
    KILL = "kill"
    RESTART = "restart"
    RESTART_ADJUSTED = "restart_adjusted"


@dataclass(frozen=True, slots=True)
class Decision:
    """One measure about one limit, with the sentence about it. `share`: of its present speed, for THROTTLE."""

    measure: Measure
    name: str
    text: str
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of one limit between samples."""

    is_warned: bool = False
    over_since_s: float | None = None
    is_told: bool = False
    steps: int = 0
    stepped_s: float = 0.0
    throttled_until_s: float | None = None


Watches = Mapping[str, Watch]

_ACTS: Mapping[LimitPolicy, Measure] = {
    LimitPolicy.GRACEFUL_SHUTDOWN: Measure.STOP,
    LimitPolicy.IMMEDIATE_KILL: Measure.KILL,
    LimitPolicy.RESTART: Measure.RESTART,
    LimitPolicy.RESTART_ADJUSTED: Measure.RESTART_ADJUSTED,
    LimitPolicy.THROTTLE: Measure.THROTTLE,
}
_ENDING = (Measure.STOP, Measure.KILL, Measure.RESTART, Measure.RESTART_ADJUSTED)

_UNHELD: Mapping[str, LimitPolicy] = {
    "memory": LimitPolicy.IMMEDIATE_KILL,
    "cpu": LimitPolicy.THROTTLE,
    "cpu.max_time": LimitPolicy.IMMEDIATE_KILL,
}
"""What samples do about a limit without a policy that the kernel would hold elsewhere; the others raise an alert."""


def check_interval_s(limits: LimitsSpec) -> float:
    """Return how often a worker is sampled."""
    stated = [limits.memory.check_interval_s, limits.cpu.check_interval_s]
    if limits.monitoring.is_enabled:
        stated.append(min(limits.monitoring.interval_s, SLOWEST_CHECK_S))
    return min((value for value in stated if value is not None), default=CHECK_S)


_VALUES: Mapping[str, Callable[[Usage], float | None]] = {
    "memory.max_rss": lambda usage: usage.memory_bytes,
    "memory.max_virtual": lambda usage: usage.virtual_bytes,
    "cpu.max_cores": lambda usage: usage.cpu_percent * 10,
    "cpu.max_percent": lambda usage: usage.cpu_percent,
    "cpu.max_time": lambda usage: usage.cpu_s,
    "io.max_read_bps": lambda usage: usage.read_bps,
    "io.max_write_bps": lambda usage: usage.write_bps,
    "io.max_read_ops": lambda usage: usage.read_ops,
    "io.max_write_ops": lambda usage: usage.write_ops,
    "process.max_processes": lambda usage: usage.threads,
    "process.max_file_descriptors": lambda usage: usage.descriptors,
    "process.max_child_processes": lambda usage: usage.processes - 1,
    "network.max_connections": lambda usage: usage.connections,
    "storage.max_log_size": lambda usage: usage.log_bytes,
    "storage.max_temporary_size": lambda usage: usage.temporary_bytes,
}
"""What a worker uses of what a limit is about, in the unit of the limit; None: it was not looked at."""


def judge(
    limits: LimitsSpec, held: tuple[FieldSupport, ...], usage: Usage, watches: Watches, factor: float = 1.0
) -> tuple[dict[str, Watch], list[Decision]]:
    """Return what is remembered from now on, and the measures that this sample calls for.

    `held` is what `enforcement` says of this host; `factor` is by how much `restart_adjusted` has raised the limits.
    At most one measure ends the worker: the first in the order of the manifest.
    """
    remembered: dict[str, Watch] = {}
    decisions: list[Decision] = []
    for support in held:
        value_of = _VALUES.get(support.name)
        value = value_of(usage) if value_of is not None else None
        if value is None or support.how in (Enforcement.NONE, Enforcement.UNSUPPORTED):
            continue
        limit = support.limit * (factor if _is_adjustable(support.name, limits) else 1.0)
        watch = watches.get(support.name, Watch())
        watch, found = _judge_one(support, limits, limit, value, watch, usage.at_s)
        remembered[support.name] = watch
        decisions += found
    ending = next((found for found in decisions if found.measure in _ENDING), None)
    return remembered, [found for found in decisions if found.measure not in _ENDING or found is ending]


def next_factor(factor: float) -> float:
    """Return by how much limits are raised after a restart that adjusts them."""
    return min(GREATEST_ADJUSTMENT, factor * ADJUSTMENT)


def _is_adjustable(name: str, limits: LimitsSpec) -> bool:
    return limits.policy_of(name) is LimitPolicy.RESTART_ADJUSTED


def _judge_one(
    support: FieldSupport, limits: LimitsSpec, limit: float, value: float, watch: Watch, now_s: float
) -> tuple[Watch, list[Decision]]:
    name, found = support.name, list[Decision]()
    watch, is_warned = _warn(limits, name, 100.0 * value / limit if limit else 0.0, watch)
    is_calm = not is_warned and watch.throttled_until_s is None and watch.over_since_s is None and value <= limit
    if is_calm:
        return watch, found  # nearly every sample of nearly every worker
    text = f"uses {_shown(name, value)}, its limit is {_shown(name, limit)} (limits.{name})"
    if is_warned:
        found.append(Decision(Measure.WARN, name, text))
    if watch.throttled_until_s is not None and now_s >= watch.throttled_until_s:
        found.append(Decision(Measure.RELEASE, name, "is no longer slowed"))
        watch = replace(watch, throttled_until_s=None)
    if support.how is not Enforcement.SAMPLING:
        return watch, found
    policy = limits.policy_of(name) or _UNHELD.get(name, _UNHELD.get(name.partition(".")[0], LimitPolicy.ALERT))
    if watch.throttled_until_s is not None and policy is LimitPolicy.THROTTLE:
        return watch, found
    if value <= limit:
        return replace(watch, over_since_s=None, is_told=False, steps=0), found
    since_s = watch.over_since_s if watch.over_since_s is not None else now_s
    watch = replace(watch, over_since_s=since_s)
    if now_s - since_s < limits.spike_tolerance_s:
        return watch, found
    if not watch.is_told:
        watch = replace(watch, is_told=True)
        is_alert = policy in (LimitPolicy.ALERT, LimitPolicy.ESCALATE) and limits.monitoring.is_alerting
        found.append(Decision(Measure.ALERT if is_alert else Measure.LOG, name, text))
    share = limit / value if name.startswith(("cpu.max_cores", "cpu.max_percent", "io.")) else SLOW_SHARE
    if policy is LimitPolicy.ESCALATE:
        watch, measure = _escalate(watch, limits.sustained_violation_s or ESCALATION_STEP_S, now_s)
    elif now_s - since_s >= max(limits.sustained_violation_s, limits.spike_tolerance_s):
        measure = _ACTS.get(policy)
    else:
        measure = None
    if measure is Measure.THROTTLE:
        watch = replace(watch, throttled_until_s=now_s + THROTTLE_S)
    if measure is not None:
        found.append(Decision(measure, name, text, share))
    return watch, found


def _warn(limits: LimitsSpec, name: str, percent: float, watch: Watch) -> tuple[Watch, bool]:
    """Return the watch, and whether there is a warning: once, until the value has fallen again."""
    threshold: float = getattr(limits, name.partition(".")[0]).warning_threshold_percent
    if percent < threshold - CALM_PERCENT:
        return replace(watch, is_warned=False) if watch.is_warned else watch, False
    if percent < threshold or watch.is_warned or not threshold or not limits.monitoring.is_alerting:
        return watch, False
    return replace(watch, is_warned=True), True


def _escalate(watch: Watch, step_s: float, now_s: float) -> tuple[Watch, Measure | None]:
    """Return the next step of a violation that lasts: told of, then slowed, then stopped."""
    if not watch.steps:
        return replace(watch, steps=1, stepped_s=now_s), None
    if now_s - watch.stepped_s < step_s:
        return watch, None
    measure = Measure.THROTTLE if watch.steps == 1 else Measure.STOP
    return replace(watch, steps=watch.steps + 1, stepped_s=now_s), measure


def _shown(name: str, value: float) -> str:
    if name.startswith("memory.") or name.startswith("storage."):
        return format_size(round(value))
    if name.endswith("_bps"):
        return f"{format_size(round(value))}/s"
    if name == "cpu.max_cores":
        return f"{format_cpu(round(value))} cores"
    if name == "cpu.max_time":
        return f"{format_duration(value)} of processor time"
    return f"{value:.0f}%" if name == "cpu.max_percent" else f"{value:.0f}"
