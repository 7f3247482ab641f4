"""One set of slots as a wave sees it: slots, helpers, and how many of them may be away. Pure.

Restarts, rollouts, drains and moves share this one budget: what is away for any reason counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, SlotSet, limits_of, may_run_twice
from hsu_cluster.planning.moves import Mover, Slot, read_slot
from hsu_cluster.planning.slot_choice import choose, helper_target
from hsu_cluster.planning.slots import WorkerTarget, available_at_s, describe_state
from hsu_core.model.ids import InstanceId

NAMES_SHOWN = 3
"""Instances named in one sentence; the rest is counted."""


@dataclass(slots=True)
class WaveSet:
    """One set of slots while it is planned: its slots and helpers, each with the mover of its target."""

    draft: Draft
    layout: Layout
    shape: SlotSet
    slots: list[Slot]
    helpers: list[Slot]
    movers: dict[int, Mover]
    gone: set[InstanceId] = field(default_factory=set)
    """What this pass takes away although it is available."""

    @property
    def target(self) -> WorkerTarget:
        """Return what the worker is to become."""
        return self.layout.target

    @property
    def active(self) -> list[Slot]:
        """Return the slots that nobody has stopped."""
        return [slot for slot in self.slots if not slot.desired.is_stopped]

    @property
    def away(self) -> int:
        """Return how many of the instances that people asked for may be away."""
        return self.layout.replicas - self.shape.floor

    @property
    def surplus(self) -> int:
        """Return how many slots there are beyond what people asked for."""
        return max(0, self.shape.size - self.layout.replicas)

    @property
    def floor(self) -> int:
        """Return how many stay ready while slots are replaced."""
        return max(0, len(self.active) - self.surplus - self.away)

    @property
    def available(self) -> int:
        """Return how many are available and stay so in this pass, helpers included."""
        every = [slot for slot in self.slots + self.helpers if not slot.desired.is_stopped]
        return sum(slot.is_available and slot.instance not in self.gone for slot in every)

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

    def free_helpers(self, wanted: int) -> list[Slot]:
        """Return so many slots that may help and do not yet."""
        held = {slot.instance.slot for slot in self.helpers}
        missing = [number for number in self.shape.helpers if number not in held][: max(0, wanted)]
        return [read_slot(self.draft, self.movers[number].target, number) for number in missing]

    def retry_when_healthy(self, slot: Slot) -> None:
        """Ask for another look when a slot that is ready has been so for long enough."""
        if slot.assignment is not None:
            present = self.layout.target_of(slot.assignment, self.shape)
            at_s = available_at_s(slot.assignment, slot.status, present, self.draft.now_s)
            if at_s is not None:
                self.draft.retry_at(at_s)

    def pending(self) -> list[Slot]:
        """Return what is neither available nor being changed now."""
        every = self.active + self.helpers
        return [slot for slot in every if not slot.is_available and not self.draft.is_changed(slot.instance)]

    def describe_pending(self) -> str:
        """Return in a few words what is waited for (empty: nothing)."""
        pending = self.pending()
        changed = sum(self.draft.is_changed(slot.instance) for slot in self.active + self.helpers)
        names = [
            describe_state(slot.assignment, slot.status) if slot.assignment else f"{slot.instance}: no node"
            for slot in pending[:NAMES_SHOWN]
        ]
        if len(pending) > NAMES_SHOWN:
            names.append(f"{len(pending) - NAMES_SHOWN} more")
        if changed:
            names.append(f"{changed} being changed now")
        for slot in pending:
            self.retry_when_healthy(slot)
        return ", ".join(names)


def read_set(draft: Draft, layout: Layout, shape: SlotSet) -> WaveSet:
    """Return what the view holds of one set of a worker's slots."""
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
    return WaveSet(draft, layout, shape, slots, helpers, by_number)


def with_helpers(draft: Draft, layouts: Sequence[Layout]) -> list[Layout]:
    """Return the layouts with room for helping slots where instances leave their node, or still help."""
    return [_with_helpers(draft, layout) for layout in layouts]


def _with_helpers(draft: Draft, layout: Layout) -> Layout:
    if len(layout.sets) != 1 or layout.new is None:
        return layout
    shape, target = layout.sets[0], layout.target
    if shape.surge or shape.is_recreated:
        return layout
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    surge, _ = limits_of(target.spec, layout.replicas)
    surge = max(0, surge - max(0, shape.size - layout.replicas)) if may_help_moves(target) else 0
    helpers = range(shape.base + shape.size, shape.base + shape.size + surge)
    is_needed = any(number in assigned and assigned[number].is_extra for number in helpers) or (
        draft.has_departures and any(draft.departure(one) is not None for one in assigned.values())
    )
    return replace(layout, sets=(replace(shape, surge=surge),)) if surge and is_needed else layout


def may_help_moves(target: WorkerTarget) -> bool:
    """Return whether a copy may run beside an instance that moves to another node."""
    return may_run_twice(target.spec) and target.spec.rollout.strategy != "recreate"
