"""What to change so that the cluster becomes what was asked: the planner of the leader's loop. Pure.

`reconcile` reads an immutable view and returns actions and, for all that is not done now, a reason.
It is level-triggered: it may be called at any time, for all apps or some, and after its actions
are applied and reported back it returns less, until it returns nothing. It must not know how
actions are applied. Order within one pass: what goes away gives room first (`departures`), then each
worker's slots are moved, replaced in waves and placed (`waves`).
"""

from __future__ import annotations

from collections.abc import Collection

from hsu_cluster.planning.departures import plan_drops, plan_forgotten
from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.slots import WorkerTarget, worker_targets
from hsu_cluster.planning.waves import plan_worker
from hsu_core.model.ids import AppId
from hsu_core.model.view import ClusterView, Plan


def reconcile(view: ClusterView, now_s: float, *, apps: Collection[AppId] | None = None) -> Plan:
    """Return what to do now for `apps` (None: all), and what is waited for.

    Scale-down drops the highest slots, so that slots stay numbered 0..n-1. Raises Bug when an
    assignment is newer than the view: such a view was not built from the store.
    """
    wanted = None if apps is None else frozenset(apps)
    draft = Draft(view, now_s, wanted)
    targets: list[WorkerTarget] = []
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
        targets += worker_targets(record, revision)
    plan_drops(draft, targets)
    for target in targets:
        plan_worker(draft, target)
    plan_forgotten(draft)
    return draft.plan()
