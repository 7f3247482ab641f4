"""What to change so that the cluster becomes what was asked: the planner of the leader's loop. Pure.

`reconcile` reads an immutable view and returns actions and, for all that is not done now, a reason.
It is level-triggered: it may be called at any time, for all apps or some, and after its actions
are applied and reported back it returns less, until it returns nothing. It must not know how
actions are applied. Order within one pass: what goes away gives room first (`drops`), then each
worker's slots are moved, replaced in waves and placed (`waves`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hsu_cluster.planning.draft import NO_LEASES, Draft
from hsu_cluster.planning.drops import plan_drops, plan_forgotten
from hsu_cluster.planning.layout import Layout
from hsu_cluster.planning.rollout import plan_rollout
from hsu_cluster.planning.wave_set import with_helpers
from hsu_cluster.planning.waves import plan_worker
from hsu_core.model.ids import AppId
from hsu_core.model.rollout import Rollout, Stage
from hsu_core.model.view import ClusterView, DropRollout, DropRun, Plan, PutRollout


def reconcile(
    view: ClusterView,
    now_s: float,
    *,
    apps: Collection[AppId] | None = None,
    leases: Mapping[str, float] = NO_LEASES,
) -> Plan:
    """Return what to do now for `apps` (None: all), and what is waited for.

    `leases`: for lost nodes the seconds until the lease of each is surely over, where it is not: until then strict
    workers may run there. Scale-down drops the highest slots, so that slots stay numbered 0..n-1. Raises Bug when an
    assignment is newer than the view: such a view was not built from the store.
    """
    wanted = None if apps is None else frozenset(apps)
    draft = Draft(view, now_s, wanted, leases)
    layouts: list[Layout] = []
    rollouts: dict[AppId, Rollout] = {}
    for app in sorted(view.held if wanted is None else view.held & wanted):
        draft.wait(
            str(app),
            "record.unreadable",
            f"a record of {app} cannot be read by this release, so nothing of it is changed; upgrade this master, or "
            "see its log for the key",
        )
        draft.hold(app)
    for app in sorted(view.apps.keys() if wanted is None else view.apps.keys() & wanted):
        if app in draft.held:
            continue
        record = view.apps[app]
        revision = view.revisions.get((app, record.revision))
        if revision is None:
            draft.wait(
                str(app),
                "revision.missing",
                f"revision {record.revision} of {app} is not in the store; nothing of it is changed until it is, "
                "deploy the app again",
            )
            draft.hold(app)
            continue
        rollout, found = plan_rollout(draft, record)
        rollouts[app] = rollout
        layouts += found
    layouts = with_helpers(draft, layouts)
    plan_drops(draft, layouts)
    for layout in layouts:
        plan_worker(draft, layout)
    for rollout in rollouts.values():
        _give_room(draft, rollout)
    _forget_rollouts(draft)
    plan_forgotten(draft)
    return draft.plan()


def _give_room(draft: Draft, rollout: Rollout) -> None:
    """Let workers go that the new revision does not have, if something of the app has no place while they stay."""
    parts = [part for part in rollout.workers if part.strategy == "remove" and part.stage is not Stage.DONE]
    if not parts or rollout.is_going_back or not draft.lacks_room(rollout.id):
        return
    for part in parts:
        for assignment in draft.assigned.get((rollout.id, part.worker), {}).values():
            if not draft.is_changed(assignment.instance):
                draft.drop(assignment, f"revision {rollout.revision} has no worker {part.worker} and needs its room")
    gone = tuple(replace(part, stage=Stage.DONE) if part in parts else part for part in rollout.workers)
    draft.roll(PutRollout(replace(rollout, workers=gone)))


def _forget_rollouts(draft: Draft) -> None:
    """Forget rollouts and runs of apps that were removed."""
    view = draft.view
    gone = [app for app in view.rollouts if app not in view.apps and app not in view.held and draft.is_asked(app)]
    draft.roll(*(DropRollout(app) for app in sorted(gone)))
    draft.roll(*(DropRun(app, name) for app, name in sorted(view.runs) if app in gone))
