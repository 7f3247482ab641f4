"""What a deploy would do, without doing it: for `plan FILE` and dry runs. Pure.

The forecast asks the real planner, on a copy of the view in which the deploy has happened and nothing
needs to be waited for, so it shows where instances end up and not the waves on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hsu_cluster.planning.diff import FieldChange, diff_specs, flatten
from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.layout import app_layouts, base_of
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.slots import WorkerTarget, is_restart_needed
from hsu_core.model.assignment import Revision
from hsu_core.model.ids import InstanceId
from hsu_core.model.rollout import Rollout, RolloutPhase, Stage, WorkerRollout
from hsu_core.model.spec import WorkerSpec
from hsu_core.model.view import ClusterView, DropAssignment, PutAssignment


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


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """What would change: fields, workers, where instances would be placed, and what would not fit with the reason."""

    has_changes: bool
    current_revision: int | None
    fields: tuple[FieldChange, ...] = ()
    workers: tuple[WorkerChange, ...] = ()
    placements: Mapping[InstanceId, str] = field(default_factory=dict)
    unplaced: Mapping[InstanceId, str] = field(default_factory=dict)


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
                view, name, before, revision.spec.worker(name), targets.get(name), placements, dropped, plan.unplaced
            )
        )
    return DeployPlan(
        has_changes=bool(fields) or any(change.action is not WorkerAction.NONE for change in changes),
        current_revision=record.revision if record else None,
        fields=fields,
        workers=tuple(changes),
        placements={instance: placements[instance] for instance in sorted(placements)},
        unplaced=plan.unplaced,
    )


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
    return WorkerChange(name, action, added, restarted, moved, removed, missing)
