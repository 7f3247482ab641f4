"""Which of a worker's slots change now: missing, lost, stopped, outdated, draining. Pure.

The floor: at every event at least `replicas - max_unavailable` instances are ready, however the plan is
interrupted, because a wave counts every slot that is not known to be available as unavailable. Which revision a
slot is to run is `slot_choice`, how it changes is `moves`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hsu_cluster.planning.absences import give_other_ports, move_off_lost_nodes, place_missing
from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, SlotSet
from hsu_cluster.planning.moves import Mover, Slot, read_slot
from hsu_cluster.planning.slot_choice import choose, helper_target
from hsu_cluster.planning.slots import (
    Desired,
    WorkerTarget,
    available_at_s,
    describe_state,
    has_ended,
    is_as_desired,
    is_restart_needed,
    is_serving,
)
from hsu_core.model.assignment import Assignment

NAMES_SHOWN = 3
"""Instances named in one sentence; the rest is counted."""


@dataclass(slots=True)
class _Set:
    """One set of slots while it is planned: its slots and helpers, each with the mover of its target."""

    draft: Draft
    layout: Layout
    shape: SlotSet
    slots: list[Slot]
    helpers: list[Slot]
    movers: dict[int, Mover]

    @property
    def target(self) -> WorkerTarget:
        """Return what the worker is to become."""
        return self.layout.target

    def mover(self, slot: Slot) -> Mover:
        """Return the mover for a slot's target."""
        return self.movers[slot.instance.slot]

    def groups(self, slots: list[Slot]) -> list[tuple[Mover, list[Slot]]]:
        """Return slots by their movers, in the order of their numbers."""
        found: dict[int, tuple[Mover, list[Slot]]] = {}
        for slot in slots:
            mover = self.mover(slot)
            found.setdefault(id(mover), (mover, []))[1].append(slot)
        return list(found.values())


def plan_worker(draft: Draft, layout: Layout) -> None:
    """Write into `draft` what the slots of one worker need now."""
    target = layout.target
    if _is_settled(draft, layout) and (target.app, target.spec.id) not in draft.with_busy_ports:
        return
    for shape in layout.sets:
        _plan_set(_read_set(draft, layout, shape))


def _read_set(draft: Draft, layout: Layout, shape: SlotSet) -> _Set:
    assigned = draft.assigned.get((layout.target.app, layout.target.spec.id), {})
    chosen = choose(draft, layout, shape)
    helper = helper_target(layout, shape)
    movers: dict[tuple[int, str], Mover] = {}

    def mover_of(target: WorkerTarget) -> Mover:
        return movers.setdefault((target.revision, target.spec_hash), Mover(draft, target))

    slots: list[Slot] = []
    helpers: list[Slot] = []
    by_number: dict[int, Mover] = {}
    for number in (*shape.slots, *(number for number in shape.helpers if number in assigned)):
        is_helper = number not in shape.slots
        target = helper if is_helper else chosen[number]
        present = layout.target_of(assigned.get(number), shape)
        (helpers if is_helper else slots).append(read_slot(draft, target, number, present))
        by_number[number] = mover_of(target)
    for number in shape.helpers:
        by_number.setdefault(number, mover_of(helper))
    return _Set(draft, layout, shape, slots, helpers, by_number)


def _plan_set(found: _Set) -> None:
    every = found.slots + found.helpers
    groups = found.groups(every)
    for mover, slots in groups:
        move_off_lost_nodes(mover, slots)
        place_missing(mover, slots)
        give_other_ports(mover, slots)
    if found.shape.is_recreated and _stop_all_first(found):
        return
    if found.layout.is_back:
        _dismiss_failed_helpers(found)
    outdated = [slot for mover, slots in groups for slot in _apply_at_once(mover, slots, found.shape)]
    outdated.sort(key=lambda slot: slot.instance)
    _replace_in_waves(found, outdated)
    _move_off_draining_nodes(found)


def _is_settled(draft: Draft, layout: Layout) -> bool:
    """Return whether all slots have what they should, on nodes that keep it: most workers, in most passes."""
    if layout.old is not None or len(layout.sets) != 1:
        return False
    shape = layout.sets[0]
    target = replace(layout.target, base=shape.base) if shape.base else layout.target
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    if len(assigned) != shape.size:
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


def _stop_all_first(found: _Set) -> bool:
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


def _replace_in_waves(found: _Set, outdated: list[Slot]) -> None:
    """Replace outdated slots: those that serve nothing at once, the others as the floor allows, lowest first.

    Helpers are started beside them first, where the rollout has any. A slot that was last seen ready but is not proven
    available (its newest order is not reported, or `min_healthy` has not passed) is not counted on, so replacing it
    takes nothing from the floor; but it may serve, so it is replaced only while the floor would hold without any of
    these.
    """
    draft, shape = found.draft, found.shape
    due = [
        slot
        for slot in outdated
        if not slot.desired.is_stopped and not slot.is_lost and not draft.is_changed(slot.instance)
    ]
    active = [slot for slot in found.slots if not slot.desired.is_stopped]
    away = found.layout.replicas - shape.floor
    floor = max(0, len(active) - max(0, shape.size - found.layout.replicas) - away)
    available = sum(slot.is_available for slot in found.slots + found.helpers if not slot.desired.is_stopped)
    if not due:
        _dismiss_helpers(found, active, available, floor)
        return
    if not _start_helpers(found, due) and not away and found.layout.is_fallback_allowed:
        floor = max(0, floor - 1)
    spare = available - floor
    for slot in due:
        if not is_serving(slot.status) or (not slot.is_available and spare >= 0):
            found.mover(slot).replace(slot)
    for slot in due:
        if slot.is_available and is_serving(slot.status) and spare > 0 and found.mover(slot).replace(slot):
            spare -= 1
    if any(not draft.is_changed(slot.instance) for slot in due):
        _wait_for_wave(found, active, outdated, floor)


