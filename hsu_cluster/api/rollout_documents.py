"""Rollouts as documents: each worker's sets with their instances, the weight wanted and had, what is waited for."""

from __future__ import annotations

from hsu_cluster.api.reading import Reading
from hsu_cluster.client.rollout_documents import RolloutDocument, RolloutSetDocument, RolloutWorkerDocument
from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, app_layouts, is_routed, traffic_of
from hsu_cluster.planning.rollout_begin import rollout_of
from hsu_cluster.planning.slots import available_at_s, is_ready
from hsu_cluster.planning.traffic import new_percent
from hsu_core.model.assignment import Revision
from hsu_core.model.ids import AppId
from hsu_core.model.rollout import Rollout, Stage, WorkerRollout
from hsu_core.model.rollout_spec import Analyse, Approve, Pause, RolloutStep, SetCanaryScale, SetWeight
from hsu_core.wire import keys


def rollout_document(reading: Reading, app: AppId, now_s: float) -> RolloutDocument:
    """Return the rollout of an app whose revision is in the reading."""
    view = reading.view
    record = view.apps[app]
    rollout = rollout_of(view, record, now_s)
    layouts = {layout.target.spec.id: layout for layout in app_layouts(record, view.revisions, rollout)}
    draft = Draft(view, now_s, frozenset([app]))
    revision = view.revisions.get((app, rollout.revision))
    return {
        "namespace": app.namespace,
        "app": app.app,
        "app_revision": rollout.revision,
        "stable_revision": rollout.stable,
        "attempt": rollout.attempt,
        "phase": str(rollout.phase),
        "reason": rollout.reason,
        "text": rollout.text,
        "paused": rollout.paused_at is not None,
        "aborted": rollout.is_aborted,
        "started_at": rollout.started_at,
        "ended_at": rollout.ended_at,
        "deadline_at": _deadline_at(rollout, revision),
        "workers": [_worker(draft, rollout, part, layouts.get(part.worker), revision) for part in rollout.workers],
        "revision": max(reading.changed.get(keys.rollout(app), 0), reading.changed.get(keys.app(app), 0)),
    }


def _deadline_at(rollout: Rollout, revision: Revision | None) -> float | None:
    """Return when the rollout fails without progress; None while no deadline runs."""
    active = [part for part in rollout.workers if not part.is_promoted]
    is_paused = rollout.paused_at is not None or any(part.is_paused for part in active)
    if revision is None or rollout.is_over or rollout.is_going_back or is_paused or not active:
        return None
    specs = [revision.spec.worker(part.worker) for part in active]
    limits = [spec.rollout.progress_deadline_s for spec in specs if spec is not None]
    return rollout.progress_at + min(limits) if limits else None


def _worker(
    draft: Draft, rollout: Rollout, part: WorkerRollout, layout: Layout | None, revision: Revision | None
) -> RolloutWorkerDocument:
    sets = _sets(draft, layout) if layout is not None else []
    spec = revision.spec.worker(part.worker) if revision is not None else None
    steps = spec.rollout.steps if spec is not None and part.strategy == "canary" else ()
    available = sum(one["available"] for one in sets)
    fresh = sum(one["available"] for one in sets if one["app_revision"] == rollout.revision)
    actual = round(100 * fresh / available) if available else 0
    if part.has_two_sets and revision is not None and is_routed(revision, part.worker):
        names = [route.name for route in revision.spec.routes if route.worker == part.worker and route.provider]
        states = [draft.view.routes.get((rollout.id, name)) for name in names]
        actual = min((new_percent(state) if state is not None else 0 for state in states), default=0)
    wanted = traffic_of(rollout, part) if part.has_two_sets else (0 if rollout.is_going_back else part.weight)
    if part.has_two_sets and not is_routed(revision, part.worker):
        actual = wanted
    is_whole = part.stage in (Stage.ROLLING, Stage.SCALING, Stage.PROMOTED, Stage.DONE) and not rollout.is_going_back
    return {
        "worker": part.worker,
        "strategy": part.strategy,
        "stage": str(part.stage),
        "step": part.step,
        "steps": [describe_step(step) for step in steps],
        "weight": 100 if is_whole and not part.has_two_sets else wanted,
        "actual_weight": actual,
        "waits_for": part.waits_for,
        "until": _until(rollout, part, revision),
        "since": part.since_at,
        "sets": sets,
    }


def _until(rollout: Rollout, part: WorkerRollout, revision: Revision | None) -> float | None:
    """Return when the present place ends by itself (None: not by time)."""
    worker = revision.spec.worker(part.worker) if revision is not None else None
    if worker is None:
        return None
    spec = worker.rollout
    if rollout.is_going_back:
        is_kept = part.has_two_sets and part.stage is not Stage.DONE and rollout.failed_at is not None
        return (rollout.failed_at or 0.0) + spec.abort_scale_down_delay_s if is_kept else None
    if part.stage is Stage.PROMOTED and part.has_two_sets:
        return part.since_at + spec.scale_down_delay_s
    if part.stage is Stage.PROMOTABLE and spec.is_auto_promoted:
        return part.since_at + spec.auto_promote_after_s
    if part.stage is Stage.STEPS and part.step < len(spec.steps):
        step = spec.steps[part.step]
        if isinstance(step, Pause) and step.duration_s is not None:
            return part.since_at + step.duration_s
    return None


def _sets(draft: Draft, layout: Layout) -> list[RolloutSetDocument]:
    """Return the instances of a worker by revision, as they are assigned."""
    target = layout.target
    found: dict[int, RolloutSetDocument] = {}
    assigned = draft.assigned.get((target.app, target.spec.id), {})
    for number in sorted(assigned):
        assignment = assigned[number]
        status = draft.status(assignment)
        shape = next((one for one in layout.sets if number in one.slots or number in one.helpers), None)
        one = found.setdefault(
            assignment.revision,
            {"app_revision": assignment.revision, "instances": [], "ready": 0, "available": 0},
        )
        one["instances"].append(assignment.instance.short)
        if shape is None or draft.is_lost(assignment.node):
            continue
        present = layout.target_of(assignment, shape)
        since_s = available_at_s(assignment, status, present, draft.now_s)
        one["ready"] += is_ready(assignment, status, present.spec)
        one["available"] += since_s is not None and since_s <= draft.now_s
    return [found[number] for number in sorted(found, reverse=True)]


def describe_step(step: RolloutStep) -> str:
    """Return a canary step in a few words, as in the manifest: `set_weight 20`, `pause 30s`."""
    match step:
        case SetWeight(percent=percent):
            return f"set_weight {percent}"
        case SetCanaryScale(replicas=replicas, percent=percent):
            asked = f"{replicas} replicas" if replicas is not None else f"{percent} %"
            return f"set_canary_scale {asked if replicas is not None or percent is not None else 'match_traffic'}"
        case Pause(duration_s=duration_s):
            return "pause" if duration_s is None else f"pause {duration_s:g}s"
        case Analyse(names=names):
            return f"analysis {', '.join(names)}"
        case Approve(text=text):
            return f"approve {text}".strip()
