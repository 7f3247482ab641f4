"""Verdicts out of probe outcomes: thresholds, and startup gating the other probes. Pure.

A probe is tried faster than its period until it first passes, so that a quick worker is ready quickly;
such early failures count at most once per period, so that the time a slow worker is given stays
`failure_threshold` x `period_s`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from hsu_core.model.spec import HealthSpec, Probe


class ProbeKind(StrEnum):
    """Which of the three probes."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check; `text` says what was seen."""

    is_passed: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcomes in a row of one probe; `failed_at_s` is when a failure last counted."""

    passes: int = 0
    failures: int = 0
    failed_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of one process say so far. `is_alive` False asks for a restart."""

    is_started: bool = True
    is_ready: bool = True
    is_alive: bool = True
    startup: Tally = Tally()
    readiness: Tally = Tally()
    liveness: Tally = Tally()
    reason: str = ""


PERIOD_SHARE = 0.9
"""A failure this part of a period after the last counted one counts again (timers are not exact)."""

FIRST_DELAY_S = 0.05
"""Wait between the first tries of a probe that has not passed yet; doubles up to the period."""


def begin(spec: HealthSpec) -> Health:
    """Return the health of a process that has just been started."""
    is_started = spec.startup is None
    is_ready = is_started and spec.readiness is None
    return Health(is_started, is_ready, reason="" if is_ready else "waits for its first successful probe")


def resume(spec: HealthSpec, *, is_started: bool, is_ready: bool) -> Health:
    """Return the health of a process that another agent started and wrote down; what has no probe is not waited for."""
    first = begin(spec)
    if first.is_ready or (is_started and spec.readiness is None):
        return Health(is_started=True, is_ready=True)
    return Health(is_started or first.is_started, is_ready, reason="" if is_ready else first.reason)


def probe_of(spec: HealthSpec, kind: ProbeKind) -> Probe | None:
    """Return the probe of this kind, or None."""
    return {
        ProbeKind.STARTUP: spec.startup,
        ProbeKind.READINESS: spec.readiness,
        ProbeKind.LIVENESS: spec.liveness,
    }[kind]


def active(spec: HealthSpec, health: Health) -> tuple[ProbeKind, ...]:
    """Return the probes that run now: the startup probe alone until it has passed."""
    if not health.is_started:
        return (ProbeKind.STARTUP,)
    return tuple(kind for kind in (ProbeKind.READINESS, ProbeKind.LIVENESS) if probe_of(spec, kind) is not None)


def next_delay_s(probe: Probe, tries: int, has_passed: bool) -> float:
    """Return the wait after a check: short and doubling until the first success, then the period."""
    if has_passed:
        return probe.period_s
    return min(probe.period_s, FIRST_DELAY_S * 2.0 ** min(tries, 20))


def count(tally: Tally, probe: Probe, outcome: Outcome, now_s: float) -> Tally:
    """Return the tally after one more outcome."""
    if outcome.is_passed:
        return Tally(tally.passes + 1, 0)
    if tally.failures and now_s - tally.failed_at_s < probe.period_s * PERIOD_SHARE:
        return replace(tally, passes=0)
    return Tally(0, tally.failures + 1, now_s)


def observe(spec: HealthSpec, health: Health, kind: ProbeKind, outcome: Outcome, now_s: float) -> Health:
    """Return the health after the outcome of one check at `now_s` (monotonic)."""
    probe = probe_of(spec, kind)
    if probe is None:
        return health
    if kind is ProbeKind.STARTUP:
        tally = count(health.startup, probe, outcome, now_s)
        if tally.passes >= 1 and not health.is_started:
            is_ready = spec.readiness is None
            reason = "" if is_ready else "waits for its readiness probe"
            return replace(health, startup=tally, is_started=True, is_ready=is_ready, reason=reason)
        if not health.is_started and tally.failures >= probe.failure_threshold:
            return replace(health, startup=tally, is_alive=False, reason=_reason(kind, tally, outcome))
        return replace(health, startup=tally)
    if kind is ProbeKind.READINESS:
        tally = count(health.readiness, probe, outcome, now_s)
        if not health.is_ready and health.is_started and tally.passes >= probe.success_threshold:
            return replace(health, readiness=tally, is_ready=True, reason="")
        if health.is_ready and tally.failures >= probe.failure_threshold:
            return replace(health, readiness=tally, is_ready=False, reason=_reason(kind, tally, outcome))
        if not health.is_ready and not outcome.is_passed:
            return replace(health, readiness=tally, reason=f"readiness probe: {outcome.text}")
        return replace(health, readiness=tally)
    tally = count(health.liveness, probe, outcome, now_s)
    if tally.failures >= probe.failure_threshold:
        return replace(health, liveness=tally, is_alive=False, reason=_reason(kind, tally, outcome))
    return replace(health, liveness=tally)


def _reason(kind: ProbeKind, tally: Tally, outcome: Outcome) -> str:
    return f"{kind} probe failed {tally.failures} times in a row: {outcome.text}"
