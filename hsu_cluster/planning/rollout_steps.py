"""One worker's way through a rollout: waves, canary steps, the stages of blue-green. Pure.

A place (step or stage) is left when what it is for has happened: instances are available, routes are confirmed, a time
is over, an analysis has its verdict, somebody promoted. Nothing runs twice: the record says which place is next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.layout import ALL, second_size
from hsu_cluster.planning.room import lacks_room, needs_beside
from hsu_cluster.planning.set_facts import SetFacts, WorkerFacts
from hsu_cluster.planning.slots import target_of
from hsu_cluster.planning.traffic import unconfirmed_route
from hsu_core.model.analysis import VERDICTS, AnalysisRun, Verdict
from hsu_core.model.assignment import AppRecord, Revision
from hsu_core.model.rollout import Rollout, RolloutIntent, Stage, WorkerRollout
from hsu_core.model.rollout_spec import Analyse, Approve, Pause, RolloutSpec, SetCanaryScale, SetWeight
from hsu_core.model.spec import WorkerSpec
from hsu_core.model.view import PutRun

ROOM_PATIENCE_S = 15.0
"""How long a rollout waits for room before it starts anything: a node may be just coming back."""


@dataclass(slots=True)
class Way:
    """What the steps of one rollout are decided from, and what they ask for."""

    draft: Draft
    record: AppRecord
    rollout: Rollout
    intent: RolloutIntent
    revision: Revision
    runs: list[AnalysisRun] = field(default_factory=list)
    failed_why: str = ""
    events: list[tuple[str, str]] = field(default_factory=list)

    @property
    def now_s(self) -> float:
        """Return seconds since 1970."""
        return self.draft.now_s

    def spec(self, part: WorkerRollout) -> RolloutSpec:
        """Return how the worker's new revision is rolled out."""
        worker = self.revision.spec.worker(part.worker)
        return worker.rollout if worker is not None else RolloutSpec()

    def replicas(self, part: WorkerRollout) -> int:
        """Return how many instances of the worker people asked for."""
        target = target_of(self.record, self.revision, part.worker)
        return target.replicas if target is not None else 0

    def is_promoted(self, part: WorkerRollout) -> bool:
        """Return whether somebody said that the present place need not be waited for."""
        return self.skips(part) or (part.worker, part.position) in self.intent.promoted

    def skips(self, part: WorkerRollout) -> bool:
        """Return whether steps, pauses and analyses are left out."""
        return self.intent.is_full or part.skips_steps

    def fail(self, why: str) -> None:
        """Note why the rollout cannot go on; the first reason counts."""
        self.failed_why = self.failed_why or why


def step_worker(way: Way, part: WorkerRollout, facts: WorkerFacts) -> WorkerRollout:
    """Return where the worker is after one look."""
    for one in facts.sets:
        if one.retry_at_s is not None:
            way.draft.retry_at(one.retry_at_s)
    if part.strategy == "canary" and part.stage in (Stage.STEPS, Stage.SCALING, Stage.SWITCHED):
        verdict = _watch_background(way, part)
        if verdict is Verdict.INCONCLUSIVE and not way.is_promoted(part):
            return _waits_for_analysis(way, part, way.spec(part).analysis, verdict)
    match part.stage:
        case Stage.WAITING:
            return _wait_for_others(way, part)
        case Stage.ROLLING:
            return _roll(way, part, facts)
        case Stage.STEPS:
            return _canary_step(way, part, facts)
        case Stage.PREVIEW:
            if not facts.sets[1].is_settled:
                return _waits(part, _availability(facts.sets[1], "preview"))
            return _next(way, part, Stage.PRE_PROMOTION)
        case Stage.PRE_PROMOTION:
            return _analysed(way, part, "pre", way.spec(part).pre_promotion, Stage.PROMOTABLE)
        case Stage.PROMOTABLE:
            return _wait_for_promotion(way, part)
        case Stage.SCALING:
            return _scale(way, part, facts)
        case Stage.SWITCHED:
            return _switched(way, part)
        case _:
            return part


