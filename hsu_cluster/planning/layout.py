"""Which slots a worker has and which revision each set of them runs, from the record of its rollout. Pure.

Readers (health, lists) and the planner ask the same function, so they never differ on which slots should exist.
Which slots change first is `waves`; how far a rollout is, is `rollout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hsu_cluster.planning.rollout_math import canary_counts, fenceposts, routed_canary_count
from hsu_cluster.planning.slots import WorkerTarget, target_of
from hsu_core.model.assignment import AppRecord, Assignment, Revision
from hsu_core.model.ids import AppId
from hsu_core.model.rollout import Rollout, Stage, WorkerRollout
from hsu_core.model.rollout_spec import MIN_HEALTHY_S
from hsu_core.model.spec import Guarantee, WorkerSpec

ALL = 100
"""Percent of the traffic when the new revision has all of it."""

Revisions = Mapping[tuple[AppId, int], Revision]


@dataclass(frozen=True, slots=True)
class SlotSet:
    """The slots `base` to `base + size - 1`, and those above them that help while slots are replaced.

    `fresh`: how many of them run the new revision (None: as many as do now, and no more). At most `surge` slots help;
    `unavailable` of `replicas` may be away, on the floor of `floor` ready ones.
    """

    base: int
    size: int
    fresh: int | None
    surge: int = 0
    floor: int = 0
    is_surge_new: bool = True
    is_recreated: bool = False

    @property
    def slots(self) -> range:
        """Return the numbers of its slots."""
        return range(self.base, self.base + self.size)

    @property
    def helpers(self) -> range:
        """Return the numbers of the slots that may help."""
        return range(self.base + self.size, self.base + self.size + self.surge)


@dataclass(frozen=True, slots=True)
class Layout:
    """One worker: its target(s) and sets. `old` is there while two revisions are; `is_back`: it returns to `old`."""

    new: WorkerTarget | None
    old: WorkerTarget | None
    sets: tuple[SlotSet, ...]
    is_back: bool = False
    is_fallback_allowed: bool = True
    """Whether one instance may be away when nothing can be placed beside it."""

    @property
    def target(self) -> WorkerTarget:
        """Return what the worker is to become."""
        target = self.old if self.is_back or self.new is None else self.new
        if target is None:  # a worker of the failed revision alone: it goes
            target = self.new
        assert target is not None
        return target

    @property
    def replicas(self) -> int:
        """Return how many instances people asked for."""
        if self.is_back and self.old is None:
            return 0
        return self.target.replicas

    @property
    def wanted_slots(self) -> Iterable[int]:
        """Return the slots that should exist when nothing is on its way."""
        return [slot for slots in self.sets for slot in slots.slots]

    def target_of(self, assignment: Assignment | None, slots: SlotSet) -> WorkerTarget:
        """Return the target that a slot's present order belongs to; of no order: of what the set is to run."""
        if assignment is not None:
            for target in (self.new, self.old):
                if target is not None and target.is_run_by(assignment):
                    return replace(target, base=slots.base)
        chosen = self.old if slots.fresh == 0 and slots.size and self.old is not None else self.target
        return replace(chosen, base=slots.base)


def base_of(rollout: Rollout | None, worker: str) -> int:
    """Return the first slot of the set that serves: the new one once it was promoted."""
    part = rollout.worker(worker) if rollout is not None else None
    if rollout is None or part is None:
        return 0
    return part.new_base if part.is_promoted and not rollout.is_going_back else part.stable_base


def index_of(rollout: Rollout | None, worker: str, slot: int) -> int:
    """Return the place of a slot in its set, from 0: what people ask of a slot is kept by it, whatever set serves."""
    part = rollout.worker(worker) if rollout is not None else None
    bases = (part.stable_base, part.new_base) if part is not None else (0,)
    return slot - max((base for base in bases if base <= slot), default=0)


def traffic_of(rollout: Rollout | None, part: WorkerRollout | None) -> int:
    """Return the percent of the traffic that the new of two sets is to have now."""
    if rollout is None or part is None or rollout.is_going_back:
        return 0
    return ALL if part.is_promoted else part.traffic


def is_routed(revision: Revision | None, worker: str) -> bool:
    """Return whether a provider shares out the traffic of a worker."""
    return revision is not None and any(
        route.worker == worker and route.provider is not None for route in revision.spec.routes
    )


def app_layouts(record: AppRecord, revisions: Revisions, rollout: Rollout) -> tuple[Layout, ...]:
    """Return the layout of every worker of the app; `rollout` must be that of the record's revision."""
    new = revisions.get((record.id, rollout.revision))
    old = revisions.get((record.id, rollout.stable))
    names = [spec.id for spec in new.spec.workers] if new is not None else []
    if old is not None and not (rollout.is_over and not rollout.is_going_back):
        names += [spec.id for spec in old.spec.workers if spec.id not in names]
    layouts = (_layout(record, new, old, rollout, name) for name in names)
    return tuple(layout for layout in layouts if layout is not None)


