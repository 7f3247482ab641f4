"""How an app is doing, in one word, one reason and one sentence. Pure.

Read by `deploy --wait`, `get apps` and `status`. Computed from what was asked, assigned and observed, and
from why slots have no node (`reconcile(view, now).unplaced`); it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hsu_cluster.planning.layout import Layout, SlotSet, app_layouts
from hsu_cluster.planning.rollout_begin import rollout_of
from hsu_cluster.planning.slots import (
    WorkerTarget,
    available_at_s,
    describe_state,
    is_as_desired,
    is_ready,
    status_of,
)
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.model.view import ClusterView

RESTARTS_TOLERATED = 2
"""Restarts of an order that is not ready before it counts as broken: one can be bad luck, three are a loop."""


class Phase(StrEnum):
    """The word for an app or worker; from worst to best in `_WORST`."""

    DEGRADED = "Degraded"  # will not become healthy by waiting
    PROGRESSING = "Progressing"  # on its way
    ROLLING_BACK = "RollingBack"  # on its way back to the stable revision
    PAUSED = "Paused"  # a rollout waits for a time or a person
    HEALTHY = "Healthy"  # all that was asked for is available
    STOPPED = "Stopped"  # stopped on request


_WORST = (Phase.DEGRADED, Phase.ROLLING_BACK, Phase.PAUSED, Phase.PROGRESSING, Phase.HEALTHY, Phase.STOPPED)


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker: how many instances were asked for, run the newest order, are ready, are available.

    `restarts` is the sum over its instances; `unplaced_reason` is empty when all have a node.
    """

    worker: str
    phase: Phase
    reason: str
    text: str
    replicas: int
    assigned: int
    updated: int
    ready: int
    available: int
    restarts: int
    slots: tuple[int, ...] = ()
    unplaced_reason: str = ""


@dataclass(frozen=True, slots=True)
class AppHealth:
    """One app: the worst of its workers."""

    app: AppId
    phase: Phase
    reason: str
    text: str
    workers: tuple[WorkerHealth, ...] = ()


def health_of(view: ClusterView, app: AppId, unplaced: Mapping[InstanceId, str], now_s: float) -> AppHealth:
    """Return the health of one app of a view. Raises KeyError when the view has no such app.

    The word of its rollout counts while that is on its way or has failed; else the worst of its workers.
    """
    record = view.apps[app]
    if (app, record.revision) not in view.revisions:
        text = f"revision {record.revision} is not in the store"
        return AppHealth(app, Phase.DEGRADED, "RevisionMissing", text)
    rollout = rollout_of(view, record, now_s)
    layouts = app_layouts(record, view.revisions, rollout)
    workers = tuple(worker_health(view, layout, unplaced, now_s) for layout in layouts)
    if not workers:
        return AppHealth(app, Phase.HEALTHY, "NothingAsked", "the app has no worker")
    worst = min(workers, key=lambda worker: _WORST.index(worker.phase))
    told = _word_of(rollout)
    if told is not None and _WORST.index(told) <= _WORST.index(worst.phase):
        return AppHealth(app, told, rollout.reason, rollout.text or worst.text, workers)
    if worst.phase is Phase.STOPPED and not rollout.is_going_back:
        return AppHealth(app, worst.phase, worst.reason, worst.text, workers)
    if rollout.stable and not rollout.is_over:
        # the rollout judges its instances and turns back by itself: until then it is on its way
        phase = Phase.ROLLING_BACK if rollout.is_going_back else Phase.PROGRESSING
        if worst.phase is Phase.HEALTHY:
            return AppHealth(app, phase, rollout.reason, rollout.text, workers)
        return AppHealth(app, phase, worst.reason, worst.text, workers)
    if worst.phase is Phase.HEALTHY:
        count = sum(worker.replicas for worker in workers if worker.phase is Phase.HEALTHY)
        text = f"all {count} instances are available"
        return AppHealth(app, Phase.HEALTHY, worst.reason, text, workers)
    return AppHealth(app, worst.phase, worst.reason, worst.text, workers)


def _word_of(rollout: Rollout) -> Phase | None:
    """Return the phase that a rollout gives its app, None where its instances tell."""
    if rollout.is_over:
        return Phase.DEGRADED if rollout.is_going_back else None
    if rollout.phase in (RolloutPhase.HEALTHY, RolloutPhase.PROGRESSING) or not rollout.stable:
        return None
    return Phase(rollout.phase)