def _next(way: Way, part: WorkerRollout, stage: Stage, **changes: int | bool | str | None) -> WorkerRollout:
    return replace(
        part,
        stage=stage,
        position=part.position + 1,
        since_at=way.now_s,
        is_paused=False,
        waits_for="",
        **changes,  # type: ignore[arg-type]
    )


def _waits(part: WorkerRollout, for_what: str, *, is_paused: bool = False) -> WorkerRollout:
    return replace(part, waits_for=for_what, is_paused=is_paused)


def _availability(one: SetFacts, what: str) -> str:
    return f"{one.size} {what} instances ({one.available} available)"


def _wait_for_others(way: Way, part: WorkerRollout) -> WorkerRollout:
    worker = way.revision.spec.worker(part.worker)
    if worker is None or part.strategy == "remove":
        return part  # it goes when the outcome is decided
    others = [way.rollout.worker(name) for name in worker.depends_on]
    pending = [other.worker for other in others if other is not None and not other.is_promoted]
    if pending:
        return _waits(part, f"worker {pending[0]} to be rolled out")
    missing = _missing_room(way, part, worker)
    if missing:
        ends_s = (part.since_at or way.now_s) + ROOM_PATIENCE_S
        if way.now_s >= ends_s:
            way.fail(f"worker {part.worker}: {missing}")
        way.draft.retry_at(ends_s)
        return replace(_waits(part, f"room: {missing}"), since_at=part.since_at or way.now_s)
    stage = Stage.ROLLING
    if part.strategy == "blue-green":
        stage = Stage.PREVIEW
    elif part.strategy == "canary":
        stage = Stage.STEPS
    return _next(way, part, stage)


def _missing_room(way: Way, part: WorkerRollout, worker: WorkerSpec) -> str:
    """Return why what the strategy starts beside the old instances has no place, before it starts any of it."""
    replicas = way.replicas(part)
    count = needs_beside(way.revision, worker, part.strategy, replicas)
    if part.has_two_sets:  # a preview that is replaced has its place already
        held = way.draft.assigned.get((way.rollout.id, part.worker), {})
        count -= sum(slot in held for slot in range(part.new_base, part.new_base + replicas))
    return lacks_room(way.draft.table, way.revision, worker, count) if count > 0 else ""


def _roll(way: Way, part: WorkerRollout, facts: WorkerFacts) -> WorkerRollout:
    one = facts.sets[0] if facts.sets else SetFacts(0, is_settled=True)
    if not one.is_settled:
        if part.strategy == "in-place":
            # nothing of it is restarted, so that it is not ready says nothing about the revision
            is_taken = one.old == 0 and one.fresh >= one.size
            if is_taken:
                return _promote(way, part)
        if one.stopped:
            return _waits(part, f"{one.pending}, which is stopped on request, to be started", is_paused=True)
        return _waits(part, f"{_availability(one, part.worker)}, {one.fresh} of the new revision")
    return _promote(way, part)


def _promote(way: Way, part: WorkerRollout) -> WorkerRollout:
    return _next(way, part, Stage.PROMOTED if part.has_two_sets else Stage.DONE)


# --- canary --------------------------------------------------------------------------------------


def _canary_step(way: Way, part: WorkerRollout, facts: WorkerFacts) -> WorkerRollout:
    steps = way.spec(part).steps
    if part.step >= len(steps) or way.skips(part):
        return _next(way, part, Stage.SCALING)
    step = steps[part.step]
    match step:
        case SetWeight(percent=percent):
            return _set_weight(way, part, facts, percent)
        case SetCanaryScale(replicas=count, percent=percent):
            asked = replace(part, scale_replicas=count, scale_percent=percent)
            if asked != part or not part.has_two_sets:
                return asked if part.has_two_sets and asked != part else _step_done(way, part)
            canary = facts.sets[1]
            return _step_done(way, part) if canary.is_settled else _waits(part, _availability(canary, "canary"))
        case Pause(duration_s=duration_s):
            return _pause(way, part, duration_s)
        case Approve(text=text):
            if way.is_promoted(part):
                return _step_done(way, part)
            said = f": {text}" if text else ""
            return _waits(part, f"approval{said} (`hsu-cluster rollout promote`)", is_paused=True)
        case Analyse(names=names):
            verdict = analyse(way, part, f"step{part.step}", names)
            if verdict is Verdict.SUCCESSFUL or way.is_promoted(part):
                _end_runs(way, part, f"step{part.step}", names)
                return _step_done(way, part)
            return _waits_for_analysis(way, part, names, verdict)