def _layout(
    record: AppRecord, new_revision: Revision | None, old_revision: Revision | None, rollout: Rollout, worker: str
) -> Layout | None:
    new = target_of(record, new_revision, worker) if new_revision is not None else None
    old = target_of(record, old_revision, worker) if old_revision is not None else None
    part = rollout.worker(worker) or WorkerRollout(worker, "rolling", Stage.DONE)
    is_replacing = old is not None and not rollout.is_over
    if new is not None and is_replacing and part.strategy != "in-place":
        rule = new.spec.rollout
        new = replace(new, min_healthy_s=rule.min_healthy_s if rule.is_min_healthy_given else MIN_HEALTHY_S)
    if rollout.is_going_back:
        return _way_back(new, old, rollout, part)
    if new is None or (part.strategy == "remove" and part.stage is not Stage.DONE):
        return _departing(old, part)
    replicas = new.replicas
    if part.stage in (Stage.DONE, Stage.PROMOTED) or old is None or part.strategy in ("initial", "in-place"):
        return _at_rest(new, old, part)
    surge, floor = limits_of(new.spec, replicas)
    is_firm = is_floor_firm(new.spec, surge)
    if part.stage is Stage.WAITING:
        shape = SlotSet(part.stable_base, replicas, 0, surge, floor, False)
        return Layout(new, old, (shape,), is_fallback_allowed=not is_firm)
    if part.has_two_sets:
        replicas = min(replicas, abs(part.new_base - part.stable_base))  # the sets must not run into each other
        second = SlotSet(part.new_base, second_size(new.spec, part, replicas), None, 0, 0)
        second = replace(second, fresh=second.size)
        first = SlotSet(part.stable_base, replicas, 0, surge, floor, False)
        return Layout(new, old, (first, second), is_fallback_allowed=not is_firm)
    is_recreated = part.strategy == "recreate"
    surge = 0 if is_recreated else surge
    fresh: int | None = replicas
    size, is_canary = replicas, part.stage is Stage.STEPS
    if is_canary:
        fresh, stable = canary_counts(replicas, part.weight, surge)
        size = fresh + stable
        surge = max(0, surge - (size - replicas))
    elif rollout.paused_at is not None:
        fresh = None
    return Layout(
        new,
        old,
        (SlotSet(part.stable_base, size, fresh, surge, floor, not is_canary, is_recreated),),
        is_fallback_allowed=new.spec.rollout.max_unavailable > 0,
    )


def limits_of(spec: WorkerSpec, replicas: int) -> tuple[int, int]:
    """Return (most slots that help, fewest ready instances) while instances of a worker are replaced.

    What must not run twice, or is not started by us, gets no helping slot: it is replaced in place.
    """
    surge, unavailable = fenceposts(spec.rollout, replicas)
    if not may_run_twice(spec):
        surge, unavailable = 0, max(1, unavailable)
    return surge, max(0, replicas - unavailable)


def is_floor_firm(spec: WorkerSpec, surge: int) -> bool:
    """Return whether nobody may be away even where nothing fits beside it: `max_unavailable: 0`, said in so many words.

    What gets no helping slot must be away while it is replaced, whatever was said.
    """
    return spec.rollout.max_unavailable == 0 and surge > 0


def may_run_twice(spec: WorkerSpec) -> bool:
    """Return whether an instance more than asked for may run beside the others for a while."""
    return spec.guarantee is not Guarantee.STRICT and spec.schedule is None and spec.unmanaged is None


def second_size(spec: WorkerSpec, part: WorkerRollout, replicas: int) -> int:
    """Return how many instances the second set is to have now."""
    if part.stage in (Stage.SCALING, Stage.SWITCHED):
        return replicas
    if part.strategy == "blue-green":
        preview = spec.rollout.preview_replicas
        return replicas if preview is None else min(preview, replicas)
    if part.scale_replicas is not None:
        return part.scale_replicas
    percent = part.weight if part.scale_percent is None else part.scale_percent
    return routed_canary_count(replicas, max(percent, 0))


def _at_rest(new: WorkerTarget, old: WorkerTarget | None, part: WorkerRollout) -> Layout:
    """Return one set of the new revision; beside it the old set, until it has been given its time."""
    surge, floor = limits_of(new.spec, new.replicas)
    is_firm = is_floor_firm(new.spec, surge)
    sets = [SlotSet(part.new_base, new.replicas, new.replicas, surge if is_firm else 0, floor)]
    if part.stage is Stage.PROMOTED and part.has_two_sets and old is not None:
        sets.append(SlotSet(part.stable_base, new.replicas, 0, 0, 0))
        return Layout(new, old, tuple(sets), is_fallback_allowed=not is_firm)
    return Layout(new, None, tuple(sets), is_fallback_allowed=not is_firm)


def _departing(old: WorkerTarget | None, part: WorkerRollout) -> Layout | None:
    """Return a worker that the new revision does not have: it stays until the outcome is decided."""
    if old is None or part.stage is Stage.DONE:
        return None
    replicas = old.replicas
    return Layout(None, old, (SlotSet(part.stable_base, replicas, 0, 0, replicas),))


def _way_back(
    new: WorkerTarget | None, old: WorkerTarget | None, rollout: Rollout, part: WorkerRollout
) -> Layout | None:
    """Return the stable set alone; beside it the failed second set until it has been given its time."""
    if old is None:
        return Layout(new, None, (), is_back=True) if new is not None else None
    surge, floor = limits_of(old.spec, old.replicas)
    is_recreated = part.strategy == "recreate"
    is_firm = is_floor_firm(old.spec, surge) and rollout.is_over
    surge = 0 if is_recreated or (rollout.is_over and not is_firm) else surge
    sets = [SlotSet(part.stable_base, old.replicas, 0, surge, floor, False, is_recreated)]
    if part.has_two_sets and part.stage is not Stage.DONE and new is not None:
        size = second_size(new.spec, part, new.replicas)
        sets.append(SlotSet(part.new_base, size, size, 0, 0))
    return Layout(new, old, tuple(sets), is_back=True, is_fallback_allowed=not is_firm)
