"""How an instance is ended: signal, grace, kill of the whole tree, proof that it is empty. Pure."""

from __future__ import annotations

from hsu_agent.planning.observed import Desired, Observed
from hsu_core.model.spec import StopSpec

UNKNOWN_ORDER = StopSpec(grace_s=5.0)
"""For a process whose specification is not known any more (it was found by its mark)."""


def rule(order: Desired | None) -> StopSpec:
    """Return the signal and grace of an order."""
    return order.spec.worker.stop if order is not None else UNKNOWN_ORDER


def longest_s(order: Desired) -> float:
    """Return the longest that a stop of an order takes by its own rules, in seconds: grace and post_stop."""
    after = order.spec.worker.hooks.post_stop
    return order.spec.worker.stop.grace_s + (after.timeout_s if after is not None else 0.0)


def may_kill(observed: Observed) -> bool:
    """Return whether the process may be killed at all: of an unmanaged one its specification says it."""
    unmanaged = observed.order.spec.worker.unmanaged if observed.order is not None else None
    return unmanaged is None or (unmanaged.can_terminate and unmanaged.may_send("SIGKILL"))


def is_kill_due(observed: Observed, now_s: float) -> bool:
    """Return whether what is left of a stopping instance is to be killed: its first process ended or grace is over."""
    if observed.is_tree_empty or observed.is_killing or (observed.is_alive and not may_kill(observed)):
        return False
    return not observed.is_alive or observed.stop_deadline_s is None or now_s >= observed.stop_deadline_s