def _step_done(way: Way, part: WorkerRollout) -> WorkerRollout:
    total = len(way.spec(part).steps)
    way.events.append(("RolloutStep", f"worker {part.worker}: step {part.step + 1} of {total} is done"))
    return _next(way, part, Stage.STEPS, step=part.step + 1)


def _set_weight(way: Way, part: WorkerRollout, facts: WorkerFacts, percent: int) -> WorkerRollout:
    if part.weight != percent:
        return replace(part, weight=percent, traffic=min(part.traffic, percent), waits_for="", is_paused=False)
    if not part.has_two_sets:
        one = facts.sets[0]
        if not one.is_settled:
            return _waits(part, f"{_availability(one, part.worker)}, {one.fresh} of the new revision ({percent} %)")
        return _step_done(way, part)
    canary = facts.sets[1]
    if part.traffic < percent:
        if not canary.is_settled:
            return _waits(part, _availability(canary, "canary"))
        return replace(part, traffic=percent, waits_for=f"routes to give it {percent} %")
    unconfirmed = unconfirmed_route(way.draft.view, way.rollout, part)
    return _waits(part, unconfirmed) if unconfirmed else _step_done(way, part)


def _pause(way: Way, part: WorkerRollout, duration_s: float | None) -> WorkerRollout:
    if way.is_promoted(part):
        return _step_done(way, part)
    if duration_s is None:
        return _waits(part, "a person (`hsu-cluster rollout promote`)", is_paused=True)
    ends_s = part.since_at + duration_s
    if way.now_s >= ends_s and not way.intent.is_paused:
        return _step_done(way, part)
    way.draft.retry_at(ends_s)
    return _waits(part, f"a pause of {duration_s:g} s to end", is_paused=True)


def _watch_background(way: Way, part: WorkerRollout) -> Verdict:
    names = way.spec(part).analysis
    if not names or way.skips(part):
        return Verdict.SUCCESSFUL
    return analyse(way, part, "background", names, is_background=True)


# --- blue-green ----------------------------------------------------------------------------------


def _wait_for_promotion(way: Way, part: WorkerRollout) -> WorkerRollout:
    spec = way.spec(part)
    if way.is_promoted(part):
        return _next(way, part, Stage.SCALING)
    if not spec.is_auto_promoted:
        return _waits(part, "a person (`hsu-cluster rollout promote`)", is_paused=True)
    ends_s = part.since_at + spec.auto_promote_after_s
    if way.now_s >= ends_s and not way.intent.is_paused:
        return _next(way, part, Stage.SCALING)
    way.draft.retry_at(ends_s)
    return _waits(part, f"auto_promote_after ({spec.auto_promote_after_s:g} s)", is_paused=True)


def _scale(way: Way, part: WorkerRollout, facts: WorkerFacts) -> WorkerRollout:
    if not part.has_two_sets:
        return _next_after_scale(way, part, facts)
    second = facts.sets[1]
    if not second.is_settled or second.size < second_size_of(way, part):
        return _waits(part, _availability(second, "new"))
    if part.traffic < ALL:
        return replace(part, weight=ALL, traffic=ALL, waits_for="routes to give it all traffic")
    unconfirmed = unconfirmed_route(way.draft.view, way.rollout, part)
    if unconfirmed:
        return _waits(part, unconfirmed)
    way.events.append(("RolloutSwitched", f"worker {part.worker}: revision {way.rollout.revision} has all traffic"))
    return _next(way, part, Stage.SWITCHED)


def second_size_of(way: Way, part: WorkerRollout) -> int:
    """Return the full size of the second set."""
    worker = way.revision.spec.worker(part.worker)
    if worker is None:
        return 0
    return second_size(worker, part, way.replicas(part))


