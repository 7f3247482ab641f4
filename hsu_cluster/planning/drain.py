"""How far a drain is and what it waits for; and what one would do, before anybody asks for it. Pure.

The forecast asks the real planner, again and again, on a copy of the view in which everything that it starts becomes
ready at once: so it never says what the planner would not do. It must not change what is planned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.slots import is_serving, status_of
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import ALIVE, State
from hsu_core.model.node import NodeIntent
from hsu_core.model.view import ClusterView, DropAssignment, DropStatus, PutAssignment, Waiting

ROUNDS = 200
"""Rounds of a forecast: a node with 100 instances of one worker that move one at a time takes two each."""

LONG_S = 86400.0
"""More than any `min_healthy`, in seconds."""

TOLD = ("drain.", "strict.", "route.", "schedule.", "failover.", "record.", "revision.", "rollout.wave")
"""Beginnings of the codes of what a drain may wait for."""


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """What is left on a draining node: instances that are still assigned to it, others whose processes still end."""

    assigned: int
    stopping: int
    waits: tuple[str, ...] = ()
    """Why the assigned ones have not left yet, one sentence each."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where an instance of the node would go (`node` None: nowhere), and for one that would not leave, why."""

    instance: InstanceId
    leaves: bool
    node: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class WorkerForecast:
    """How many instances of a worker are ready now, and the fewest that would be on the way."""

    app: AppId
    worker: str
    ready: int
    lowest_ready: int


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What a drain would do."""

    instances: tuple[Forecast, ...] = ()
    workers: tuple[WorkerForecast, ...] = ()


def drain_progress(view: ClusterView, now_s: float) -> Mapping[str, DrainProgress]:
    """Return for every draining node what is left on it and why."""
    draining = {name for name, intent in view.node_intents.items() if intent.is_draining and name in view.nodes}
    if not draining:
        return {}
    held: dict[str, list[InstanceId]] = {name: [] for name in draining}
    for instance, assignment in view.assignments.items():
        if assignment.node in held:
            held[assignment.node].append(instance)
    stopping = dict.fromkeys(draining, 0)
    for (instance, node), status in view.statuses.items():
        if node in draining and (status.state in ALIVE or status.has_processes):
            current = view.assignments.get(instance)
            stopping[node] += current is None or current.node != node
    apps = {instance.app_id for instances in held.values() for instance in instances}
    waiting = reconcile(view, now_s, apps=apps).waiting if apps else ()
    return {
        name: DrainProgress(len(held[name]), stopping[name], tuple(_told(waiting, held[name])))
        for name in sorted(draining)
    }


def _told(waiting: Collection[Waiting], instances: Collection[InstanceId]) -> list[str]:
    """Return the sentences about instances, then about their workers, then about their apps."""
    subjects = (
        {str(instance) for instance in instances},
        {f"{instance.app_id}/{instance.worker}" for instance in instances},
        {str(instance.app_id) for instance in instances},
    )
    told = [item for item in waiting if item.code.startswith(TOLD)]
    return [item.text for names in subjects for item in told if item.subject in names]


def plan_drain(view: ClusterView, node: str, now_s: float, *, is_forced: bool = False) -> DrainPlan:
    """Return what draining `node` (beside the nodes that drain already) would do, as things are now."""
    before = view.node_intents.get(node, NodeIntent(node))
    intent = replace(before, is_cordoned=True, is_draining=True, is_drain_forced=is_forced, drain_deadline_at=None)
    trial = replace(view, node_intents={**view.node_intents, node: intent}, routes={})
    there = sorted(instance for instance, held in view.assignments.items() if held.node == node)
    apps = {instance.app_id for instance in there}
    lowest: dict[tuple[AppId, str], int] = {}
    own = {(instance.app_id, instance.worker) for instance in there}
    ready = _ready(trial, own)
    for _ in range(ROUNDS if apps else 0):
        plan = reconcile(trial, now_s, apps=apps)
        after = _applied(trial, plan.actions)
        if after is None:
            break
        trial = after
        for key, count in _ready(trial, own).items():
            lowest[key] = min(lowest.get(key, count), count)
        trial = _all_ready(trial, now_s)
    waiting = reconcile(trial, now_s, apps=apps).waiting if apps else ()
    return DrainPlan(
        tuple(_forecast(trial, node, instance, waiting) for instance in there),
        tuple(WorkerForecast(*key, ready[key], min(ready[key], lowest.get(key, ready[key]))) for key in sorted(own)),
    )


def _forecast(trial: ClusterView, node: str, instance: InstanceId, waiting: Collection[Waiting]) -> Forecast:
    held = trial.assignments.get(instance)
    if held is None or held.node != node:
        why = "" if held is not None else next(iter(_told(waiting, [instance])), "it has no other place")
        return Forecast(instance, True, held.node if held is not None else None, why)
    return Forecast(instance, False, node, next(iter(_told(waiting, [instance])), "it is not known why"))


def _ready(view: ClusterView, own: Collection[tuple[AppId, str]]) -> dict[tuple[AppId, str], int]:
    found: dict[tuple[AppId, str], int] = {}
    for instance, assignment in view.assignments.items():
        key = (instance.app_id, instance.worker)
        if key in own:
            status = status_of(assignment, view.statuses)
            found[key] = found.get(key, 0) + is_serving(status)
    return found


def _applied(view: ClusterView, actions: Collection[object]) -> ClusterView | None:
    """Return the view after the moves of a plan; None when it moves nothing. Rollouts stay where they are."""
    assignments, statuses = dict(view.assignments), dict(view.statuses)
    has_changed = False
    for action in actions:
        if isinstance(action, PutAssignment):
            new = action.assignment
            old = assignments.get(new.instance)
            if old is not None and old.node != new.node:
                _end(statuses, old)
            assignments[new.instance] = new
            has_changed = True
        elif isinstance(action, DropAssignment):
            old = assignments.pop(action.instance, None)
            if old is not None:
                _end(statuses, old)
            has_changed = True
        elif isinstance(action, DropStatus):
            statuses.pop((action.instance, action.node), None)
    if not has_changed:
        return None
    return replace(view, revision=view.revision + 1, assignments=assignments, statuses=statuses)


def _end(statuses: dict[tuple[InstanceId, str], InstanceStatus], old: Assignment) -> None:
    """Let the old process have ended: what a forecast does not wait for."""
    key = (old.instance, old.node)
    if key in statuses:
        statuses[key] = replace(statuses[key], state=State.STOPPED, is_ready=False, pid=None, has_processes=False)


def _all_ready(view: ClusterView, now_s: float) -> ClusterView:
    """Return the view in which the orders of the last round are followed, by processes that have long been ready."""
    statuses = dict(view.statuses)
    for instance, order in view.assignments.items():
        if order.epoch == view.revision:
            statuses[instance, order.node] = InstanceStatus(
                *(instance, order.node, order.epoch, State.STOPPED if order.is_stopped else State.RUNNING),
                is_ready=not order.is_stopped,
                revision=order.revision,
                spec_hash=order.spec_hash,
                generation=order.generation,
                ports=order.ports,
                changed_at=now_s - LONG_S,
            )
    return replace(view, statuses=statuses)
