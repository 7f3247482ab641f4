"""Which of a worker's slots change now: missing, lost, stopped, outdated, leaving their node. Pure.

The floor: at every event at least `replicas - max_unavailable` instances are ready, however the plan is
interrupted, because a wave counts every slot that is not known to be available as unavailable. Which revision a
slot is to run is `slot_choice`, how it changes is `moves`, how it leaves a node that lives is `leaving`.
"""

from __future__ import annotations

from dataclasses import replace

from hsu_cluster.planning.absences import give_other_ports, move_off_lost_nodes, place_missing
from hsu_cluster.planning.demotion import move_off_failing_nodes
from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, SlotSet
from hsu_cluster.planning.leaving import force_off, leaving_slots, move_leaving
from hsu_cluster.planning.moves import Mover, Slot
from hsu_cluster.planning.returns import take_back_originals
from hsu_cluster.planning.slots import (
    Desired,
    has_ended,
    is_as_desired,
    is_restart_needed,
    is_serving,
)
from hsu_cluster.planning.wave_set import WaveSet, read_set
from hsu_core.model.assignment import Assignment


def plan_worker(draft: Draft, layout: Layout) -> None:
    """Write into `draft` what the slots of one worker need now."""
    target = layout.target
    name = (target.app, target.spec.id)
    is_odd = name in draft.with_busy_ports or name in draft.with_originals or name in draft.with_failing
    if not is_odd and _is_settled(draft, layout):
        return
    for shape in layout.sets:
        _plan_set(read_set(draft, layout, shape))


def _plan_set(found: WaveSet) -> None:
    every = found.slots + found.helpers
    groups = found.groups(every)
    force_off(found)
    for mover, slots in groups:
        take_back_originals(mover, slots)
        move_off_lost_nodes(mover, slots)
        place_missing(mover, slots)
        give_other_ports(mover, slots)
    move_off_failing_nodes(found)
    if found.shape.is_recreated and _stop_all_first(found):
        return
    if found.layout.is_back:
        _dismiss_failed_helpers(found)
    outdated = [slot for mover, slots in groups for slot in _apply_at_once(mover, slots, found.shape)]
    outdated.sort(key=lambda slot: slot.instance)
    _replace_in_waves(found, outdated)


def _is_settled(draft: Draft, layout: Layout) -> bool:
    """Return whether all slots have what they should, on nodes that keep it: most workers, in most passes."""
    if layout.old is not None or len(layout.sets) != 1:
        return False
    shape = layout.sets[0]
    target = replace(layout.target, base=shape.base) if shape.base else layout.target
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    if len(assigned) != shape.size:
        return False
    if draft.moving and (target.app.namespace, target.app.app, target.spec.id) in draft.moving_workers:
        return False
    intent, nodes = target.intent, draft.steady_nodes
    is_plain = not intent.slot_restarts and not intent.stopped_slots
    for number in shape.slots:
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


# --- recreate ------------------------------------------------------------------------------------


def _stop_all_first(found: WaveSet) -> bool:
    """Stop every process of another version, and say whether one may still be there: all stop before any starts."""
    draft = found.draft
    others = [
        slot
        for slot in found.slots
        if slot.assignment is not None and slot.assignment.spec_hash != slot.desired.spec_hash and not slot.is_lost
    ]
    waiting = False
    for slot in others:
        held, status = slot.assignment, slot.status
        assert held is not None
        if held.is_stopped and status is not None and status.epoch == held.epoch and has_ended(status):
            continue
        waiting = True
        if not held.is_stopped:
            stopped = Desired(held.revision, held.spec_hash, held.generation, True)
            draft.put(held.instance, held.node, stopped, held.ports, "recreate: all stop before any starts")
    if waiting:
        draft.wait(
            found.target.name,
            "rollout.recreate",
            f"all instances of {found.target.name} stop before the first of revision {found.target.revision} starts",
        )
    return waiting


# --- at once -------------------------------------------------------------------------------------


def _apply_at_once(mover: Mover, slots: list[Slot], shape: SlotSet) -> list[Slot]:
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
        is_free = desired.is_stopped or assignment.is_stopped or shape.is_recreated
        if is_free and not slot.is_lost:  # off a lost node it was moved before, or must not be
            mover.replace(slot)
    return outdated


