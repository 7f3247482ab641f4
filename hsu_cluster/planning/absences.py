"""Slots that nothing runs for: on lost nodes, without a node, or kept from starting by somebody's port. Pure."""

from __future__ import annotations

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.moves import Mover, Slot
from hsu_cluster.planning.slots import WorkerTarget, describe_state, has_ended, is_ready
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.spec import WorkerSpec

# --- lost ----------------------------------------------------------------------------------------


def move_off_lost_nodes(mover: Mover, slots: list[Slot]) -> None:
    """Place slots of lost or removed nodes elsewhere; strict ones only once they surely run there no more."""
    draft = mover.draft
    moving: dict[str, list[Slot]] = {}
    braked = 0
    for slot in slots:
        if slot.assignment is None or not slot.is_lost or draft.is_changed(slot.instance):
            continue  # it is where it is, or goes for another reason
        node = slot.assignment.node
        if draft.is_removed(node):
            moving.setdefault(f"node {node} was removed", []).append(slot)
        elif slot.desired.is_stopped:
            continue
        elif node in draft.brake.nodes:
            braked += 1
        elif mover.is_strict and (unfenced := draft.why_unfenced(node)) is not None:
            draft.wait(str(slot.instance), unfenced[0], _unfenced(slot, node, *unfenced))
        else:
            moving.setdefault(f"node {node} is lost", []).append(slot)
    if braked:
        if draft.brake.until_s is not None:
            draft.retry_at(draft.brake.until_s)
        draft.wait(
            mover.target.name,
            "failover.brake",
            f"{draft.brake.text}, so {braked} instances of {mover.target.name} are not placed elsewhere; restore the "
            "network, or remove dead nodes (`hsu-cluster node remove NODE`)",
        )
    for why in sorted(moving):
        mover.place(moving[why], why)


def _unfenced(slot: Slot, node: str, code: str, why: str) -> str:
    head = f"{slot.instance} is strict and may still be running on node {node}, which is lost: {why}"
    if code == "strict.lease":
        return f"{head}; it is placed elsewhere then"
    return f"{head}; it is placed elsewhere when {node} returns or is removed (`hsu-cluster node remove {node}`)"


# --- missing -------------------------------------------------------------------------------------


def place_missing(mover: Mover, slots: list[Slot]) -> None:
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
    """Return a status that cannot exclude a live process of the slot on a node that was not removed.

    On a lost node nothing strict is left once its lease is over, whatever the status says.
    """
    statuses = draft.statuses.get(slot.instance, {})
    for node in sorted(statuses):
        record = draft.view.nodes.get(node)
        if record is None or (record.state is NodeState.READY and has_ended(statuses[node])):
            continue
        if record.state is not NodeState.LOST or draft.why_unfenced(node) is not None:
            return statuses[node]
    return None


# --- busy ports ----------------------------------------------------------------------------------


def give_other_ports(mover: Mover, slots: list[Slot]) -> None:
    """Give other dynamic ports to slots that cannot start because another program of the host holds theirs."""
    for slot in slots:
        assignment, status = slot.assignment, slot.status
        if assignment is None or status is None or slot.is_lost or status.epoch != assignment.epoch:
            continue
        busy = [f"{name} {number}" for name, number in assignment.ports if number in status.busy_ports]
        if busy and not mover.draft.is_changed(slot.instance):
            mover.give_other_ports(slot, f"port {', '.join(busy)} is in use by another program on {assignment.node}")
