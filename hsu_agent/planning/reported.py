"""What is reported of an instance: the status made of what the agent holds. Pure."""

from __future__ import annotations

from hsu_agent.planning.observed import Desired, Observed, is_ready
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.restarts import BreakerPhase


def status_of(observed: Observed, desired: Desired | None, node: str) -> InstanceStatus:
    """Return what is reported of the instance; it speaks of the order that its process was started for."""
    order = observed.order or desired
    if desired is not None and order is not None and not _has_process(observed):
        order = desired
    assignment = order.assignment if order is not None else None
    has_process = observed.is_alive and observed.process is not None
    return InstanceStatus(
        instance=observed.instance,
        node=node,
        epoch=assignment.epoch if assignment else 0,
        state=observed.state,
        is_ready=is_ready(observed),
        revision=assignment.revision if assignment else 0,
        spec_hash=assignment.spec_hash if assignment else "",
        generation=assignment.generation if assignment else 0,
        pid=observed.process.pid if has_process and observed.process else None,
        restarts=observed.restarts,
        last_exit=observed.last_exit,
        started_at=observed.process.started_at if has_process and observed.process else None,
        ports=assignment.ports if assignment else (),
        reason=observed.reason,
        changed_at=observed.changed_at,
        busy_ports=observed.busy_ports if observed.order is desired else (),
        has_processes=_has_process(observed) or _may_start(observed, desired),
        breaker="" if observed.breaker is BreakerPhase.CLOSED else str(observed.breaker),
        failures=observed.failures,
    )


def _has_process(observed: Observed) -> bool:
    return observed.is_alive or not observed.is_tree_empty or observed.hooks.running is not None


def _may_start(observed: Observed, desired: Desired | None) -> bool:
    """Return whether a strict instance could start by itself, so that its slot is not free."""
    return desired is not None and desired.is_strict and desired.wants_process and not observed.has_finished