def _why_kept(assignment: Assignment, desired: Desired) -> str:
    if assignment.is_stopped != desired.is_stopped:
        return "stopped on request" if desired.is_stopped else "started on request"
    return f"revision {desired.revision} changes nothing that runs"


# --- waves ---------------------------------------------------------------------------------------


def _replace_in_waves(found: WaveSet, outdated: list[Slot]) -> None:
    """Replace outdated slots: those that serve nothing at once, the others as the floor allows, lowest first.

    Helpers are started beside them first, where the rollout has any. A slot that was last seen ready but is not proven
    available (its newest order is not reported, or `min_healthy` has not passed) is not counted on, so replacing it
    takes nothing from the floor; but it may serve, so it is replaced only while the floor would hold without any of
    these. What is left of the budget is for slots that leave their node.
    """
    draft = found.draft
    leaving = leaving_slots(found, outdated)
    due = [
        slot
        for slot in outdated
        if not slot.desired.is_stopped and not slot.is_lost and not draft.is_changed(slot.instance)
    ]
    if due:
        _replace_due(found, due, outdated)
    if leaving:
        move_leaving(found, leaving)
    if not due and not leaving:
        _dismiss_helpers(found)


def _replace_due(found: WaveSet, due: list[Slot], outdated: list[Slot]) -> None:
    floor = found.floor
    if not _start_helpers(found, due) and not found.away and found.layout.is_fallback_allowed:
        floor = max(0, floor - 1)
    spare = found.available - floor
    for slot in due:
        if not is_serving(slot.status) or (not slot.is_available and spare >= 0):
            found.mover(slot).replace(slot)
    for slot in due:
        if slot.is_available and is_serving(slot.status) and spare > 0 and found.mover(slot).replace(slot):
            found.gone.add(slot.instance)
            spare -= 1
    if any(not found.draft.is_changed(slot.instance) for slot in due):
        _wait_for_wave(found, outdated, floor)


def _start_helpers(found: WaveSet, due: list[Slot]) -> bool:
    """Start instances beside those that need another process, up to the surge. Returns whether there are any."""
    shape = found.shape
    others = [
        slot
        for slot in due
        if slot.assignment is not None
        and slot.is_available
        and (slot.assignment.spec_hash != slot.desired.spec_hash or not found.layout.is_fallback_allowed)
    ]
    held = bool(found.helpers)
    if not shape.is_surge_new and found.layout.replicas > shape.floor:
        return held  # enough may be away: a helper of the old revision would prove nothing
    slots = found.free_helpers(min(len(shape.helpers), len(others)) - len(found.helpers))
    if not slots:
        return held
    mover = found.mover(slots[0])
    return bool(mover.place(slots, "beside those that are replaced", is_optional=True)) or held


def _dismiss_helpers(found: WaveSet) -> None:
    """Let the helpers go once every slot has what it should and is available."""
    draft = found.draft
    pending = [slot for slot in found.active if not slot.is_available or draft.is_changed(slot.instance)]
    for slot in pending:
        found.retry_when_healthy(slot)
    if pending:
        return
    for slot in found.helpers:
        if slot.assignment is not None and not draft.is_changed(slot.instance):
            draft.drop(slot.assignment, "all slots are available again")


def _dismiss_failed_helpers(found: WaveSet) -> None:
    """Let helpers of the failed revision go that serve nothing: making them stable ones would be of no use."""
    for slot in list(found.helpers):
        held = slot.assignment
        if held is not None and held.spec_hash != slot.desired.spec_hash and not slot.is_available:
            found.draft.drop(held, f"back to revision {slot.desired.revision}")
            found.helpers.remove(slot)


def _wait_for_wave(found: WaveSet, outdated: list[Slot], floor: int) -> None:
    draft, target = found.draft, found.target
    waiting = {slot.instance for slot in outdated if not draft.is_changed(slot.instance)}
    draft.wait(
        target.name,
        "rollout.wave",
        f"{len(waiting)} of {len(found.active)} instances of {target.name} are still to be replaced for revision "
        f"{target.revision}, at least {floor} stay available; waits for "
        f"{found.describe_pending() or 'a node that can take them'}",
    )
