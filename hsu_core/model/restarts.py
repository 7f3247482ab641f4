"""When and how fast an ended worker starts again, as its manifest says it. Pure; the rules are the agent's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RestartPolicy(StrEnum):
    """When an ended worker is started again by itself."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class BreakerPhase(StrEnum):
    """Where a breaker stands: `closed` lets restarts through, `open` none, `half-open` a single trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class RetryRule:
    """Rhythm of restarts for one cause: `base_s` x `factor` for each in a row; at most `max_retries` (None: no end)."""

    base_s: float
    factor: float
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """After more than `retries` restarts within `window_s` none is made for `cooldown_s`, then one on trial.

    The defaults are HSU's (Rust): a cool-down of five minutes; the window is as long.
    """

    retries: int = 3
    window_s: float = 300.0
    cooldown_s: float = 300.0


@dataclass(frozen=True, slots=True)
class RestartSpec:
    """When and how fast an ended worker starts again.

    First restart at once, then `base_s` x `factor` up to `ceiling_s` with +-20 % jitter; the count goes
    back to zero after `reset_after_s` of running. `max_retries` None: never give up. `health` and `limits`
    replace base, factor and retries where a probe or a limit asked for the restart. In the first `grace_s` of
    each process failing liveness probes and exceeded limits are passed over. Exit codes in `success_codes` count
    as success (beside 0), after one of `final_codes` there is no restart. `severities` (name, factor) stretch
    the waits and the retries of a restart that a limit asked for.
    """

    policy: RestartPolicy = RestartPolicy.ON_FAILURE
    base_s: float = 0.5
    factor: float = 2.0
    ceiling_s: float = 60.0
    reset_after_s: float = 30.0
    max_retries: int | None = None
    health: RetryRule | None = None
    limits: RetryRule | None = None
    breaker: BreakerSpec | None = None
    grace_s: float = 0.0
    success_codes: tuple[int, ...] = ()
    final_codes: tuple[int, ...] = ()
    severities: tuple[tuple[str, float], ...] = ()


DEFAULT_RESTART = RestartSpec()
