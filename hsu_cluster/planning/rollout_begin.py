"""How a rollout begins: from which revision, and what each worker's way is. Pure."""

from __future__ import annotations

from hsu_cluster.planning.layout import is_routed, may_run_twice
from hsu_cluster.planning.rollout_math import other_base
from hsu_cluster.planning.slots import target_of
from hsu_core.model.assignment import AppRecord, Revision
from hsu_core.model.rollout import Rollout, RolloutPhase, Stage, WorkerRollout
from hsu_core.model.view import ClusterView

PROVEN_KEPT = 20
"""As many revisions as are kept."""


def rollout_of(view: ClusterView, record: AppRecord, now_s: float) -> Rollout:
    """Return the rollout of the app's revision: the stored one, or the one that is about to begin."""
    held = view.rollouts.get(record.id)
    if held is not None and held.revision == record.revision:
        return held
    return begin(view, record, now_s)


def begin(view: ClusterView, record: AppRecord, now_s: float) -> Rollout:
    """Return the first record of the rollout to the app's revision, which must be in the view.

    What was on its way and is not proven is left: the stable revision is the last that a rollout ended well with.
    """
    last = view.rollouts.get(record.id)
    new = view.revisions[record.id, record.revision]
    stable = _stable(view, record, last)
    old = view.revisions.get((record.id, stable))
    proven = proven_revisions(last)
    is_skipping = old is not None and _is_within_window(view, proven, new, old)
    parts = [_begin_worker(record, new, old, _base(last, spec.id), spec.id, is_skipping) for spec in new.spec.workers]
    for spec in old.spec.workers if old is not None else ():
        if new.spec.worker(spec.id) is None:
            base = _base(last, spec.id)
            parts.append(WorkerRollout(spec.id, "remove", Stage.WAITING, base, base))
    intent = record.rollout
    return Rollout(
        id=record.id,
        revision=record.revision,
        stable=stable if old is not None else 0,
        attempt=intent.attempt if intent.revision == record.revision else 0,
        reason="RolloutStarted",
        text=f"revision {stable} to {record.revision}"
        if old is not None
        else f"revision {record.revision} is the first",
        workers=tuple(parts),
        proven=proven,
        started_at=now_s,
        progress_at=now_s,
    )


def _stable(view: ClusterView, record: AppRecord, last: Rollout | None) -> int:
    if last is not None:
        return last.revision if is_rolled_out(last) else last.stable
    # deployed by a release that kept no record of rollouts: what runs now is what worked
    running = {assignment.revision for instance, assignment in view.assignments.items() if instance.app_id == record.id}
    known = [number for number in running if number != record.revision and (record.id, number) in view.revisions]
    return max(known, default=0) if record.revision not in running else 0


def is_rolled_out(last: Rollout) -> bool:
    """Return whether its revision has ended well and was seen to work."""
    return last.is_over and last.phase is RolloutPhase.HEALTHY and not last.is_unproven


def _base(last: Rollout | None, worker: str) -> int:
    """Return the first slot of the set that the stable revision is in."""
    part = last.worker(worker) if last is not None else None
    if last is None or part is None:
        return 0
    has_moved = last.is_over and last.phase is RolloutPhase.HEALTHY and part.is_promoted
    return part.new_base if has_moved else part.stable_base


def _begin_worker(
    record: AppRecord, new: Revision, old: Revision | None, base: int, worker: str, is_skipping: bool
) -> WorkerRollout:
    target = target_of(record, new, worker)
    before = target_of(record, old, worker) if old is not None else None
    assert target is not None
    if before is not None and before.spec.is_enabled and not target.spec.is_enabled:
        return WorkerRollout(worker, "remove", Stage.WAITING, base, base)
    if before is None or not target.spec.is_enabled or not before.spec.is_enabled:
        return WorkerRollout(worker, "initial", Stage.ROLLING, base, base)
    if before.spec_hash == target.spec_hash:
        return WorkerRollout(worker, "in-place", Stage.ROLLING, base, base)
    strategy = target.spec.rollout.strategy
    has_two_sets = strategy == "blue-green" or (strategy == "canary" and is_routed(new, worker))
    if has_two_sets and not may_run_twice(target.spec):
        strategy, has_two_sets = "rolling", False
    return WorkerRollout(
        worker,
        strategy,
        Stage.WAITING,
        base,
        other_base(base, max(target.replicas, before.replicas)) if has_two_sets else base,
        skips_steps=is_skipping,
        replicas=target.replicas,
    )


def revision_state(last: Rollout | None, number: int) -> str:
    """Return what has become of a revision of the app, in one word (empty: no rollout tells)."""
    if last is None:
        return ""
    if number == last.revision:
        if last.is_going_back:
            return "aborted" if last.is_aborted else "failed"
        if not last.is_over:
            return "failed" if last.phase is RolloutPhase.DEGRADED else "rolling-out"
        return "unproven" if last.is_unproven else "stable"
    if number == last.stable and (last.is_going_back or not last.is_over):
        return "stable"
    if number > last.revision:
        return "rolling-out"
    return "proven" if number in proven_revisions(last) else "unproven"


def proven_revisions(last: Rollout | None) -> tuple[int, ...]:
    """Return the revisions that were rolled out well, oldest first, the newest PROVEN_KEPT of them."""
    if last is None:
        return ()
    is_proven = is_rolled_out(last) and last.revision not in last.proven
    return (*last.proven, *((last.revision,) if is_proven else ()))[-PROVEN_KEPT:]


def _is_within_window(view: ClusterView, proven: tuple[int, ...], new: Revision, old: Revision) -> bool:
    """Return whether the content was in force among the last revisions before the stable one (`rollback_window`)."""
    window = max((spec.rollout.rollback_window for spec in new.spec.workers), default=0)
    earlier = [view.revisions.get((new.id, number)) for number in reversed(proven) if number < old.number]
    return any(one is not None and one.content_hash == new.content_hash for one in earlier[:window])
