"""How far a rollout is: from the record and what is seen to the next record. Pure.

`advance` is level-triggered like all planning: called at any time, by any leader, it goes on from the record. It says
which revision each set is to have (through the record); `waves` changes the slots. Order of decisions: a retry, an
abort (always before a promotion), a failure, and only then the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import Layout, app_layouts, is_routed, traffic_of
from hsu_cluster.planning.rollout_begin import begin
from hsu_cluster.planning.rollout_steps import Way, end_all_runs, step_worker
from hsu_cluster.planning.set_facts import WorkerFacts, worker_facts
from hsu_cluster.planning.traffic import unconfirmed_route
from hsu_core.model.assignment import AppRecord
from hsu_core.model.rollout import NO_INTENT, Rollout, RolloutIntent, RolloutPhase, Stage
from hsu_core.model.view import DropRun, PutRollout, PutRun

FAILED = "RolloutFailed"
"""Reason of a rollout that failed and must not turn back by itself."""

PAUSED = ("PausedOnRequest", "RolloutPaused")
"""Reasons of a rollout whose deadline does not run."""

Facts = Mapping[str, WorkerFacts]
Told = list[tuple[str, str]]


def plan_rollout(draft: Draft, record: AppRecord) -> tuple[Rollout, tuple[Layout, ...]]:
    """Write into `draft` how far the app's rollout is now; return it and the layouts that follow from it.

    The app's revision must be in the view.
    """
    view = draft.view
    held = view.rollouts.get(record.id)
    intent = record.rollout if record.rollout.revision == record.revision else NO_INTENT
    told: Told = []
    if held is None or held.revision != record.revision or intent.attempt > held.attempt:
        rollout = begin(view, record, draft.now_s)
        what = "begins again" if held is not None and held.revision == record.revision else "begins"
        told.append(("RolloutStarted", f"the rollout of {record.id} {what}: {rollout.text}"))
        _drop_runs(draft, rollout)
        rollout = _advance(draft, record, rollout, intent, told)
    else:
        rollout = _advance(draft, record, held, intent, told)
    if rollout != held:
        draft.roll(PutRollout(rollout, tuple(told)))
    for part in rollout.workers:
        if part.has_two_sets:
            draft.weights[record.id, part.worker] = traffic_of(rollout, part)
    return rollout, app_layouts(record, view.revisions, rollout)


def _drop_runs(draft: Draft, rollout: Rollout) -> None:
    """Forget the analysis runs of rollouts before the last one."""
    last = draft.view.rollouts.get(rollout.id)
    kept = {f"{one.revision}-{one.attempt}-" for one in (rollout, last) if one is not None}
    for app, name in sorted(draft.view.runs):
        if app == rollout.id and not name.startswith(tuple(kept)):
            draft.roll(DropRun(app, name))
    if last is not None:
        draft.roll(*end_all_runs(draft, last))


def _advance(draft: Draft, record: AppRecord, held: Rollout, intent: RolloutIntent, told: Told) -> Rollout:
    if held.is_over:
        return _proven_late(draft, record, _clean_up(draft, held), told)
    if not held.is_going_back and held.reason != FAILED:
        held = _paused_or_not(
            held, intent, draft.now_s
        )  # before the facts: a set that is held looks as if it had arrived
    layouts = {layout.target.spec.id: layout for layout in app_layouts(record, draft.view.revisions, held)}
    facts = {name: worker_facts(draft, layout) for name, layout in layouts.items()}
    if held.is_going_back:
        return _go_back(draft, held, facts, told)
    if intent.is_aborted and held.stable:
        return _turn_back(draft, held, "it was aborted", told, is_aborted=True)
    return _go_on(draft, record, held, intent, facts, told)


def _paused_or_not(held: Rollout, intent: RolloutIntent, now_s: float) -> Rollout:
    """Return the rollout as somebody paused or resumed it; the times of its places stand still meanwhile."""
    if intent.is_paused:
        return replace(held, paused_at=held.paused_at or now_s)
    if held.paused_at is None:
        return held
    away_s = now_s - held.paused_at
    parts = tuple(replace(part, since_at=part.since_at + away_s) for part in held.workers)
    return replace(held, workers=parts, paused_at=None)


# --- forward -------------------------------------------------------------------------------------


def _go_on(draft: Draft, record: AppRecord, held: Rollout, intent: RolloutIntent, facts: Facts, told: Told) -> Rollout:
    now_s = draft.now_s
    if held.reason == FAILED:
        return held  # it stays where it failed, until somebody aborts it or deploys another version
    way = Way(draft, record, held, intent, draft.view.revisions[record.id, held.revision])
    paused_at, parts = held.paused_at, held.workers
    if paused_at is None:
        parts = tuple(step_worker(way, part, facts.get(part.worker, WorkerFacts(()))) for part in held.workers)
    draft.roll(*(PutRun(run) for run in way.runs))
    told += way.events
    rollout = replace(held, workers=parts)
    rollout = _progressed(rollout, held, facts, now_s)
    failure = way.failed_why or _early_ends(way, held, facts) or _too_slow(way, rollout, facts)
    if failure and held.stable:
        if _is_auto(way, held):
            return _turn_back(draft, rollout, failure, told)
        text = f"{failure}; auto_rollback is off: abort it, or deploy another version"
        return _worded(replace(rollout, paused_at=now_s), held, RolloutPhase.PAUSED, FAILED, text, told)
    if all(part.is_promoted for part in parts if part.strategy != "remove"):
        return _completed(rollout, facts, now_s, told)
    if failure:
        return _worded(rollout, held, RolloutPhase.DEGRADED, "FirstRevisionFails", failure, told)
    waits = "; ".join(f"{part.worker} waits for {part.waits_for}" for part in parts if part.waits_for)
    if paused_at is not None:
        return _worded(rollout, held, RolloutPhase.PAUSED, "PausedOnRequest", "paused on request", told)
    if any(part.is_paused for part in parts):
        return _worded(rollout, held, RolloutPhase.PAUSED, "RolloutPaused", waits, told)
    return _worded(rollout, held, RolloutPhase.PROGRESSING, "RolloutProgressing", waits, told)


def _worded(rollout: Rollout, held: Rollout, phase: RolloutPhase, reason: str, text: str, told: Told) -> Rollout:
    if reason != held.reason and phase is not RolloutPhase.PROGRESSING:
        told.append((reason, f"rollout of {rollout.id} to revision {rollout.revision}: {text}"))
    return replace(rollout, phase=phase, reason=reason, text=text)


def _progressed(rollout: Rollout, held: Rollout, facts: Facts, now_s: float) -> Rollout:
    """Return the rollout with its best figures so far; more of any, a step, or the end of a pause is progress."""
    places = sum(part.position for part in rollout.workers)
    figures = [fact.progress for fact in facts.values()]
    found = (places, *(sum(column) for column in zip(*figures, strict=True)))
    before = held.progress or tuple(-(10**9) for _ in found)
    if len(before) != len(found):
        return replace(rollout, progress=found, progress_at=now_s)
    was_paused = held.reason in PAUSED
    is_paused = rollout.paused_at is not None or any(part.is_paused for part in rollout.workers)
    if any(new > old for new, old in zip(found, before, strict=True)) or (was_paused and not is_paused):
        best = tuple(max(pair) for pair in zip(found, before, strict=True))
        return replace(rollout, progress=best, progress_at=now_s)
    return rollout


def _early_ends(way: Way, held: Rollout, facts: Facts) -> str:
    """Return why repeated early ends of new instances fail the rollout (empty: they do not)."""
    for part in held.workers:
        found = facts.get(part.worker)
        if found is None or not found.failures:
            continue
        limit = way.spec(part).max_failures
        if limit and found.failures >= limit:
            ends = "1 early end" if found.failures == 1 else f"{found.failures} early ends"
            return f"{ends} of new instances of {part.worker}: {found.failing}"
    return ""


def _too_slow(way: Way, rollout: Rollout, facts: Facts) -> str:
    """Return that the deadline is over without progress (empty: it is not).

    Who waits for another worker, is paused or is judged by an analysis has no deadline meanwhile.
    """
    active = [
        part
        for part in rollout.workers
        if not (part.is_promoted or part.strategy == "remove" or part.stage is Stage.WAITING or part.is_paused)
        and not part.waits_for.startswith("analysis")
    ]
    if not active or rollout.paused_at is not None:
        return ""
    limit_s = min(way.spec(part).progress_deadline_s for part in active)
    ends_s = rollout.progress_at + limit_s
    if way.now_s < ends_s:
        way.draft.retry_at(ends_s)
        return ""
    pending = [one.pending for part in active if part.worker in facts for one in facts[part.worker].sets if one.pending]
    return f"no progress for {limit_s:g} s (progress_deadline)" + (f": {pending[0]}" if pending else "")


def _is_auto(way: Way, held: Rollout) -> bool:
    return all(way.spec(part).is_auto_rollback for part in held.workers if part.strategy != "remove")


def _completed(rollout: Rollout, facts: Facts, now_s: float, told: Told) -> Rollout:
    unseen = _unseen(rollout, facts)
    text = f"revision {rollout.revision} is rolled out"
    if unseen:
        text += f"; it is not proven, as {unseen} was scaled to 0 before an instance of it was seen to work"
    told.append(("RolloutCompleted", f"{rollout.id}: {text}"))
    parts = tuple(replace(part, stage=Stage.DONE) if part.strategy == "remove" else part for part in rollout.workers)
    return replace(
        rollout,
        workers=parts,
        phase=RolloutPhase.HEALTHY,
        reason="RolloutCompleted",
        text=text,
        ended_at=now_s,
        paused_at=None,
        is_unproven=bool(unseen),
    )


def _unseen(rollout: Rollout, facts: Facts) -> str:
    """Return a worker that had instances when the rollout began, and is to have none at its end."""
    for part in rollout.workers:
        found = facts.get(part.worker)
        if part.replicas and found is not None and not sum(one.size for one in found.sets):
            return part.worker
    return ""


# --- back ----------------------------------------------------------------------------------------


def _turn_back(draft: Draft, held: Rollout, why: str, told: Told, *, is_aborted: bool = False) -> Rollout:
    """Return the rollout on its way back to the stable revision: traffic first, then instances."""
    code = "RolloutAborted" if is_aborted else "RollbackStarted"
    text = f"back to revision {held.stable}: {why}"
    told.append((code, f"rollout of {held.id} to revision {held.revision}: {text}"))
    draft.roll(*end_all_runs(draft, held))
    parts = tuple(replace(part, traffic=0, is_paused=False, waits_for="") for part in held.workers)
    return replace(
        held,
        workers=parts,
        phase=RolloutPhase.ROLLING_BACK,
        reason=code,
        text=text,
        failed_at=draft.now_s,
        failed_why=why,
        is_aborted=is_aborted,
        paused_at=None,
    )


def _go_back(draft: Draft, held: Rollout, facts: Facts, told: Told) -> Rollout:
    draft.roll(*end_all_runs(draft, held))  # also those that were begun in the pass that failed
    held = _clean_second_sets(draft, held)
    failed_at = held.failed_at or draft.now_s
    pending: list[str] = []
    for name in sorted(facts):
        stable = facts[name].sets[:1]
        if stable and not stable[0].is_settled:
            pending.append(f"{name}: {stable[0].pending}")
            if stable[0].retry_at_s is not None:
                draft.retry_at(stable[0].retry_at_s)
    pending += _unconfirmed(draft, held)
    if not pending:
        what = "aborted" if held.is_aborted else "rolled back"
        text = f"revision {held.revision} was {what}, revision {held.stable} runs: {held.failed_why}"
        code = "Aborted" if held.is_aborted else "RolledBack"
        told.append((code, f"{held.id}: {text}"))
        return replace(held, phase=RolloutPhase.DEGRADED, reason=code, text=text, ended_at=draft.now_s, paused_at=None)
    limit_s = _deadline_s(draft, held)
    if draft.now_s >= failed_at + limit_s:
        text = f"cannot get back to revision {held.stable}: {pending[0]}"
        return _worded(held, held, RolloutPhase.PAUSED, "RollbackStuck", text, told)
    draft.retry_at(failed_at + limit_s)
    return held


def _deadline_s(draft: Draft, held: Rollout) -> float:
    revision = draft.view.revisions.get((held.id, held.stable))
    return min((spec.rollout.progress_deadline_s for spec in revision.spec.workers), default=0.0) if revision else 0.0


def _unconfirmed(draft: Draft, held: Rollout) -> Sequence[str]:
    found = (unconfirmed_route(draft.view, held, part) for part in held.workers if part.has_two_sets)
    return [text for text in found if text]


def _clean_up(draft: Draft, held: Rollout) -> Rollout:
    """Return an ended rollout once the sets that only had to stay for a while may go."""
    if held.is_going_back:
        return _clean_second_sets(draft, held)
    revision = draft.view.revisions.get((held.id, held.revision))
    parts = []
    for part in held.workers:
        spec = revision.spec.worker(part.worker) if revision is not None else None
        if part.stage is Stage.PROMOTED and spec is not None:
            ends_s = part.since_at + spec.rollout.scale_down_delay_s
            if draft.now_s >= ends_s:
                parts.append(replace(part, stage=Stage.DONE, stable_base=part.new_base))
                continue
            draft.retry_at(ends_s)
        parts.append(part)
    return replace(held, workers=tuple(parts))


def _proven_late(draft: Draft, record: AppRecord, held: Rollout, told: Told) -> Rollout:
    """Return a rollout that ended unproven as proven, once instances of its revision have been seen to work."""
    if not held.is_unproven:
        return held
    layouts = app_layouts(record, draft.view.revisions, held)
    facts = {layout.target.spec.id: worker_facts(draft, layout) for layout in layouts}
    seen = {name for name, found in facts.items() if any(one.fresh_available for one in found.sets)}
    if any(part.replicas and part.worker not in seen for part in held.workers):
        return held
    text = f"revision {held.revision} is rolled out"
    told.append(("RolloutProven", f"{held.id}: {text}, and its instances work"))
    return replace(held, is_unproven=False, text=text)


def _clean_second_sets(draft: Draft, held: Rollout) -> Rollout:
    """Return a rollout that goes back, without the second sets whose time is over (at once where nothing routes)."""
    assert held.failed_at is not None
    revision = draft.view.revisions.get((held.id, held.revision))
    parts = []
    for part in held.workers:
        spec = revision.spec.worker(part.worker) if revision is not None else None
        if part.has_two_sets and part.stage is not Stage.DONE:
            is_held = spec is not None and is_routed(revision, part.worker)
            ends_s = held.failed_at + (spec.rollout.abort_scale_down_delay_s if spec is not None and is_held else 0.0)
            if draft.now_s >= ends_s and not unconfirmed_route(draft.view, held, part):
                parts.append(replace(part, stage=Stage.DONE, new_base=part.stable_base))
                continue
            draft.retry_at(ends_s)
        parts.append(part)
    return replace(held, workers=tuple(parts))
