"""What has become of a worker's sets: how many run the new revision, are available, fail. Pure.

The rollout's state machine reads these figures and nothing else of the instances.
"""

from __future__ import annotations

from dataclasses import dataclass

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, SlotSet
from hsu_cluster.planning.slot_choice import choose
from hsu_cluster.planning.slots import available_at_s, describe_state, has_ended, is_as_desired, is_ready
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.lifecycle import State


@dataclass(frozen=True, slots=True)
class SetFacts:
    """One set. `fresh`: run the new revision; `settled`: nothing is left to be done; `pending`: what is waited for."""

    size: int
    fresh: int = 0
    fresh_available: int = 0
    ready: int = 0
    available: int = 0
    old: int = 0
    stopped: int = 0
    is_settled: bool = False
    pending: str = ""
    retry_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker. `failures`: early ends of new instances that are not available; `failing`: the first of them."""

    sets: tuple[SetFacts, ...]
    failures: int = 0
    failing: str = ""

    @property
    def progress(self) -> tuple[int, int, int, int]:
        """Return (updated, old that are gone, ready, available): more of any of these is progress."""
        return (
            sum(one.fresh for one in self.sets),
            -sum(one.old for one in self.sets),
            sum(one.ready for one in self.sets),
            sum(one.available for one in self.sets),
        )


def worker_facts(draft: Draft, layout: Layout) -> WorkerFacts:
    """Return the facts of a worker as its layout has it."""
    failures, failing, has_given_up = _failures(draft, layout)
    sets = tuple(_set_facts(draft, layout, shape) for shape in layout.sets)
    if has_given_up and layout.new is not None:
        failures = max(failures, layout.new.spec.rollout.max_failures)
    return WorkerFacts(sets, failures, failing)


def _set_facts(draft: Draft, layout: Layout, shape: SlotSet) -> SetFacts:
    target = layout.target
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    chosen = choose(draft, layout, shape)
    fresh = fresh_available = ready = available = old = stopped = 0
    pending, settled, retry_at_s = "", True, None
    for number in (*shape.slots, *(number for number in shape.helpers if number in assigned)):
        assignment = assigned.get(number)
        is_helper = number not in shape.slots
        if assignment is None:
            settled = False
            pending = pending or f"{target.instance(number)} has no node yet"
            continue
        status, present = draft.status(assignment), layout.target_of(assignment, shape)
        is_new = layout.new is not None and layout.new.is_run_by(assignment)
        is_old = not is_new and layout.old is not None
        since_s = None if draft.is_lost(assignment.node) else available_at_s(assignment, status, present, draft.now_s)
        is_available = since_s is not None and since_s <= draft.now_s
        if since_s is not None and not is_available:
            retry_at_s = since_s if retry_at_s is None else min(retry_at_s, since_s)
        fresh += is_new
        old += is_old
        ready += is_ready(assignment, status, present.spec) and since_s is not None
        available += is_available
        fresh_available += is_available and is_new
        if is_helper:
            settled = False
            pending = pending or f"{assignment.instance} still helps"
            continue
        desired = chosen[number].desired(number, assignment)
        has_stopped = desired.is_stopped and status is not None and has_ended(status)
        stopped += has_stopped
        if not (is_as_desired(assignment, desired) and (is_available or has_stopped)):
            settled = False
            pending = pending or describe_state(assignment, status)
    if stopped and not fresh_available and layout.old is not None and shape.fresh and not layout.is_back:
        settled = False  # nothing of the new revision has been seen to work
        pending = pending or f"{target.name}"
    stopped = stopped if not fresh_available else 0
    return SetFacts(shape.size, fresh, fresh_available, ready, available, old, stopped, settled, pending, retry_at_s)


def _failures(draft: Draft, layout: Layout) -> tuple[int, str, bool]:
    """Return how often instances of the new revision ended early, which is the first, and whether one has given up."""
    new = layout.new
    if new is None or layout.is_back or (layout.old is not None and layout.old.spec_hash == new.spec_hash):
        return 0, "", False
    count, first, has_given_up = 0, "", False
    assigned = draft.assigned.get((new.app, new.spec.id), {})
    for assignment in (assigned[number] for number in sorted(assigned)):
        status = draft.status(assignment)
        if not new.is_run_by(assignment) or status is None or status.epoch != assignment.epoch:
            continue
        if assignment.is_stopped or draft.is_lost(assignment.node):
            continue
        since_s = available_at_s(assignment, status, new, draft.now_s)
        if since_s is not None and since_s <= draft.now_s:
            continue
        ended = status.restarts + (status.state in (State.RESTARTING, State.FAILED))
        if ended:
            count += ended
            first = first or _how_it_ended(assignment, status)
            has_given_up = has_given_up or status.state is State.FAILED
    return count, first, has_given_up


def _how_it_ended(assignment: Assignment, status: InstanceStatus) -> str:
    last = status.last_exit
    if last is None or (last.code is None and last.signal is None):
        return describe_state(assignment, status)
    how = last.signal or f"code {last.code}"
    reason = f" ({last.reason})" if last.reason else ""
    return f"{assignment.instance.worker}.{assignment.instance.slot} on {assignment.node} ended with {how}{reason}"