def _start_helpers(found: _Set, due: list[Slot]) -> bool:
    """Start instances beside those that need another process, up to the surge. Returns whether there are any."""
    shape = found.shape
    others = [
        slot
        for slot in due
        if slot.assignment is not None
        and slot.is_available
        and (slot.assignment.spec_hash != slot.desired.spec_hash or not found.layout.is_fallback_allowed)
    ]
    held = {slot.instance.slot for slot in found.helpers}
    if not shape.is_surge_new and found.layout.replicas > shape.floor:
        return bool(held)  # enough may be away: a helper of the old revision would prove nothing
    wanted = min(len(shape.helpers), len(others)) - len(held)
    missing = [number for number in shape.helpers if number not in held][: max(0, wanted)]
    if not missing:
        return bool(held)
    mover = found.movers[missing[0]]
    slots = [read_slot(found.draft, mover.target, number) for number in missing]
    return bool(mover.place(slots, "beside those that are replaced", is_optional=True)) or bool(held)


def _dismiss_helpers(found: _Set, active: list[Slot], available: int, floor: int) -> None:
    """Let the helpers go once every slot has what it should and is available."""
    draft = found.draft
    pending = [slot for slot in active if not slot.is_available or draft.is_changed(slot.instance)]
    for slot in pending:
        _retry_when_healthy(found, slot)
    if pending:
        return
    for slot in found.helpers:
        if slot.assignment is not None and not draft.is_changed(slot.instance):
            draft.drop(slot.assignment, "all slots are available again")


def _dismiss_failed_helpers(found: _Set) -> None:
    """Let helpers of the failed revision go that serve nothing: making them stable ones would be of no use."""
    for slot in list(found.helpers):
        held = slot.assignment
        if held is not None and held.spec_hash != slot.desired.spec_hash and not slot.is_available:
            found.draft.drop(held, f"back to revision {slot.desired.revision}")
            found.helpers.remove(slot)


def _wait_for_wave(found: _Set, active: list[Slot], outdated: list[Slot], floor: int) -> None:
    draft, target = found.draft, found.target
    waiting = {slot.instance for slot in outdated if not draft.is_changed(slot.instance)}
    every = active + found.helpers
    pending = [slot for slot in every if not slot.is_available and not draft.is_changed(slot.instance)]
    changed = sum(draft.is_changed(slot.instance) for slot in every)
    names = [
        describe_state(slot.assignment, slot.status) if slot.assignment else f"{slot.instance}: no node"
        for slot in pending[:NAMES_SHOWN]
    ]
    if len(pending) > NAMES_SHOWN:
        names.append(f"{len(pending) - NAMES_SHOWN} more")
    if changed:
        names.append(f"{changed} being changed now")
    for slot in pending:
        _retry_when_healthy(found, slot)
    draft.wait(
        target.name,
        "rollout.wave",
        f"{len(waiting)} of {len(active)} instances of {target.name} are still to be replaced for revision "
        f"{target.revision}, at least {floor} stay available; waits for "
        f"{', '.join(names) or 'a node that can take them'}",
    )


def _retry_when_healthy(found: _Set, slot: Slot) -> None:
    if slot.assignment is not None:
        present = found.layout.target_of(slot.assignment, found.shape)
        at_s = available_at_s(slot.assignment, slot.status, present, found.draft.now_s)
        if at_s is not None:
            found.draft.retry_at(at_s)


# --- draining ------------------------------------------------------------------------------------


def _move_off_draining_nodes(found: _Set) -> None:
    """Move slots off draining nodes: those that serve nothing at once, else one while all others are available."""
    draft, slots = found.draft, found.slots
    serving: list[Slot] = []
    for slot in slots:
        if slot.assignment is None or not slot.is_draining or slot.is_lost or draft.is_changed(slot.instance):
            continue
        if is_serving(slot.status) and not slot.desired.is_stopped:
            serving.append(slot)
        else:
            found.mover(slot).move(slot, f"node {slot.assignment.node} is draining")
    active = [slot for slot in slots if not slot.desired.is_stopped]
    for index, slot in enumerate(serving):
        blocking = [
            other
            for other in active
            if other is not slot and (not other.is_available or draft.is_changed(other.instance))
        ]
        if blocking:
            _wait_for_drain(found, len(serving) - index, blocking)
            return
        assert slot.assignment is not None
        found.mover(slot).move(slot, f"node {slot.assignment.node} is draining")


def _wait_for_drain(found: _Set, count: int, blocking: list[Slot]) -> None:
    for other in blocking:
        _retry_when_healthy(found, other)
    names = ", ".join(str(other.instance) for other in blocking[:NAMES_SHOWN])
    more = f" and {len(blocking) - NAMES_SHOWN} more" if len(blocking) > NAMES_SHOWN else ""
    found.draft.wait(
        found.target.name,
        "drain.one-at-a-time",
        f"{count} {'instance' if count == 1 else 'instances'} of {found.target.name} on draining nodes move one at a "
        f"time, when all others are available; waits for {names}{more}",
    )
