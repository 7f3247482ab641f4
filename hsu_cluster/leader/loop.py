"""The planner loop: view, plan, apply, wait for the next change. All decisions are in `planning`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.rebalance import with_rebalance
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.ids import AppId
from hsu_core.model.view import (
    Action,
    ClusterView,
    DropAssignment,
    DropRollout,
    DropRun,
    DropStatus,
    Plan,
    PutAssignment,
    PutRebalance,
    PutRollout,
    PutRun,
)
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Delete, Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode

log = logging.getLogger(__name__)

IDLE_S = 30.0
"""Plan everything this often even if nothing seems to have changed: a missed change costs no more than this."""

EVENTS_OF_A_PLAN = 100
"""Most events of one plan; each is one key of the store."""

RETRY_S = 0.05
"""Shortest time between two plans that only the clock asks for."""


class Planner(Protocol):
    """Makes a plan of a view; `hsu_cluster.planning.reconcile` in the product."""

    def __call__(
        self, view: ClusterView, now_s: float, *, apps: Collection[AppId] | None, leases: Mapping[str, float]
    ) -> Plan:
        """Return what to do now for `apps` (None: all); `leases`: see `reconcile`."""
        ...


class PlannerLoop:
    """Turns the view into assignments, as long as this master leads."""

    def __init__(
        self,
        snapshot: Snapshot,
        writer: FencedWriter,
        wake: Wake,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        progress: Callable[[], None],
        interval_s: float,
        on_plan: Callable[[Plan, Collection[AppId] | None], None],
        leases: Callable[[], Mapping[str, float]] = dict,
        planner: Planner = reconcile,
    ) -> None:
        self._leases = leases
        self._planner = planner
        self._snapshot = snapshot
        self._writer = writer
        self._wake = wake
        self._clock = clock
        self._monotonic = monotonic
        self._progress = progress
        self._interval_s = interval_s
        self._on_plan = on_plan
        self.last_plan = Plan()

    async def run(self) -> None:
        """Plan until cancelled. Raises LeaseLost when another leads, StoreError when the store does not answer.

        It can be run again after an error: the first round then plans everything, from a view that holds what was
        written without an answer.
        """
        self._progress()
        await self._snapshot.catch_up()
        next_everything_s = 0.0
        due_s: float | None = None
        while True:
            self._progress()
            if self._snapshot.cluster is not None and self._snapshot.cluster.held:
                await self._wake.wait(self._interval_s)  # until a restore is accepted; then everything is planned
                continue
            now_s = self._monotonic()
            changes = self._snapshot.changes.take()
            is_due = due_s is not None and now_s >= due_s
            if changes or is_due or now_s >= next_everything_s:
                is_everything = bool(changes.nodes) or changes.is_everything or is_due or now_s >= next_everything_s
                if is_everything:
                    next_everything_s = now_s + IDLE_S
                async with self._writer.runs:
                    due_s = await self._round(None if is_everything else changes.apps, now_s, due_s)
                continue
            wait_s = min(self._interval_s, max((due_s or next_everything_s) - now_s, 0.01))
            await self._wake.wait(wait_s)

    async def _round(self, apps: set[AppId] | None, now_s: float, due_s: float | None) -> float | None:
        """Plan and apply once; return when time alone asks for the next plan, on the monotonic clock."""
        clock_s = self._clock()
        view = self._snapshot.view()
        plan = with_rebalance(self._planner(view, clock_s, apps=apps, leases=self._leases()), view, clock_s)
        self.last_plan = plan
        self._on_plan(plan, apps)
        if plan.actions:
            operations = [*map(operation_of, plan.actions), *self._events(plan.actions)]
            seen = self._snapshot.plan_revision
            revision = await self._writer.write(operations, self._progress, after_plan=seen)
            await self._snapshot.reach(revision)
        retry_s = None if plan.retry_at_s is None else now_s + plan.retry_at_s - clock_s
        times = [time_s for time_s in (retry_s, due_s if apps is not None else None) if time_s is not None]
        return max(min(times), now_s + RETRY_S) if times else None

    def _events(self, actions: Sequence[Action]) -> list[Put]:
        """Return one event for each app and reason."""
        counts: Counter[tuple[AppId, str, str, str]] = Counter()
        for action in actions:
            if isinstance(action, PutAssignment):
                code = "DrainForced" if action.forced_off else action.code
                counts[action.assignment.instance.app_id, code, action.why, action.forced_off] += 1
            elif isinstance(action, DropAssignment):
                code = "DrainForced" if action.forced_off else "Unassigned"
                counts[action.instance.app_id, code, action.why, action.forced_off] += 1
            elif isinstance(action, PutRollout):
                for code, text in action.events:
                    counts[action.rollout.id, code, text, ""] += 1
        told = [event for action in actions if isinstance(action, PutRebalance) for event in action.events]
        found = [self._writer.event(code, "rebalance", text) for code, text in told]
        return found + [
            self._writer.event(
                code, str(app), f"{count} of {app}: {why}" if count > 1 else why,
                namespace=app.namespace, app=app.app, node=node,
            )
            for (app, code, why, node), count in sorted(counts.items())[:EVENTS_OF_A_PLAN]
        ]  # fmt: skip


def operation_of(action: Action) -> Operation:
    """Return the store operation that carries out an action."""
    match action:
        case PutAssignment(assignment=assignment):
            return Put(keys.assignment(assignment.instance), encode(assignment))
        case DropAssignment(instance=instance):
            return Delete(keys.assignment(instance))
        case DropStatus(instance=instance, node=node):
            return Delete(keys.status(instance, node))
        case PutRollout(rollout=rollout):
            return Put(keys.rollout(rollout.id), encode(rollout))
        case DropRollout(app=app):
            return Delete(keys.rollout(app))
        case PutRun(run=run):
            return Put(keys.run(run.app, run.id), encode(run))
        case DropRun(app=app, id=run_id):
            return Delete(keys.run(app, run_id))
        case PutRebalance(rebalance=rebalance):
            return Put(keys.REBALANCE_STATE, encode(rebalance))
