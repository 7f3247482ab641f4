"""How one slot changes: kept, replaced on its node, placed elsewhere, or (strict) vacated first. Pure.

`waves` decides which slots may change now; this module finds their place and writes the action. It keeps
the node table true: the room of a slot that cannot change is given back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hsu_cluster.planning.departure import Departure
from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.drops import may_drop
from hsu_cluster.planning.node_table import Demand, fits, misfit, pick_ports
from hsu_cluster.planning.reasons import unplaced_reason
from hsu_cluster.planning.schedule import PlacementRequest, place
from hsu_cluster.planning.slots import (
    Desired,
    WorkerTarget,
    available_at_s,
    is_serving,
)
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import NodeState
from hsu_core.model.spec import Guarantee


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot with all that is known of it."""

    instance: InstanceId
    desired: Desired
    assignment: Assignment | None
    status: InstanceStatus | None
    is_available: bool
    is_lost: bool
    departure: Departure | None = None

    @property
    def is_draining(self) -> bool:
        """Return whether it must not stay on its node."""
        return self.departure is not None and not self.departure.to


def read_slot(draft: Draft, target: WorkerTarget, number: int, present: WorkerTarget | None = None) -> Slot:
    """Return what the view holds of slot `number` that is to become `target`; `present`: what it runs now."""
    assignment = draft.assigned.get((target.app, target.spec.id), {}).get(number)
    desired = target.desired(number, assignment)
    if assignment is None:
        return Slot(target.instance(number), desired, None, None, False, False)
    status = draft.status(assignment)
    since_s = available_at_s(assignment, status, present or target, draft.now_s)
    is_lost = draft.is_lost(assignment.node)
    return Slot(
        instance=assignment.instance,
        desired=desired,
        assignment=assignment,
        status=status,
        is_available=since_s is not None and since_s <= draft.now_s and not is_lost,
        is_lost=is_lost,
        departure=draft.departure(assignment),
    )


