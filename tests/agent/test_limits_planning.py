"""Rules about use: what a sample calls for under each policy, with thresholds and times."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hsu_agent.planning.limits import (
    ESCALATION_STEP_S,
    THROTTLE_S,
    Decision,
    Measure,
    Usage,
    Watches,
    check_interval_s,
    judge,
    next_factor,
)
from hsu_core.model.enforcement import Controller, HostLayout, enforcement
from hsu_core.model.limits import (
    CpuLimits,
    LimitPolicy,
    LimitsSpec,
    MemoryLimits,
    MonitoringSpec,
    NetworkLimits,
    ProcessLimits,
)

MIB = 2**20
BARE = HostLayout()
RICH = HostLayout(controllers=tuple((name, Controller(2, "/cg")) for name in ("memory", "cpu", "pids", "io")))


def memory(policy: LimitPolicy | None, **fields: float) -> LimitsSpec:
    """Return a limit of 100 MiB under a policy."""
    return LimitsSpec(memory=MemoryLimits(100 * MIB, policy=policy), **fields)  # type: ignore[arg-type]


def measures(
    limits: LimitsSpec, samples: Sequence[tuple[float, float]], host: HostLayout = BARE, factor: float = 1.0
) -> list[tuple[float, str]]:
    """Return (time, measure) over samples of (time, MiB in use)."""
    return [(at_s, str(found.measure)) for at_s, found in decide(limits, samples, host, factor)]


def decide(
    limits: LimitsSpec, samples: Sequence[tuple[float, float]], host: HostLayout = BARE, factor: float = 1.0
) -> list[tuple[float, Decision]]:
    """Return (time, decision) over samples of (time, MiB in use)."""
    watches: Watches = {}
    found: list[tuple[float, Decision]] = []
    for at_s, used_mib in samples:
        usage = Usage(at_s, memory_bytes=round(used_mib * MIB))
        watches, decisions = judge(limits, enforcement(limits, host), usage, watches, factor)
        found += [(at_s, decision) for decision in decisions]
    return found


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LimitPolicy.NONE, []),
        (LimitPolicy.LOG, ["warn", "log"]),
        (LimitPolicy.ALERT, ["warn", "alert"]),
        (LimitPolicy.THROTTLE, ["warn", "log", "throttle"]),
        (LimitPolicy.GRACEFUL_SHUTDOWN, ["warn", "log", "stop"]),
        (LimitPolicy.IMMEDIATE_KILL, ["warn", "log", "kill"]),
        (LimitPolicy.RESTART, ["warn", "log", "restart"]),
        (LimitPolicy.RESTART_ADJUSTED, ["warn", "log", "restart_adjusted"]),
        (None, ["warn", "log", "kill"]),
    ],
)
def test_every_policy_has_its_measure(policy: LimitPolicy | None, expected: list[str]) -> None:
    assert [found for _, found in measures(memory(policy), [(0, 120)])] == expected


def test_what_the_kernel_holds_is_only_warned_of() -> None:
    assert measures(memory(None), [(0, 50), (1, 85), (2, 120)], RICH) == [(1, "warn")]


def test_a_warning_comes_once_until_the_value_has_fallen() -> None:
    samples = [(0, 82), (1, 85), (2, 78), (3, 81), (4, 60), (5, 90)]
    assert measures(memory(LimitPolicy.LOG), samples) == [(0, "warn"), (5, "warn")]


def test_a_spike_that_is_tolerated_calls_for_nothing() -> None:
    limits = memory(LimitPolicy.RESTART, spike_tolerance_s=10.0)
    assert measures(limits, [(0, 120), (5, 120), (6, 50), (7, 120), (16, 120)]) == [(0, "warn"), (7, "warn")]
    assert measures(limits, [(0, 120), (10, 120)])[1:] == [(10, "log"), (10, "restart")]


def test_the_policy_acts_when_the_violation_has_lasted() -> None:
    limits = memory(LimitPolicy.IMMEDIATE_KILL, sustained_violation_s=60.0)
    assert measures(limits, [(0, 120), (30, 120), (60, 120)]) == [(0, "warn"), (0, "log"), (60, "kill")]
    assert measures(limits, [(0, 120), (30, 99), (60, 120)])[-1] == (60, "log")


def test_a_slowed_worker_is_judged_anew_after_a_while() -> None:
    samples = [(0, 120), (10, 120), (THROTTLE_S, 120), (THROTTLE_S + 1, 120)]
    found = measures(memory(LimitPolicy.THROTTLE), samples)
    assert found == [(0, "warn"), (0, "log"), (0, "throttle"), (THROTTLE_S, "release"), (THROTTLE_S, "throttle")]


def test_escalation_tells_then_slows_then_stops() -> None:
    step = ESCALATION_STEP_S
    found = measures(memory(LimitPolicy.ESCALATE), [(at * step, 120) for at in range(3)])
    assert found == [(0, "warn"), (0, "alert"), (step, "throttle"), (2 * step, "stop")]


def test_escalation_starts_anew_when_the_worker_behaves() -> None:
    step = ESCALATION_STEP_S
    samples = [(0, 120), (step, 120), (step + 1, 90), (2 * step, 120), (3 * step, 120)]
    assert "stop" not in [found for _, found in measures(memory(LimitPolicy.ESCALATE), samples)]


def test_a_processor_is_slowed_to_its_share_where_the_kernel_does_not() -> None:
    limits = LimitsSpec(cpu=CpuLimits(500))
    _, decisions = judge(limits, enforcement(limits, BARE), Usage(0, cpu_percent=100), {})
    assert decisions[-1].measure is Measure.THROTTLE
    assert decisions[-1].share == pytest.approx(0.5)
    assert decisions[-1].text == "uses 1 cores, its limit is 0.5 cores (limits.cpu.max_cores)"


def test_an_adjusted_limit_is_higher_but_never_beyond_twice() -> None:
    limits = memory(LimitPolicy.RESTART_ADJUSTED)
    assert measures(limits, [(0, 120)], factor=1.25) == [(0, "warn")]
    factors = [1.0]
    while len(factors) < 6:
        factors.append(next_factor(factors[-1]))
    assert factors[:3] == [1.0, 1.25, 1.5625]
    assert factors[-1] == 2.0


def test_only_one_measure_ends_a_worker() -> None:
    limits = LimitsSpec(
        memory=MemoryLimits(100 * MIB, policy=LimitPolicy.RESTART),
        process=ProcessLimits(max_child_processes=1, policy=LimitPolicy.IMMEDIATE_KILL),
    )
    _, decisions = judge(limits, enforcement(limits, BARE), Usage(0, memory_bytes=200 * MIB, processes=9), {})
    assert [found.measure for found in decisions if found.measure in ("restart", "kill")] == [Measure.RESTART]


def test_what_was_not_looked_at_is_not_judged() -> None:
    limits = LimitsSpec(network=NetworkLimits(5))
    assert judge(limits, enforcement(limits, BARE), Usage(0), {}) == ({}, [])
    _, decisions = judge(limits, enforcement(limits, BARE), Usage(0, connections=6), {})
    assert decisions[-1].measure is Measure.ALERT


def test_alerts_can_be_silenced() -> None:
    limits = LimitsSpec(
        memory=MemoryLimits(100 * MIB, policy=LimitPolicy.ALERT), monitoring=MonitoringSpec(is_alerting=False)
    )
    assert measures(limits, [(0, 120)]) == [(0, "log")]


def test_how_often_a_worker_is_sampled() -> None:
    assert check_interval_s(LimitsSpec(monitoring=MonitoringSpec(is_enabled=True, interval_s=30))) == 10
    assert check_interval_s(LimitsSpec(memory=MemoryLimits(1, check_interval_s=0.5))) == 0.5
    assert check_interval_s(LimitsSpec(memory=MemoryLimits(1))) == 2
