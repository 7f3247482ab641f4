"""Which of a worker's slots change now: missing, lost, stopped, outdated, draining. Pure.

The floor: at every event at least `replicas - max_unavailable` instances are ready, however the plan is
interrupted, because a wave counts every slot that is not known to be available as unavailable. How a
slot changes is `moves`.
"""

from __future__ import annotations

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.moves import Mover, Slot, read_slot
from hsu_cluster.planning.slots import (
    Desired,
    WorkerTarget,
    available_at_s,
    describe_state,
    has_ended,
    is_as_desired,
    is_ready,
    is_restart_needed,
    is_serving,
    max_unavailable,
)
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.spec import WorkerSpec

NAMES_SHOWN = 3
"""Instances named in one sentence; the rest is counted."""


def plan_worker(draft: Draft, target: WorkerTarget) -> None:
    """Write into `draft` what the slots 0..replicas-1 of one worker need now."""
    if _is_settled(draft, target) and (target.app, target.spec.id) not in draft.with_busy_ports:
        return
    slots = [read_slot(draft, target, number) for number in range(target.replicas)]
    mover = Mover(draft, target)
    _move_off_lost_nodes(mover, slots)
    _place_missing(mover, slots)
    _give_other_ports(mover, slots)
    outdated = _apply_at_once(mover, slots)
    _replace_in_waves(mover, slots, outdated)
    _move_off_draining_nodes(mover, slots)


def _is_settled(draft: Draft, target: WorkerTarget) -> bool:
    """Return whether all slots have what they should, on nodes that keep it: most workers, in most passes."""
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    intent, nodes = target.intent, draft.steady_nodes
    is_plain = not intent.slot_restarts and not intent.stopped_slots
    for number in range(target.replicas):
        assignment = assigned.get(number)
        if assignment is None or assignment.node not in nodes:
            return False
        if not is_plain:
            if not is_as_desired(assignment, target.desired(number, assignment)):
                return False
        elif (
            assignment.spec_hash != target.spec_hash
            or assignment.revision != target.revision
            or assignment.generation < intent.restart_generation
            or assignment.is_stopped != intent.is_stopped
        ):
            return False
    return True


# --- lost ----------------------------------------------------------------------------------------


def _move_off_lost_nodes(mover: Mover, slots: list[Slot]) -> None:
    """Place slots of lost or removed nodes elsewhere; strict ones only when the node was removed."""
    draft = mover.draft
    moving: dict[str, list[Slot]] = {}
    braked = 0
    for slot in slots:
        if slot.assignment is None or not slot.is_lost:
            continue
        node = slot.assignment.node
        if draft.is_removed(node):
            moving.setdefault(f"node {node} was removed", []).append(slot)
        elif slot.desired.is_stopped:
            continue
        elif mover.is_strict:
            draft.wait(
                str(slot.instance),
                "strict.unfenced",
                f"{slot.instance} is strict and node {node} is lost, so it may still be running there; it is "
                f"placed elsewhere when {node} returns or is removed (`hsu-cluster node remove {node}`)",
            )
        elif draft.is_braked:
            braked += 1
        else:
            moving.setdefault(f"node {node} is lost", []).append(slot)
    if braked:
        lost, total = len(draft.lost_nodes), len(draft.view.nodes)
        draft.wait(
            mover.target.name,
            "failover.brake",
            f"{lost} of {total} nodes are lost, more than 30 %: more likely the masters are cut off than all of these "
            f"dead, so {braked} instances of {mover.target.name} are not placed elsewhere; restore the network, or "
            "remove dead nodes (`hsu-cluster node remove NODE`)",
        )
    for why in sorted(moving):
        mover.place(moving[why], why)


# --- missing -------------------------------------------------------------------------------------


def _place_missing(mover: Mover, slots: list[Slot]) -> None:
    """Place slots that have no assignment, once what the worker depends on is ready."""
    draft, target = mover.draft, mover.target
    missing = [slot for slot in slots if slot.assignment is None]
    if not missing:
        return
    blocked = _unready_dependencies(draft, target)
    free: list[Slot] = []
    for slot in missing:
        if blocked and not slot.desired.is_stopped:
            continue
        old = _old_copy(draft, slot) if mover.is_strict else None
        if old is None:
            free.append(slot)
            continue
        draft.wait(
            str(slot.instance),
            "strict.old-copy",
            f"{slot.instance} is strict and its old copy on {old.node} was last seen {old.state}; it is placed when "
            f"that has ended, or node {old.node} was removed",
        )
    if blocked and any(not slot.desired.is_stopped for slot in missing):
        draft.wait(target.name, "dependency.not-ready", "; ".join(blocked))
    mover.place(free, "new instance")