class Mover:
    """Writes the changes of one worker's slots into a draft."""

    def __init__(self, draft: Draft, target: WorkerTarget) -> None:
        self.draft = draft
        self.target = target
        self.spec = target.spec
        self.is_strict = target.spec.guarantee is Guarantee.STRICT
        self._full_why = ""
        self._full_for_patient_why = ""

    @cached_property
    def demand(self) -> Demand:
        """Return what one instance needs of a node."""
        return self.draft.table.demand(self.target.app, self.spec)

    @cached_property
    def avoided(self) -> frozenset[str]:
        """Return the nodes where instances of what this worker is to run kept failing."""
        draft, target = self.draft, self.target
        return frozenset(
            node
            for assignment in draft.assigned.get((target.app, target.spec.id), {}).values()
            if assignment.avoided and assignment.spec_hash == target.spec_hash
            for node, until_s in assignment.avoided
            if until_s > draft.now_s
        )

    def keep(self, slot: Slot, why: str) -> bool:
        """Change the order of a slot and leave its process where and what it is. Returns whether it does.

        With a new revision its node must still suit (room, ports, conditions); this is asked once, when the
        revision changes: a label or a capacity that changes later evicts nobody.
        """
        assignment = slot.assignment
        assert assignment is not None
        if assignment.revision != slot.desired.revision:
            table = self.draft.table
            entry = table.by_name.get(assignment.node)
            held = table.release(slot.instance)
            if entry is None or not fits(entry, self.demand):
                if held is not None:
                    table.reserve(slot.instance, *held)
                return False
            table.reserve(slot.instance, assignment.node, self.spec.resources, assignment.ports)
        self.draft.put(slot.instance, assignment.node, slot.desired, assignment.ports, why)
        return True

    def replace(self, slot: Slot) -> bool:
        """Give a slot its new order, on its node where that still fits, else on another. Returns whether it changes.

        Off a node that it is to leave, if it has another place: a rollout does not wait for a drain.
        """
        assignment = slot.assignment
        assert assignment is not None
        why = _why_replaced(slot)
        if slot.departure is not None and slot.is_draining:
            return self.move(slot, f"{why}; {slot.departure.why}") or self._replace_here(slot, why)
        return self._replace_here(slot, why) or self.move(slot, f"{why}; {assignment.node} no longer suits")

    def _replace_here(self, slot: Slot, why: str) -> bool:
        assignment, table = slot.assignment, self.draft.table
        assert assignment is not None
        entry = table.by_name.get(assignment.node)
        if entry is None or entry.state is NodeState.LOST or self.draft.is_changed(slot.instance):
            return False
        held = table.release(slot.instance)
        if fits(entry, self.demand):
            ports = pick_ports(entry, self.demand, slot.instance, assignment.ports)
            table.reserve(slot.instance, entry.name, self.spec.resources, ports)
            self.draft.put(slot.instance, entry.name, slot.desired, ports, why)
            return True
        if held is not None:
            table.reserve(slot.instance, *held)
        return False

    def give_other_ports(self, slot: Slot, why: str) -> bool:
        """Give a slot that has no process other dynamic ports of its node. Returns whether it changes."""
        assignment = slot.assignment
        assert assignment is not None
        table = self.draft.table
        entry = table.by_name.get(assignment.node)
        if entry is None or all(port.number for port in self.spec.ports):
            return False
        held = table.release(slot.instance)
        if fits(entry, self.demand):
            busy = slot.status.busy_ports if slot.status is not None else ()
            ports = pick_ports(entry, self.demand, slot.instance, assignment.ports, beyond=max(busy) if busy else None)
            table.reserve(slot.instance, entry.name, self.spec.resources, ports)
            self.draft.put(slot.instance, entry.name, slot.desired, ports, why)
            return True
        if held is not None:
            table.reserve(slot.instance, *held)
        return False

    def demote(self, slot: Slot, until_s: float, why: str) -> bool:
        """Move a slot off a node where it fails, and remember that. Returns whether it has another, better place."""
        assignment, table = slot.assignment, self.draft.table
        assert assignment is not None
        avoided = self.avoided | {assignment.node}
        held = table.release(slot.instance)
        result = place(table, [PlacementRequest(self.spec, (slot.instance,), is_patient=True, avoided=avoided)])
        if slot.instance not in result.placed:
            if held is not None:
                table.reserve(slot.instance, *held)
            return False
        node, ports = result.placed[slot.instance]
        new = ((assignment.node, until_s),)
        self.draft.put(slot.instance, node, slot.desired, ports, why, avoided=new, code="NodeDemoted")
        return True

    def take_back(self, slot: Slot, original: InstanceStatus, why: str) -> bool:
        """Assign a slot to the node where its original still runs, with its ports. Returns whether that has room."""
        assignment, table = slot.assignment, self.draft.table
        assert assignment is not None
        entry = table.by_name.get(original.node)
        if entry is None or {name for name, _ in original.ports} != {port.name for port in self.spec.ports}:
            return False
        held = table.release(slot.instance)
        numbers = [number for _, number in original.ports if number in entry.ports]
        for number in numbers:
            entry.free_port(number)  # the table counts them as a stranger's
        if fits(entry, self.demand) and not any(number in entry.ports for _, number in original.ports):
            table.reserve(slot.instance, entry.name, self.spec.resources, original.ports)
            self.draft.put(
                slot.instance, entry.name, slot.desired, original.ports, why,
                beside="" if slot.is_lost else assignment.node,
            )  # fmt: skip
            return True
        for number in numbers:
            entry.hold_port(number)
        if held is not None:
            table.reserve(slot.instance, *held)
        return False

    def move(self, slot: Slot, why: str) -> bool:
        """Move a slot to another node (strict: take it off its own). Returns whether it changes."""
        if slot.departure is not None and slot.departure.to:
            return self._move_to(slot, slot.departure.to, why)
        return self._vacate(slot) if self.is_strict else bool(self.place([slot], why))

    def _move_to(self, slot: Slot, node: str, why: str) -> bool:
        """Move a slot to this node alone, if it still has room and is open. Returns whether it changes."""
        table = self.draft.table
        entry = table.by_name.get(node)
        is_open = entry is not None and entry in table.eligible(self.demand.constraints)
        if entry is None or not is_open or misfit(entry, self.demand) is not None:
            self.draft.wait(
                str(slot.instance), "rebalance.no-room", f"{slot.instance} does not move: {node} has no room any more"
            )
            return False
        table.release(slot.instance)
        ports = pick_ports(entry, self.demand, slot.instance)
        table.reserve(slot.instance, node, self.spec.resources, ports)
        self.draft.put(slot.instance, node, slot.desired, ports, why)
        return True

    def force_off(self, slot: Slot, why: str) -> None:
        """Take a slot off its node whatever that costs: to another node, or (no room, strict) to none for now."""
        assignment = slot.assignment
        assert assignment is not None
        if self.is_strict:
            self._vacate(slot, why)
        elif not self.place([slot], f"{slot.instance} is taken off {assignment.node}: {why}"):
            self.draft.drop(assignment, f"{slot.instance} is taken off {assignment.node} and has no other place: {why}")

    def place(self, slots: Sequence[Slot], why: str, *, is_optional: bool = False) -> int:
        """Place slots anywhere; one that fits nowhere keeps what it has. Returns how many change.

        That an optional slot has no place is no trouble of the app.
        """
        if not slots:
            return 0
        note = self._note_no_room if is_optional else self._note_unplaced
        is_patient = all(_is_patient(slot) for slot in slots)
        if full_why := self._full_why or (self._full_for_patient_why if is_patient else ""):
            for slot in slots:
                note(slot, full_why)
            return 0
        table = self.draft.table
        held = {slot.instance: table.release(slot.instance) for slot in slots}
        request = PlacementRequest(self.spec, tuple(slot.instance for slot in slots), is_patient, self.avoided)
        result = place(table, [request])
        if result.unplaced and is_patient and table.cooling_until_s is not None:
            self.draft.retry_at(table.cooling_until_s)
        for slot in slots:
            if slot.instance in result.placed:
                node, ports = result.placed[slot.instance]
                gone = slot.assignment.node if slot.assignment is not None and slot.is_lost else ""
                self.draft.put(slot.instance, node, slot.desired, ports, why, is_extra=is_optional, replaces=gone)
                continue
            old = held[slot.instance]
            if old is not None:
                table.reserve(slot.instance, *old)
            full_why = result.unplaced[slot.instance]
            if is_patient:
                self._full_for_patient_why = full_why
            else:
                self._full_why = full_why
            note(slot, full_why)
        return len(result.placed)

    def _vacate(self, slot: Slot, forced_why: str = "") -> bool:
        """First step of a strict move: the assignment goes, if another node could take it. Returns whether it does.

        `forced_why`: why it goes even if there is no such node.
        """
        assignment = slot.assignment
        assert assignment is not None
        if not may_drop(self.draft, assignment):
            self.draft.wait(
                str(slot.instance),
                "strict.unseen",
                f"{slot.instance} is strict and {assignment.node} has not reported its newest order yet, so it may be "
                "running there; it moves once the node has reported it",
            )
            return False
        if not self._full_why and not forced_why:
            trial = InstanceId(slot.instance.namespace, slot.instance.app, slot.instance.worker, -1)
            if place(self.draft.table, [PlacementRequest(self.spec, (trial,))]).placed:
                self.draft.table.release(trial)
            else:
                self._full_why = unplaced_reason(self.draft.table, self.demand)
        if self._full_why and not forced_why:
            self._note_unplaced(slot, self._full_why)
            return False
        told = f"{slot.instance} is strict and leaves {assignment.node}"
        told += f" ({forced_why})" if forced_why else ""
        self.draft.drop(assignment, f"{told}; it is placed again when its process has ended")
        return True

    def _note_unplaced(self, slot: Slot, reason: str) -> None:
        if slot.departure is not None and not slot.departure.forced_why and slot.assignment is not None:
            self.draft.wait(
                str(slot.instance),
                "drain.no-room",
                f"{slot.instance} stays on {slot.assignment.node}, no other node can take it: {reason}; add or free a "
                f"node, lower what worker {self.spec.id} asks for, or give the drain a --deadline",
            )
            return
        self.draft.unplaced(slot.instance, reason)
        self.draft.wait(
            str(slot.instance),
            "schedule.unplaced",
            f"cannot place {slot.instance}: {reason}; add or free a node, or lower what worker {self.spec.id} asks for",
        )

    def _note_no_room(self, slot: Slot, reason: str) -> None:
        self.draft.wait(
            self.target.name,
            "rollout.no-room",
            f"no instance of {self.target.name} can be started beside those that are replaced: {reason}",
        )


def _is_patient(slot: Slot) -> bool:
    """Return whether an instance that leaves its node serves there meanwhile, so that it can wait for a good place."""
    departure = slot.departure
    return departure is not None and not departure.forced_why and is_serving(slot.status)


def _why_replaced(slot: Slot) -> str:
    assert slot.assignment is not None
    if slot.assignment.revision != slot.desired.revision:
        return f"revision {slot.assignment.revision} to {slot.desired.revision}"
    return "restart on request"
