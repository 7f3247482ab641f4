"""What a deploy would do, without doing it: for `plan FILE` and dry runs. Pure.

The forecast asks the real planner, on a copy of the view in which the deploy has happened and nothing
needs to be waited for, so it shows where instances end up and not the waves on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hsu_cluster.planning.diff import FieldChange, diff_specs, flatten
from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.layout import app_layouts, base_of, limits_of
from hsu_cluster.planning.node_table import NodeTable
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.room import lacks_room, needs_beside
from hsu_cluster.planning.slots import WorkerTarget, is_restart_needed, target_of
from hsu_core.model.assignment import AppRecord, Revision
from hsu_core.model.ids import InstanceId
from hsu_core.model.rollout import Rollout, RolloutPhase, Stage, WorkerRollout
from hsu_core.model.spec import WorkerSpec
from hsu_core.model.view import ClusterView, DropAssignment, PutAssignment

FIELDS_SHOWN = 3
"""Fields named in one sentence; the rest is counted."""


class WorkerAction(StrEnum):
    """What a deploy does to a worker."""

    NONE = "none"
    CREATE = "create"
    UPDATE = "update"  # in place: no process is restarted
    RESTART = "restart"  # instances are replaced in waves
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class WorkerChange:
    """One worker: what happens to it and to how many instances."""

    worker: str
    action: WorkerAction
    added: int = 0
    restarted: int = 0
    moved: int = 0
    removed: int = 0
    unplaced: int = 0
    why: str = ""
    """How it is rolled out, and which fields ask for that."""


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """What would change: fields, workers, where instances would be placed, and what would not fit with the reason."""

    has_changes: bool
    current_revision: int | None
    fields: tuple[FieldChange, ...] = ()
    workers: tuple[WorkerChange, ...] = ()
    placements: Mapping[InstanceId, str] = field(default_factory=dict)
    unplaced: Mapping[InstanceId, str] = field(default_factory=dict)
    no_room: Mapping[str, str] = field(default_factory=dict)
    """For each worker whose rollout could not begin: what has no place beside the running instances."""


def plan_deploy(view: ClusterView, revision: Revision) -> DeployPlan:
    """Return what deploying `revision` would do to `view`; its number need not be final."""
    app = revision.id
    record = view.apps.get(app)
    current = view.revisions.get((app, record.revision)) if record else None
    fields = diff_specs(current.spec if current else None, revision.spec)
    after = _as_deployed(view, revision, current)
    plan = reconcile(after, 0.0, apps=[app])
    puts = {
        action.assignment.instance: action.assignment for action in plan.actions if isinstance(action, PutAssignment)
    }
    dropped = {action.instance for action in plan.actions if isinstance(action, DropAssignment)}
    placements = {instance: order.node for instance, order in puts.items() if _is_moved(view, instance, order.node)}
    found = app_layouts(after.apps[app], after.revisions, after.rollouts[app])
    targets = {layout.target.spec.id: replace(layout.target, base=layout.sets[0].base) for layout in found}
    names = {worker.id for worker in revision.spec.workers}
    names |= {worker.id for worker in current.spec.workers} if current else set()
    changes = []
    for name in sorted(names):
        before = current.spec.worker(name) if current else None
        changes.append(
            _worker_change(
                view,
                name,
                before,
                revision.spec.worker(name),
                targets.get(name),
                placements,
                dropped,
                plan.unplaced,
                fields,
            )
        )
    return DeployPlan(
        has_changes=bool(fields) or any(change.action is not WorkerAction.NONE for change in changes),
        current_revision=record.revision if record else None,
        fields=fields,
        workers=tuple(changes),
        placements={instance: placements[instance] for instance in sorted(placements)},
        unplaced=plan.unplaced,
        no_room=_no_room(
            view, after.apps[app], revision, [change for change in changes if change.action is WorkerAction.RESTART]
        ),
    )


def _no_room(
    view: ClusterView, record: AppRecord, revision: Revision, changes: Sequence[WorkerChange]
) -> Mapping[str, str]:
    """Return for each worker to be replaced why its rollout could not begin, if it could not."""
    table = NodeTable.from_view(view)
    found = {}
    for change in changes:
        target = target_of(record, revision, change.worker)
        if target is None:
            continue
        spec = target.spec
        count = needs_beside(revision, spec, spec.rollout.strategy, target.replicas)
        why = lacks_room(table, revision, spec, count) if count else ""
        if why:
            found[spec.id] = why
    return found


def _as_deployed(view: ClusterView, revision: Revision, current: Revision | None) -> ClusterView:
    """Return the view after the deploy, with nothing to wait for."""
    is_same = current is not None and current.content_hash == revision.content_hash
    number = current.number if current is not None and is_same else _free_number(view, revision)
    workers = tuple(
        replace(worker, depends_on=(), rollout=replace(worker.rollout, max_unavailable=100, max_surge=0))
        for worker in revision.spec.workers
    )
    trial = replace(revision, number=number, spec=replace(revision.spec, workers=workers))
    record = deploy(view.apps.get(revision.id), trial)
    return replace(
        view,
        apps={**view.apps, revision.id: record},
        revisions={**view.revisions, (revision.id, number): trial},
        rollouts={**view.rollouts, revision.id: _done(view.rollouts.get(revision.id), trial)},
    )


def _done(held: Rollout | None, trial: Revision) -> Rollout:
    """Return the rollout of the trial as it is when it has ended well, in the slots that are used now."""
    bases = {spec.id: base_of(held, spec.id) for spec in trial.spec.workers}
    parts = tuple(WorkerRollout(name, "rolling", Stage.DONE, base, base) for name, base in bases.items())
    return Rollout(trial.id, trial.number, phase=RolloutPhase.HEALTHY, workers=parts, ended_at=0.0)


def _free_number(view: ClusterView, revision: Revision) -> int:
    """Return a number that no known revision of the app has, so that the forecast replaces none of them."""
    taken = [number for app, number in view.revisions if app == revision.id]
    return max([*taken, 0]) + 1


def _is_moved(view: ClusterView, instance: InstanceId, node: str) -> bool:
    before = view.assignments.get(instance)
    return before is None or before.node != node


def _worker_change(
    view: ClusterView,
    name: str,
    before: WorkerSpec | None,
    after: WorkerSpec | None,
    target: WorkerTarget | None,
    placements: Mapping[InstanceId, str],
    dropped: set[InstanceId],
    unplaced: Mapping[InstanceId, str],
    fields: Sequence[FieldChange],
) -> WorkerChange:
    """Return the change of one worker, counted from what runs now and what the forecast does."""
    added = restarted = moved = missing = 0
    slots = range(target.base, target.base + target.replicas) if target else range(0)
    removed = sum(instance.worker == name and instance.slot not in slots for instance in dropped)
    for slot in slots:
        assert target is not None
        instance = target.instance(slot)
        assignment = view.assignments.get(instance)
        missing += instance in unplaced
        if assignment is None:
            added += instance in placements
        elif is_restart_needed(assignment, target.desired(slot, assignment)):
            restarted += 1
        elif instance in placements or instance in dropped:
            moved += 1
    changed = [change.path for change in fields if change.path.startswith(f"workers.{name}.")]
    causes = [path.removeprefix(f"workers.{name}.") for path in changed]
    if after is None:
        action = WorkerAction.REMOVE
    elif before is None:
        action = WorkerAction.CREATE
    elif restarted:
        action = WorkerAction.RESTART
    elif flatten(before) != flatten(after) or added or removed or moved:
        action = WorkerAction.UPDATE
    else:
        action = WorkerAction.NONE
    why = ""
    if action is WorkerAction.RESTART and after is not None:
        named = [cause for cause in causes if needs_restart(cause)]
        why = f"{_strategy(after)}, for {_named(named) if named else 'a restart that was asked for'}"
    elif action is WorkerAction.UPDATE and causes:
        why = f"in place, for {_named(causes)}"
    return WorkerChange(name, action, added, restarted, moved, removed, missing, why)


def _strategy(spec: WorkerSpec) -> str:
    rollout = spec.rollout
    if rollout.strategy == "canary" and rollout.steps:
        return f"canary in {len(rollout.steps)} steps"
    if rollout.strategy in ("rolling", "canary"):
        surge, floor = limits_of(spec, spec.replicas)
        return f"rolling, {surge} beside, at least {floor} ready"
    return rollout.strategy


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - FIELDS_SHOWN} more" if len(paths) > FIELDS_SHOWN else ""
    return ", ".join(paths[:FIELDS_SHOWN]) + more


RESTARTED_FOR = ("execution", "files", "ports", "process", "unmanaged", "profile_type", "type", "logs.segment")
"""Beginnings of the fields that a running process is restarted for, as `hsu_core.wire.hashes.spec_hash` has them."""


def needs_restart(path: str) -> bool:
    """Return whether a change of a worker's field, as `execution.args[0]`, restarts its instances."""
    if path.startswith("process_file"):
        return False
    return path.startswith(RESTARTED_FOR)
