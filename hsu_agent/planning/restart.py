"""When an ended worker starts again, and how long it waits before. Pure."""

from __future__ import annotations

from hsu_core.model.assignment import LastExit
from hsu_core.model.lifecycle import Event
from hsu_core.model.spec import RestartPolicy, RestartSpec

JITTER = 0.2
"""Part by which a wait is shortened or lengthened, so that workers that fell together do not rise together."""

EXPONENT_LIMIT = 64
"""Doublings after which every ceiling is reached; keeps the power finite for any counter."""


def backoff_s(spec: RestartSpec, failures: int, jitter: float) -> float:
    """Return how long to wait before the start that follows the `failures`-th end in a row, in seconds.

    The first restart is at once; then `base_s` x `factor` up to `ceiling_s`. `jitter` is 0..1 (0.5: none).
    Raises ValueError if `failures` < 1.
    """
    if failures < 1:
        raise ValueError(f"failures is {failures}, a restart follows at least one end")
    if failures == 1:
        return 0.0
    exponent = min(failures - 2, EXPONENT_LIMIT)
    return min(spec.ceiling_s, spec.base_s * spec.factor**exponent) * (1 - JITTER + 2 * JITTER * jitter)


def failures_after(spec: RestartSpec, failures: int, ran_s: float) -> int:
    """Return the counter of ends in a row: forgotten after `reset_after_s` of running."""
    return 0 if ran_s >= spec.reset_after_s else failures


def verdict(spec: RestartSpec, last_exit: LastExit, failures: int) -> Event:
    """Return what the end of a worker means, after `failures` automatic restarts in a row."""
    is_success = last_exit.is_success
    if spec.policy is RestartPolicy.NEVER or (spec.policy is RestartPolicy.ON_FAILURE and is_success):
        return Event.EXITED_DONE if is_success else Event.EXITED_FAILED
    if not has_retries_left(spec, failures):
        return Event.EXITED_FAILED
    return Event.EXITED_RETRY


def has_retries_left(spec: RestartSpec, failures: int) -> bool:
    """Return whether another automatic restart is allowed."""
    return spec.max_retries is None or failures < spec.max_retries
