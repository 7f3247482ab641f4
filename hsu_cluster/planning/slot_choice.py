"""Which slots of a set run the new revision, which the old: as many as the rollout says, changing the fewest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, SlotSet
from hsu_cluster.planning.rollout_math import proportional
from hsu_cluster.planning.slots import WorkerTarget, is_serving
from hsu_core.model.assignment import Assignment


def choose(draft: Draft, layout: Layout, shape: SlotSet) -> dict[int, WorkerTarget]:
    """Return the target of every slot of a set."""
    new, old, fresh = layout.new, layout.old, shape.fresh
    if new is None or old is None or new.spec_hash == old.spec_hash:
        target = replace(layout.target, base=shape.base)
        return dict.fromkeys(shape.slots, target)
    new, old = replace(new, base=shape.base), replace(old, base=shape.base)
    assigned = draft.assigned.get((new.app, new.spec.id), {})
    if fresh == 0:
        return dict.fromkeys(shape.slots, old)
    missing = [number for number in shape.slots if number not in assigned]
    counts = {
        new.revision: sum(new.is_run_by(assigned[number]) for number in shape.slots if number in assigned),
        old.revision: sum(old.is_run_by(assigned[number]) for number in shape.slots if number in assigned),
    }
    is_paused = fresh is None
    if is_paused or (fresh == shape.size and missing and counts[old.revision]):
        # what a `scale` adds while a rollout is on its way is shared out like what is there
        share = proportional(counts, sum(counts.values()) + len(missing))[new.revision]
        if is_paused:
            fresh = share
        else:
            added = max(0, share - counts[new.revision])
            return {number: old if number in missing[added:] else new for number in shape.slots}
    assert fresh is not None
    if fresh >= shape.size:
        return dict.fromkeys(shape.slots, new)
    order = sorted(shape.slots, key=lambda number: _reluctance(draft, new, old, assigned, number, layout.replicas))
    chosen = frozenset(order[:fresh])
    return {number: new if number in chosen else old for number in shape.slots}


def _reluctance(
    draft: Draft, new: WorkerTarget, old: WorkerTarget, assigned: Mapping[int, Assignment], number: int, replicas: int
) -> tuple[int, int]:
    """Return how late a slot is made one of the new revision: what runs it stays, then what costs least."""
    assignment = assigned.get(number)
    if assignment is not None and new.is_run_by(assignment):
        return (0 if is_serving(draft.status(assignment)) else 1), number
    if number - new.base >= replicas:
        return 2, number  # a slot beside those of the stable revision: nothing has to be stopped for it
    if assignment is None or not old.is_run_by(assignment):
        return 3, number
    return (5 if is_serving(draft.status(assignment)) else 4), number


def helper_target(layout: Layout, shape: SlotSet) -> WorkerTarget:
    """Return what the slots that help run: the new revision, or the old one where the new has its share already."""
    target = layout.target
    if not shape.is_surge_new and layout.old is not None:
        target = layout.old
    return replace(target, base=shape.base)
