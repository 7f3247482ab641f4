"""What people ask of a rollout, as pure edits of the app's head: promote, pause, resume, abort, retry.

An edit is for the rollout of the app's present revision. A promotion names the places it is for, so that asking twice
skips nothing; an abort wins over any promotion. Each raises Conflict, with what to do instead, where it means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hsu_core.model.assignment import AppRecord
from hsu_core.model.errors import Conflict, NotFound
from hsu_core.model.rollout import Rollout, RolloutIntent, RolloutPhase, WorkerRollout

Edit = Callable[[AppRecord, Rollout], AppRecord]


def promote(record: AppRecord, rollout: Rollout, worker: str | None = None) -> AppRecord:
    """Return the record in which what waits now (of `worker`, or of all) need not wait any longer."""
    intent = _intent(record, rollout)
    _check_running(record, rollout, intent, "promote")
    _check_not_paused(record, intent)
    waiting = [part for part in _parts(record, rollout, worker) if _can_be_promoted(part)]
    if not waiting:
        told = rollout.text or "it has just begun"
        raise Conflict(
            f"promote the rollout of {record.id}", f"nothing of it waits for a promotion: {told}",
            "wait, or skip all steps and analyses with --full", code="conflict.not-waiting",
        )  # fmt: skip
    promoted = {*intent.promoted, *((part.worker, part.position) for part in waiting)}
    return replace(record, rollout=replace(intent, promoted=tuple(sorted(promoted))))


def promote_full(record: AppRecord, rollout: Rollout) -> AppRecord:
    """Return the record in which no step, pause or analysis is left; surge and floor still hold."""
    intent = _intent(record, rollout)
    _check_running(record, rollout, intent, "promote")
    _check_not_paused(record, intent)
    return replace(record, rollout=replace(intent, is_full=True))


def pause(record: AppRecord, rollout: Rollout) -> AppRecord:
    """Return the record in which the rollout goes no further until it is resumed."""
    intent = _intent(record, rollout)
    _check_running(record, rollout, intent, "pause")
    return replace(record, rollout=replace(intent, is_paused=True))


def resume(record: AppRecord, rollout: Rollout) -> AppRecord:
    """Return the record in which a paused rollout goes on; what its steps wait for is still waited for."""
    intent = _intent(record, rollout)
    _check_running(record, rollout, intent, "resume")
    return replace(record, rollout=replace(intent, is_paused=False))


def abort(record: AppRecord, rollout: Rollout) -> AppRecord:
    """Return the record in which everything goes back to the stable revision."""
    intent = _intent(record, rollout)
    if rollout.is_going_back or intent.is_aborted:
        return record
    _check_running(record, rollout, intent, "abort")
    if not rollout.stable:
        raise Conflict(
            f"abort the rollout of {record.id}", f"revision {rollout.revision} is the first that works or does not",
            f"deploy another, or remove it with `hsu-cluster remove {record.id.app}`", code="conflict.no-stable",
        )  # fmt: skip
    return replace(record, rollout=replace(intent, is_aborted=True, is_paused=False))


def retry(record: AppRecord, rollout: Rollout) -> AppRecord:
    """Return the record in which a rollout that was aborted or rolled back begins again, at its first step."""
    intent = _intent(record, rollout)
    if not rollout.is_going_back and not intent.is_aborted:
        raise Conflict(
            f"retry the rollout of {record.id}", f"it was neither aborted nor rolled back: {rollout.text}",
            "deploy a changed manifest", code="conflict.not-failed",
        )  # fmt: skip
    return replace(record, rollout=RolloutIntent(rollout.revision, max(rollout.attempt, intent.attempt) + 1))


def _intent(record: AppRecord, rollout: Rollout) -> RolloutIntent:
    """Return what was asked of this rollout so far."""
    if record.rollout.revision == rollout.revision:
        return record.rollout
    return RolloutIntent(rollout.revision, rollout.attempt)


def _check_running(record: AppRecord, rollout: Rollout, intent: RolloutIntent, verb: str) -> None:
    what = f"{verb} the rollout of {record.id}"
    if rollout.is_going_back or intent.is_aborted:
        raise Conflict(
            what, f"it goes back to revision {rollout.stable}: {rollout.failed_why or 'it was aborted'}",
            f"begin again with `hsu-cluster rollout retry {record.id.app}`", code="conflict.aborted",
        )  # fmt: skip
    if rollout.is_over and rollout.phase is RolloutPhase.HEALTHY:
        raise Conflict(
            what, f"it is over: {rollout.text}",
            f"go back with `hsu-cluster rollout undo {record.id.app}`", code="conflict.rollout-over",
        )  # fmt: skip


def _check_not_paused(record: AppRecord, intent: RolloutIntent) -> None:
    if intent.is_paused:
        raise Conflict(
            f"promote the rollout of {record.id}", "it is paused on request",
            f"let it go on first, with `hsu-cluster rollout resume {record.id.app}`", code="conflict.paused",
        )  # fmt: skip


def _parts(record: AppRecord, rollout: Rollout, worker: str | None) -> tuple[WorkerRollout, ...]:
    if worker is None:
        return rollout.workers
    part = rollout.worker(worker)
    if part is None:
        names = ", ".join(each.worker for each in rollout.workers) or "none"
        raise NotFound(f"find worker {worker} of {record.id}", f"its rollout has {names}", "name one of them")
    return (part,)


def _can_be_promoted(part: WorkerRollout) -> bool:
    """Return whether the present place is one that a person may end: a pause, an approval, an analysis."""
    return part.is_paused or part.waits_for.startswith("analysis")