def _next_after_scale(way: Way, part: WorkerRollout, facts: WorkerFacts) -> WorkerRollout:
    rolled = _roll(way, part, facts)
    if rolled.stage is Stage.SCALING:
        return rolled
    return _judged(way, part, rolled)


def _switched(way: Way, part: WorkerRollout) -> WorkerRollout:
    spec = way.spec(part)
    if part.strategy == "blue-green":
        return _analysed(way, part, "post", spec.post_promotion, Stage.PROMOTED)
    return _judged(way, part, _promote(way, part))


def _judged(way: Way, part: WorkerRollout, promoted: WorkerRollout) -> WorkerRollout:
    """Return the promoted worker, once its background analysis has been told to end and has judged."""
    names = way.spec(part).analysis
    if part.strategy != "canary" or not names or way.skips(part):
        return promoted
    _end_runs(way, part, "background", names)
    verdict = analyse(way, part, "background", names, is_background=True)
    if verdict is Verdict.SUCCESSFUL or way.is_promoted(part):
        return promoted
    return _waits_for_analysis(way, part, names, verdict)


# --- analysis ------------------------------------------------------------------------------------


def run_id(rollout: Rollout, part: WorkerRollout, place: str, analysis: str) -> str:
    """Return the id of a run: `3-0-web-step2-errors`."""
    return f"{rollout.revision}-{rollout.attempt}-{part.worker}-{place}-{analysis}"


def analyse(
    way: Way, part: WorkerRollout, place: str, names: tuple[str, ...], *, is_background: bool = False
) -> Verdict:
    """Return the worst verdict of these analyses at one place, begun if need be; a failed one fails the rollout."""
    worst = Verdict.SUCCESSFUL
    for name in names:
        wanted = run_id(way.rollout, part, place, name)
        run = way.draft.view.runs.get((way.rollout.id, wanted))
        if run is None:
            run = AnalysisRun(
                way.rollout.id, wanted, name, part.worker, way.rollout.revision, way.rollout.stable, way.now_s,
                is_background=is_background,
            )  # fmt: skip
            if all(begun.id != wanted for begun in way.runs):
                way.runs.append(run)
        if run.verdict in (Verdict.FAILED, Verdict.ERROR):
            way.fail(f"analysis {name} of worker {part.worker}: {run.verdict}" + (f", {run.text}" if run.text else ""))
        worst = max(worst, run.verdict, key=VERDICTS.index)
    return worst


def _analysed(way: Way, part: WorkerRollout, place: str, names: tuple[str, ...], after: Stage) -> WorkerRollout:
    if not names or way.skips(part):
        return _next(way, part, after)
    verdict = analyse(way, part, place, names)
    if verdict is Verdict.SUCCESSFUL or way.is_promoted(part):
        _end_runs(way, part, place, names)
        return _next(way, part, after)
    return _waits_for_analysis(way, part, names, verdict)


def _waits_for_analysis(way: Way, part: WorkerRollout, names: tuple[str, ...], verdict: Verdict) -> WorkerRollout:
    what = f"analysis {', '.join(names)}"
    if verdict is Verdict.INCONCLUSIVE:
        return _waits(
            part, f"a person: {what} is inconclusive (`hsu-cluster rollout promote` or abort)", is_paused=True
        )
    return _waits(part, what)


def _end_runs(way: Way, part: WorkerRollout, place: str, names: tuple[str, ...]) -> None:
    """Tell runs that no more of them is needed."""
    for name in names:
        run = way.draft.view.runs.get((way.rollout.id, run_id(way.rollout, part, place, name)))
        if run is not None and not run.is_ended and run.finished_at is None:
            way.runs.append(replace(run, is_ended=True))


def end_all_runs(draft: Draft, rollout: Rollout) -> list[PutRun]:
    """Return what tells every run of the rollout that no more of it is needed."""
    mine = f"{rollout.revision}-{rollout.attempt}-"
    return [
        PutRun(replace(run, is_ended=True))
        for (app, name), run in sorted(draft.view.runs.items())
        if app == rollout.id and name.startswith(mine) and not run.is_ended and run.finished_at is None
    ]