def worker_health(view: ClusterView, layout: Layout, unplaced: Mapping[InstanceId, str], now_s: float) -> WorkerHealth:
    """Return the health of one worker: the first of its troubles, worst first, gives phase, reason and text."""
    target = layout.target
    assigned = updated = ready = available = restarts = stopped = 0
    reason_unplaced = ""
    troubles: list[tuple[Phase, str, str]] = []
    for shape, slot in ((one, slot) for one in layout.sets for slot in one.slots):
        instance = target.instance(slot)
        assignment = view.assignments.get(instance)
        present = layout.target_of(assignment, shape)
        wanted = present if 0 != shape.fresh != shape.size else _wanted(layout, shape)
        desired = wanted.desired(slot, assignment)
        stopped += desired.is_stopped
        if instance in unplaced:
            reason_unplaced = reason_unplaced or unplaced[instance]
            troubles.append((Phase.DEGRADED, "Unschedulable", f"cannot place {instance}: {unplaced[instance]}"))
        if assignment is None:
            if not desired.is_stopped:
                troubles.append((Phase.PROGRESSING, "NotPlaced", f"{instance} has no node yet"))
            continue
        assigned += 1
        status = status_of(assignment, view.statuses)
        restarts += status.restarts if status else 0
        if not is_as_desired(assignment, desired):
            text = f"{instance} is still to be changed for revision {desired.revision}"
            troubles.append((Phase.PROGRESSING, "Updating", text))
        else:
            updated += 1
        node = view.nodes.get(assignment.node)
        if node is None or node.state is NodeState.LOST:
            text = f"{instance} is on {assignment.node}, which is {'lost' if node else 'removed'}"
            troubles.append((Phase.DEGRADED, "NodeLost", text))
            continue
        if desired.is_stopped:
            continue
        since_s = available_at_s(assignment, status, present, now_s)
        if since_s is not None:
            ready += 1
            available += since_s <= now_s
        # An old copy that fails says nothing about the revision that is to replace it.
        if is_as_desired(assignment, desired) and (since_s is None or since_s > now_s):
            troubles.append(_trouble(assignment, status, target))
    phase, reason, text = _verdict(layout, troubles, stopped, available)
    return WorkerHealth(
        worker=target.spec.id,
        phase=phase,
        reason=reason,
        text=text,
        replicas=layout.replicas,
        assigned=assigned,
        updated=updated,
        ready=ready,
        available=available,
        restarts=restarts,
        slots=tuple(layout.wanted_slots),
        unplaced_reason=reason_unplaced,
    )


def _wanted(layout: Layout, shape: SlotSet) -> WorkerTarget:
    """Return what a whole set is to run."""
    chosen = layout.old if shape.fresh == 0 and layout.old is not None else layout.target
    return replace(chosen, base=shape.base)


def _trouble(assignment: Assignment, status: InstanceStatus | None, target: WorkerTarget) -> tuple[Phase, str, str]:
    """Return why a slot is not available, as (phase, reason, text)."""
    text = describe_state(assignment, status)
    if status is not None and status.epoch == assignment.epoch:
        if status.state is State.FAILED:
            return Phase.DEGRADED, "InstanceFailed", text + _last_exit(status)
        if status.restarts > RESTARTS_TOLERATED and not is_ready(assignment, status, target.spec):
            return Phase.DEGRADED, "CrashLooping", f"{text}, {status.restarts} restarts{_last_exit(status)}"
    return Phase.PROGRESSING, "Starting", text


def _last_exit(status: InstanceStatus) -> str:
    last = status.last_exit
    if last is None:
        return ""
    how = last.signal or (f"code {last.code}" if last.code is not None else "not seen")
    return f" (last exit: {how})"


def _verdict(
    layout: Layout, troubles: Sequence[tuple[Phase, str, str]], stopped: int, available: int
) -> tuple[Phase, str, str]:
    """Return phase, reason and text of a worker."""
    if troubles:
        return min(troubles, key=lambda trouble: _WORST.index(trouble[0]))
    target, replicas = layout.target, layout.replicas
    if not replicas:
        what = "disabled" if not target.spec.is_enabled else "scaled to 0"
        return Phase.HEALTHY, "NothingAsked", f"{target.name} is {what}"
    if stopped == replicas:
        return Phase.STOPPED, "StoppedOnRequest", f"{target.name} is stopped on request"
    text = f"{available} of {replicas} instances of {target.name} are available"
    return Phase.HEALTHY, "AllAvailable", text + (f", {stopped} stopped on request" if stopped else "")