def _unready_dependencies(draft: Draft, target: WorkerTarget) -> list[str]:
    """Return a sentence for each worker of `depends_on` that has no ready instance."""
    sentences = []
    revision = draft.view.revisions[target.app, target.revision]
    for other in target.spec.depends_on:
        spec = revision.spec.worker(other)
        if spec is None or not spec.is_enabled:
            continue
        assigned = draft.assigned.get((target.app, other), {})
        condition = dict(target.spec.dependency_conditions).get(other, "healthy")
        seen = [(held, draft.status(held)) for held in assigned.values() if not draft.is_lost(held.node)]
        if any(_meets(condition, held, status, spec) for held, status in seen):
            continue
        state = "it has no instance yet"
        if assigned:
            first = assigned[min(assigned)]
            state = "it is stopped on request" if first.is_stopped else describe_state(first, draft.status(first))
        sentences.append(f"{target.name} waits until worker {other} {_CONDITIONS[condition]}: {state}")
    return sentences


_CONDITIONS = {
    "healthy": "has a ready instance",
    "started": "has a running instance",
    "completed": "has ended",
    "completed_successfully": "has ended well",
}


def _meets(condition: str, held: Assignment, status: InstanceStatus | None, spec: WorkerSpec) -> bool:
    """Return whether an instance is what those that depend on its worker wait for."""
    if condition == "healthy" or status is None or status.epoch != held.epoch:
        return condition == "healthy" and is_ready(held, status, spec)
    if condition == "started":
        return status.pid is not None or has_ended(status)
    is_over = status.state in (State.STOPPED, State.FAILED) and has_ended(status) and status.last_exit is not None
    if condition == "completed":
        return is_over
    return is_over and status.last_exit is not None and status.last_exit.is_success


def _old_copy(draft: Draft, slot: Slot) -> InstanceStatus | None:
    """Return a status that cannot exclude a live process of the slot on a node that was not removed."""
    statuses = draft.statuses.get(slot.instance, {})
    for node in sorted(statuses):
        record = draft.view.nodes.get(node)
        if record is not None and (record.state is not NodeState.READY or not has_ended(statuses[node])):
            return statuses[node]
    return None


# --- busy ports ----------------------------------------------------------------------------------


def _give_other_ports(mover: Mover, slots: list[Slot]) -> None:
    """Give other dynamic ports to slots that cannot start because another program of the host holds theirs."""
    for slot in slots:
        assignment, status = slot.assignment, slot.status
        if assignment is None or status is None or slot.is_lost or status.epoch != assignment.epoch:
            continue
        busy = [f"{name} {number}" for name, number in assignment.ports if number in status.busy_ports]
        if busy and not mover.draft.is_changed(slot.instance):
            mover.give_other_ports(slot, f"port {', '.join(busy)} is in use by another program on {assignment.node}")


# --- at once -------------------------------------------------------------------------------------


def _apply_at_once(mover: Mover, slots: list[Slot]) -> list[Slot]:
    """Change what needs no budget: stops and starts, a new revision number alone, `recreate`.

    Returns the slots that have to be replaced: another specification or generation, or their node no
    longer suits the new revision.
    """
    outdated: list[Slot] = []
    for slot in slots:
        assignment, desired = slot.assignment, slot.desired
        if assignment is None or mover.draft.is_changed(slot.instance) or is_as_desired(assignment, desired):
            continue
        if slot.is_lost and assignment.revision != desired.revision:
            continue  # whether its node suits the new revision is judged when that returns
        if not is_restart_needed(assignment, desired) and mover.keep(slot, _why_kept(assignment, desired)):
            continue
        outdated.append(slot)
        is_free = desired.is_stopped or assignment.is_stopped or mover.spec.rollout.strategy == "recreate"
        if is_free and not slot.is_lost:  # off a lost node it was moved before, or must not be
            mover.replace(slot)
    return outdated


def _why_kept(assignment: Assignment, desired: Desired) -> str:
    if assignment.is_stopped != desired.is_stopped:
        return "stopped on request" if desired.is_stopped else "started on request"
    return f"revision {desired.revision} changes nothing that runs"


