"""Originals on nodes that were lost and are back: which copy of a slot stays. Pure.

By default the replacement does, and the agent stops the original when it gets its orders. With `on_return:
keep-original` the original takes its slot back if nothing has happened to it: it runs, is ready and is what the slot
should run. It is given the order first; the replacement is stopped when the original has confirmed it
(`Assignment.beside`). The leader holds the orders of the node back until this is decided, so it asks the same question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hsu_cluster.planning.moves import Mover, Slot
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.spec import Guarantee, OnReturn, WorkerSpec
from hsu_core.model.view import ClusterView


def take_back_originals(mover: Mover, slots: list[Slot]) -> None:
    """Assign slots to the nodes where their originals still run, as far as their worker wants it."""
    draft = mover.draft
    for slot in slots:
        assignment = slot.assignment
        if assignment is None or not assignment.replaces or draft.is_changed(slot.instance):
            continue
        original = draft.statuses.get(slot.instance, {}).get(assignment.replaces)
        desired = slot.desired
        is_same = (assignment.spec_hash, assignment.generation) == (desired.spec_hash, desired.generation)
        if is_same and not desired.is_stopped and is_taken_back(draft.view, assignment, mover.spec, original):
            assert original is not None
            mover.take_back(slot, original, f"node {original.node} is back and its instance still runs (on_return)")


def is_taken_back(
    view: ClusterView, replacement: Assignment, spec: WorkerSpec | None, original: InstanceStatus | None
) -> bool:
    """Return whether the original that a replacement was placed for takes its slot back.

    Not on a node that was lost twice in a row: the instance would move at each turn of a flapping link. Nor on one
    that is to be emptied or takes nothing new.
    """
    if spec is None or spec.on_return is not OnReturn.KEEP_ORIGINAL or spec.guarantee is Guarantee.STRICT:
        return False
    if original is None or replacement.is_stopped or original.node != replacement.replaces:
        return False
    node, intent = view.nodes.get(original.node), view.node_intents.get(original.node)
    if node is None or node.state is not NodeState.READY or node.flaps > 1:
        return False
    if intent is not None and (intent.is_cordoned or intent.is_draining):
        return False
    is_same = (original.spec_hash, original.generation) == (replacement.spec_hash, replacement.generation)
    return is_same and original.state is State.RUNNING and original.is_ready


def has_claims(
    view: ClusterView, node: str, instances: Collection[InstanceId], reported: Mapping[InstanceId, InstanceStatus]
) -> bool:
    """Return whether an original that the agent of `node` reports will take its slot back, and has not yet.

    `instances` are those that were placed elsewhere when the node was lost.
    """
    for instance in instances:
        replacement, original = view.assignments[instance], reported.get(instance)
        revision = view.revisions.get((instance.app_id, replacement.revision))
        spec = revision.spec.worker(instance.worker) if revision is not None else None
        if is_taken_back(view, replacement, spec, original and replace(original, node=node)):
            return True
    return False


def is_awaited(view: ClusterView, assignment: Assignment | None, node: str) -> bool:
    """Return whether the copy of a slot on `node` runs on, until the original that took its slot back has confirmed it.

    For no longer than the original's node lives.
    """
    if assignment is None or assignment.beside != node or assignment.node == node:
        return False
    record, status = view.nodes.get(assignment.node), view.statuses.get((assignment.instance, assignment.node))
    return (
        record is not None and record.state is NodeState.READY and (status is None or status.epoch < assignment.epoch)
    )
