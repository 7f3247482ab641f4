"""When an ended worker starts again, and how long it waits before. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.assignment import LastExit
from hsu_core.model.lifecycle import Event
from hsu_core.model.restarts import BreakerPhase, BreakerSpec, RestartPolicy, RestartSpec, RetryRule

JITTER = 0.2
"""Part by which a wait is shortened or lengthened, so that workers that fell together do not rise together."""

EXPONENT_LIMIT = 64
"""Doublings after which every ceiling is reached; keeps the power finite for any counter."""

EXIT, HEALTH, LIMITS = "exit", "health", "limits"
"""Causes of a restart: the process ended by itself, a probe or the watchdog failed, a limit was exceeded."""


@dataclass(frozen=True, slots=True)
class History:
    """Ends in a row, the (monotonic) times of those within the breaker's window, and where the breaker stands."""

    failures: int = 0
    ends_s: tuple[float, ...] = ()
    breaker: BreakerPhase = BreakerPhase.CLOSED


@dataclass(frozen=True, slots=True)
class End:
    """One end of a process: its cause, whether it was a success, its code, how long it ran, and when it was."""

    cause: str
    ran_s: float
    now_s: float
    is_success: bool = False
    code: int | None = None
    severity: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an end means. `why` tells of what stops or delays the next start beyond the usual (else empty)."""

    event: Event
    history: History
    wait_s: float = 0.0
    why: str = ""


def end_of(last_exit: LastExit, spec: RestartSpec, ran_s: float, now_s: float) -> End:
    """Return the end of a process that ended by itself."""
    is_success = last_exit.is_success or (last_exit.signal is None and last_exit.code in spec.success_codes)
    return End(EXIT, ran_s, now_s, is_success, last_exit.code if last_exit.signal is None else None)


def decide(spec: RestartSpec, end: End, history: History, jitter: float) -> Verdict:
    """Return what an end means for the worker; `jitter` is 0..1 (0.5: none)."""
    history = _after_running(spec, history, end.ran_s)
    policy = spec.policy
    if end.code is not None and end.code in spec.final_codes:
        return Verdict(Event.EXITED_FAILED, history, why=f"code {end.code} asks for no restart")
    if policy is RestartPolicy.NEVER or (policy is RestartPolicy.ON_FAILURE and end.is_success):
        return Verdict(Event.EXITED_DONE if end.is_success else Event.EXITED_FAILED, history)
    rule = _rule(spec, end)
    if rule.max_retries is not None and history.failures >= rule.max_retries:
        why = f"gave up after {history.failures} restarts in a row (restart.max_retries)"
        return Verdict(Event.EXITED_FAILED, history, why=why)
    failures = history.failures + 1
    if spec.breaker is None:
        return Verdict(Event.EXITED_RETRY, History(failures), _wait_s(rule, spec.ceiling_s, failures, jitter))
    return _ask_breaker(spec.breaker, end, history, _wait_s(rule, spec.ceiling_s, failures, jitter), jitter)


def _ask_breaker(breaker: BreakerSpec, end: End, history: History, wait_s: float, jitter: float) -> Verdict:
    """Return the restart as the breaker lets it through, or after its cool-down."""
    recent = tuple(at_s for at_s in history.ends_s if at_s > end.now_s - breaker.window_s)
    ends_s = (*recent, end.now_s)[-(breaker.retries + 1) :]
    failures = history.failures + 1
    if history.breaker is not BreakerPhase.HALF_OPEN and len(ends_s) <= breaker.retries:
        return Verdict(Event.EXITED_RETRY, History(failures, ends_s), wait_s)
    is_trial = history.breaker is BreakerPhase.HALF_OPEN
    said = "the trial start failed too" if is_trial else f"{len(ends_s)} ends within {breaker.window_s:g} s"
    why = f"{said}: the breaker is open (restart.breaker)"
    opened = History(failures, ends_s, BreakerPhase.OPEN)
    return Verdict(Event.EXITED_RETRY, opened, _spread(max(wait_s, breaker.cooldown_s), jitter), why)


def _after_running(spec: RestartSpec, history: History, ran_s: float) -> History:
    """Return the history, forgotten after `reset_after_s` of running (the breaker's window is kept)."""
    if ran_s < spec.reset_after_s:
        return history
    return History(0, history.ends_s, BreakerPhase.CLOSED)


def _rule(spec: RestartSpec, end: End) -> RetryRule:
    own = {HEALTH: spec.health, LIMITS: spec.limits}.get(end.cause)
    rule = own or RetryRule(spec.base_s, spec.factor, spec.max_retries)
    factor = dict(spec.severities).get(end.severity, 1.0)
    if factor == 1.0:
        return rule
    retries = None if rule.max_retries is None else max(1, int(rule.max_retries * factor))
    return RetryRule(rule.base_s * factor, rule.factor, retries)


def _wait_s(rule: RetryRule, ceiling_s: float, failures: int, jitter: float) -> float:
    if failures < 1:
        raise ValueError(f"failures is {failures}, a restart follows at least one end")
    if failures == 1:
        return 0.0
    exponent = min(failures - 2, EXPONENT_LIMIT)
    return _spread(min(ceiling_s, rule.base_s * rule.factor**exponent), jitter)


def _spread(wait_s: float, jitter: float) -> float:
    return wait_s * (1 - JITTER + 2 * JITTER * jitter)


def backoff_s(spec: RestartSpec, failures: int, jitter: float) -> float:
    """Return how long to wait before the start that follows the `failures`-th end in a row, in seconds.

    The first restart is at once; then `base_s` x `factor` up to `ceiling_s`. `jitter` is 0..1 (0.5: none).
    Raises ValueError if `failures` < 1.
    """
    return _wait_s(RetryRule(spec.base_s, spec.factor), spec.ceiling_s, failures, jitter)