# --- waves ---------------------------------------------------------------------------------------


def _replace_in_waves(mover: Mover, slots: list[Slot], outdated: list[Slot]) -> None:
    """Replace outdated slots: those that serve nothing at once, the others as the budget allows, lowest first.

    A slot that was last seen ready but is not proven available (its newest order is not reported, or
    `min_healthy` has not passed) is counted as unavailable already, so replacing it takes nothing from the
    budget; but it may serve, so it is replaced only while the floor would hold without any of these.
    """
    draft = mover.draft
    due = [
        slot
        for slot in outdated
        if not slot.desired.is_stopped and not slot.is_lost and not draft.is_changed(slot.instance)
    ]
    if not due:
        return
    active = [slot for slot in slots if not slot.desired.is_stopped]
    allowed = max_unavailable(mover.spec.rollout, len(active))
    unavailable = sum(not slot.is_available for slot in active)
    for slot in due:
        if not is_serving(slot.status) or (not slot.is_available and unavailable <= allowed):
            mover.replace(slot)
    for slot in due:
        if slot.is_available and is_serving(slot.status) and unavailable < allowed and mover.replace(slot):
            unavailable += 1
    if any(not draft.is_changed(slot.instance) for slot in due):
        _wait_for_wave(mover, active, outdated, allowed)


def _wait_for_wave(mover: Mover, active: list[Slot], outdated: list[Slot], allowed: int) -> None:
    draft, target = mover.draft, mover.target
    waiting = {slot.instance for slot in outdated if not draft.is_changed(slot.instance)}
    pending = [slot for slot in active if not slot.is_available and not draft.is_changed(slot.instance)]
    changed = sum(draft.is_changed(slot.instance) for slot in active)
    names = [
        describe_state(slot.assignment, slot.status) if slot.assignment else f"{slot.instance}: no node"
        for slot in pending[:NAMES_SHOWN]
    ]
    if len(pending) > NAMES_SHOWN:
        names.append(f"{len(pending) - NAMES_SHOWN} more")
    if changed:
        names.append(f"{changed} being changed now")
    for slot in pending:
        _retry_when_healthy(mover, slot)
    draft.wait(
        target.name,
        "rollout.wave",
        f"{len(waiting)} of {len(active)} instances of {target.name} are still to be replaced for revision "
        f"{target.revision}, at most {allowed} may be unavailable at once; waits for "
        f"{', '.join(names) or 'a node that can take them'}",
    )


def _retry_when_healthy(mover: Mover, slot: Slot) -> None:
    if slot.assignment is not None:
        at_s = available_at_s(slot.assignment, slot.status, mover.spec, mover.draft.now_s)
        if at_s is not None:
            mover.draft.retry_at(at_s)


# --- draining ------------------------------------------------------------------------------------


def _move_off_draining_nodes(mover: Mover, slots: list[Slot]) -> None:
    """Move slots off draining nodes: those that serve nothing at once, else one while all others are available."""
    draft = mover.draft
    serving: list[Slot] = []
    for slot in slots:
        if slot.assignment is None or not slot.is_draining or slot.is_lost or draft.is_changed(slot.instance):
            continue
        if is_serving(slot.status) and not slot.desired.is_stopped:
            serving.append(slot)
        else:
            mover.move(slot, f"node {slot.assignment.node} is draining")
    active = [slot for slot in slots if not slot.desired.is_stopped]
    for index, slot in enumerate(serving):
        blocking = [
            other
            for other in active
            if other is not slot and (not other.is_available or draft.is_changed(other.instance))
        ]
        if blocking:
            _wait_for_drain(mover, len(serving) - index, blocking)
            return
        assert slot.assignment is not None
        mover.move(slot, f"node {slot.assignment.node} is draining")


def _wait_for_drain(mover: Mover, count: int, blocking: list[Slot]) -> None:
    for other in blocking:
        _retry_when_healthy(mover, other)
    names = ", ".join(str(other.instance) for other in blocking[:NAMES_SHOWN])
    more = f" and {len(blocking) - NAMES_SHOWN} more" if len(blocking) > NAMES_SHOWN else ""
    mover.draft.wait(
        mover.target.name,
        "drain.one-at-a-time",
        f"{count} {'instance' if count == 1 else 'instances'} of {mover.target.name} on draining nodes move one at a "
        f"time, when all others are available; waits for {names}{more}",
    )
