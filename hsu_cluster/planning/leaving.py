"""Slots that leave a node that lives (a drain): capacity elsewhere first, then off, within the floor. Pure.

A copy is started beside them where it has a place (up to `max_surge`); when it is available, one of them moves. What
may not run twice (strict, scheduled, unmanaged, `recreate`) moves as far as `max_unavailable` allows; what runs on a
schedule moves between its runs. When the deadline of a drain is over, nothing of this is asked any more.
"""

from __future__ import annotations

from hsu_cluster.planning.layout import limits_of
from hsu_cluster.planning.moves import Slot
from hsu_cluster.planning.room import lacks_room
from hsu_cluster.planning.slots import is_serving
from hsu_cluster.planning.wave_set import NAMES_SHOWN, WaveSet, may_help_moves
from hsu_core.model.lifecycle import State

PATIENCE_S = 60.0
"""A slot that runs and has not become ready for so long is no longer waited for: the floor alone decides then."""

ON_THE_WAY = (State.REGISTERED, State.STARTING, State.RUNNING, State.STOPPING)


def force_off(found: WaveSet) -> None:
    """Take off at once what stays behind when the deadline of a drain is over."""
    for slot in found.slots + found.helpers:
        departure = slot.departure
        if departure is None or slot.is_lost or found.draft.is_changed(slot.instance):
            continue
        if departure.forced_why:
            found.mover(slot).force_off(slot, departure.forced_why)
            found.gone.add(slot.instance)
        elif departure.deadline_at is not None:
            found.draft.retry_at(departure.deadline_at)


def leaving_slots(found: WaveSet, outdated: list[Slot]) -> list[Slot]:
    """Return the slots that are to leave their node and have to be waited for; those that serve nothing move at once.

    Outdated ones are left out: they are placed elsewhere when they are replaced.
    """
    draft = found.draft
    others = {slot.instance for slot in outdated if not slot.desired.is_stopped}
    serving: list[Slot] = []
    for slot in found.slots:
        if slot.departure is None or slot.assignment is None or slot.is_lost or draft.is_changed(slot.instance):
            continue
        if slot.instance in others:
            continue
        if is_serving(slot.status) and not slot.desired.is_stopped:
            if found.target.spec.schedule is None:
                serving.append(slot)
            else:
                _wait_for_run(found, slot)
        elif slot.is_draining:
            found.mover(slot).move(slot, slot.departure.why)
    for slot in list(found.helpers):  # a helper that has to leave itself is of no use: another takes its place
        is_free = slot.assignment is not None and not is_serving(slot.status) and not draft.is_changed(slot.instance)
        if slot.departure is not None and is_free:
            found.mover(slot).move(slot, slot.departure.why)
    return serving


def _wait_for_run(found: WaveSet, slot: Slot) -> None:
    """Say that what runs on a schedule leaves between two runs: a run that is cut short has done nothing."""
    assert slot.assignment is not None
    found.draft.wait(
        str(slot.instance), "drain.run", f"{slot.instance} leaves {slot.assignment.node} when its present run has ended"
    )


def move_leaving(found: WaveSet, leaving: list[Slot]) -> None:
    """Move slots off their nodes as far as the floor allows, lowest first, and say what the others wait for."""
    no_room = _start_helpers(found, leaving)
    floor = _floor(found, no_room)
    spare = found.available - floor
    left = list(leaving)
    for slot in leaving:
        assert slot.departure is not None
        if spare < slot.is_available:
            continue
        left.remove(slot)
        if not found.mover(slot).move(slot, slot.departure.why):
            spare -= _give_helper_up(found)  # whoever looked for a place has said why there is none
        elif slot.is_available:
            found.gone.add(slot.instance)
            spare -= 1
    if left:
        _wait(found, left, floor, no_room)


def _start_helpers(found: WaveSet, leaving: list[Slot]) -> str:
    """Start copies beside those that leave, if they and one that moves have a place. Returns why there is none.

    Empty: there is one, or none is needed or allowed.
    """
    draft, target = found.draft, found.target
    if not may_help_moves(target) or not found.shape.surge:
        return ""
    available = sum(slot.is_available for slot in leaving)
    slots = found.free_helpers(min(found.shape.surge, available) - len(found.helpers))
    if not slots:
        return ""
    mover = found.mover(slots[0])
    revision = draft.view.revisions[target.app, mover.target.revision]
    why = ""
    for count in sorted({len(slots), 1}, reverse=True):
        why = lacks_room(draft.table, revision, mover.spec, count + 1)
        if not why:
            mover.place(slots[:count], "beside those that leave their node", is_optional=True)
            break
    return why


def _floor(found: WaveSet, no_room: str) -> int:
    """Return how many have to stay ready: all, while copies can be started beside them; else what the worker asks."""
    layout, active = found.layout, found.active
    _, own = limits_of(found.target.spec, found.shape.size)
    away = min(found.away, found.shape.size - own)
    floor = max(0, len(active) - found.surplus - away)
    is_helped = bool(found.helpers) or any(
        found.draft.is_changed(found.target.instance(number)) for number in found.shape.helpers
    )
    if is_helped:
        return max(floor, len(active) - sum(_is_troubled(found, slot) for slot in active))
    can_have_help = bool(found.shape.surge) and not no_room and may_help_moves(found.target)
    if away <= 0 and layout.is_fallback_allowed and not can_have_help:
        return max(0, floor - 1)  # nothing fits beside it: as with a rollout, one may be away then
    return floor


def _is_troubled(found: WaveSet, slot: Slot) -> bool:
    """Return whether an unavailable slot is not worth waiting for: it fails, or does not become ready."""
    status, assignment = slot.status, slot.assignment
    if slot.is_available or assignment is None:
        return False
    if slot.is_lost:
        return True
    if status is None or status.epoch != assignment.epoch:
        return False
    if status.restarts or status.state not in ON_THE_WAY:
        return True
    if status.state is not State.RUNNING or status.is_ready:
        return False
    if status.changed_at + PATIENCE_S <= found.draft.now_s:
        return True
    found.draft.retry_at(status.changed_at + PATIENCE_S)
    return False


def _give_helper_up(found: WaveSet) -> bool:
    """Let a copy go whose room is needed by those that it helps. Returns whether there is one less."""
    draft = found.draft
    if any(not slot.is_available or draft.is_changed(slot.instance) for slot in found.slots + found.helpers):
        return False
    for slot in found.helpers[:1]:
        if slot.assignment is not None:
            draft.drop(slot.assignment, "its room is needed by those that leave their node")
            found.gone.add(slot.instance)
            return True
    return False


def _wait(found: WaveSet, left: list[Slot], floor: int, no_room: str) -> None:
    nodes = sorted({slot.assignment.node for slot in left if slot.assignment is not None})
    named = ", ".join(nodes[:NAMES_SHOWN]) + (
        f" and {len(nodes) - NAMES_SHOWN} more" if len(nodes) > NAMES_SHOWN else ""
    )
    count = f"{len(left)} {'instance' if len(left) == 1 else 'instances'} of {found.target.name}"
    waits = found.describe_pending()
    if waits:
        why = f"waits for {waits}"
    elif no_room:
        why = f"no copy fits beside (max_unavailable is {found.away}): {no_room}"
    else:
        why = f"max_unavailable is {found.away} and max_surge leaves no copy beside"
    found.draft.wait(
        found.target.name,
        "drain.waits",
        f"{count} {'is' if len(left) == 1 else 'are'} still to leave {named}, at least {floor} stay ready; {why}",
    )
