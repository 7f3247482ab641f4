"""A node on which one revision keeps failing while it is well elsewhere: the slot moves, the node is avoided. Pure.

A node can be bad for one program alone: a library, a file or a device that is missing, a broken disk. Bounded, so
that a revision that is broken everywhere does not wander: it must be ready on another node at this moment, one
slot moves at a time, and no more than DEMOTED_LIMIT nodes are avoided at once. Only at rest; while a revision is
rolled out its failures are the rollout's to judge.
"""

from __future__ import annotations

from hsu_cluster.planning.layout import may_run_twice
from hsu_cluster.planning.moves import Slot
from hsu_cluster.planning.slots import has_failed
from hsu_cluster.planning.wave_set import NAMES_SHOWN, WaveSet
from hsu_core.model.node import NodeState
from hsu_core.model.quantity import format_duration

AVOIDED_S = 600.0
"""How long a node is avoided for a revision that failed there: time to mend it, and few enough moves if it stays."""

DEMOTED_LIMIT = 3
"""Most nodes avoided for one worker at once: if it fails on more of them, the nodes are not the trouble."""


def move_off_failing_nodes(found: WaveSet) -> None:
    """Move one slot that keeps failing on its node to another, if the same revision is well elsewhere."""
    draft, target = found.draft, found.target
    name = (target.app, target.spec.id)
    if name not in draft.with_failing or found.layout.old is not None or not may_run_twice(target.spec):
        return
    for slot in found.slots:
        if not _is_failing(found, slot):
            continue
        assert slot.assignment is not None
        assert slot.status is not None
        node, number = slot.assignment.node, slot.assignment.revision
        well = sorted(_well_elsewhere(found, node))
        mover = found.mover(slot)
        if not well:
            continue
        names = ", ".join(well[:NAMES_SHOWN]) + (", ..." if len(well) > NAMES_SHOWN else "")
        trouble = (
            f"{slot.instance.short} failed {slot.status.failures} starts on {node} while the same is ready on {names}"
        )
        if len(mover.avoided | {node}) > DEMOTED_LIMIT:
            why = (
                f"{DEMOTED_LIMIT} nodes are avoided for revision {number} already: look at the worker, not at the nodes"
            )
            draft.wait(str(slot.instance), "demotion.limit", f"{trouble}; it stays, as {why}")
            continue
        kept = f"{node} is avoided for revision {number} for {format_duration(AVOIDED_S)}"
        if mover.demote(slot, draft.now_s + AVOIDED_S, f"{trouble}: moved, and {kept}"):
            return
        draft.wait(str(slot.instance), "demotion.no-room", f"{trouble}; it stays, as no other node can take it")


def _is_failing(found: WaveSet, slot: Slot) -> bool:
    status, assignment = slot.status, slot.assignment
    if status is None or assignment is None or slot.is_lost or slot.desired.is_stopped or status.busy_ports:
        return False
    if found.draft.is_changed(slot.instance) or status.epoch != assignment.epoch:
        return False
    return assignment.spec_hash == slot.desired.spec_hash and has_failed(status)


def _well_elsewhere(found: WaveSet, node: str) -> set[str]:
    """Return the other nodes on which the same specification is available now."""
    return {
        slot.assignment.node
        for slot in found.slots
        if slot.assignment is not None
        and slot.assignment.node != node
        and slot.is_available
        and slot.assignment.spec_hash == slot.desired.spec_hash
        and found.draft.view.nodes[slot.assignment.node].state is NodeState.READY
    }
