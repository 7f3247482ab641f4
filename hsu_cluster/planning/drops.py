"""What goes away: assignments nobody asks for any more, and statuses that mean nothing. Pure.

Runs before and after the placement of a pass: room is given back first, and a status is forgotten
only when the same pass does not assign its slot to that node again.
"""

from __future__ import annotations

from collections.abc import Sequence

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout
from hsu_cluster.planning.rollout_math import BASE_STEP
from hsu_cluster.planning.slots import has_ended
from hsu_core.model.assignment import Assignment
from hsu_core.model.ids import AppId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.spec import Guarantee


def plan_drops(draft: Draft, layouts: Sequence[Layout]) -> None:
    """Drop assignments of removed apps, removed or disabled workers, and slots that no set of the worker has."""
    wanted = {(layout.target.app, layout.target.spec.id): layout for layout in layouts}
    for app, worker in sorted(draft.assigned):
        if app in draft.held:
            continue
        layout = wanted.get((app, worker))
        slots = draft.assigned[app, worker]
        sets = layout.sets if layout is not None else ()
        for slot in sorted(slots, reverse=True):
            if any(slot in one.slots or slot in one.helpers for one in sets):
                continue
            assignment = slots[slot]
            if _may_be_unseen(draft, assignment):
                draft.wait(
                    str(assignment.instance),
                    "strict.unseen",
                    f"{assignment.instance} is strict and {assignment.node} has not reported it yet, so it may be "
                    "running; it is taken away once the node has reported it or was removed",
                )
                continue
            draft.drop(assignment, _why(draft, layout, app, worker, slot))
            del slots[slot]


def may_drop(draft: Draft, assignment: Assignment) -> bool:
    """Return whether dropping the slot leaves a trace of the process that may run: its status.

    What was known of a node before it was lost is none once it is back: it is being told to run the slot.
    """
    status, record = draft.status(assignment), draft.view.nodes.get(assignment.node)
    if status is None or status.epoch < assignment.epoch:
        return False
    return status.state is not State.UNKNOWN or record is None or record.state is not NodeState.READY


def plan_forgotten(draft: Draft) -> None:
    """Forget statuses of slots that are not assigned to their node and have ended, or whose node was removed.

    A status on a lost node stays until the node returns or is removed: the old copy may be running.
    """
    for instance in sorted(draft.statuses):
        if instance.app_id in draft.held:
            continue
        current = draft.view.assignments.get(instance)
        for node in sorted(draft.statuses[instance]):
            if draft.put_node(instance) == node:
                continue
            status = draft.statuses[instance][node]
            record = draft.view.nodes.get(node)
            if record is None and not draft.is_removed(node):
                continue
            if record is None:
                draft.forget(status, f"node {node} was removed")
                continue
            is_assigned = current is not None and current.node == node
            if not is_assigned and record.state is NodeState.READY and has_ended(status):
                draft.forget(status, f"{instance} has ended on {node} and is not assigned to it")


def _may_be_unseen(draft: Draft, assignment: Assignment) -> bool:
    """Return whether a strict process could run without a status to show for it."""
    revision = draft.view.revisions.get((assignment.instance.app_id, assignment.revision))
    spec = revision.spec.worker(assignment.instance.worker) if revision else None
    if spec is None or spec.guarantee is not Guarantee.STRICT:
        return False
    return not draft.is_removed(assignment.node) and not may_drop(draft, assignment)


def _why(draft: Draft, layout: Layout | None, app: AppId, worker: str, slot: int) -> str:
    if app not in draft.view.apps:
        return f"app {app} was removed"
    if layout is None:
        return f"revision {draft.view.apps[app].revision} has no worker {worker}"
    if layout.is_back:
        return f"back to revision {layout.old.revision if layout.old else 0}"
    if not layout.target.spec.is_enabled:
        return f"worker {worker} is disabled"
    first = min((one.base for one in layout.sets), default=0)
    if first <= slot < first + BASE_STEP:
        return f"scaled down to {layout.replicas}"
    return f"the set of revision {layout.target.revision} has taken over"
