"""What the API reads: a part of the cluster's state at ONE store revision, so that an answer never mixes two.

A read asks the store for its present revision first (linearizable) and then for the ranges at that
revision. What was read at a revision never changes, so it is kept for the next reader: the pages of
one list, and everybody who looks while nothing happens, cost one short question.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsu_cluster.planning.drain import DrainProgress
from hsu_cluster.planning.layout import Layout, app_layouts
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.rollout_begin import rollout_of
from hsu_core.model.analysis import AnalysisRun
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.errors import Compacted, StoreUnavailable
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import DEFAULT_TIMES, NodeIntent, NodeRecord, NodeTimes
from hsu_core.model.rebalance import Rebalance, RebalanceIntent
from hsu_core.model.rollout import Rollout
from hsu_core.model.routes import RouteState
from hsu_core.model.view import ClusterView
from hsu_core.store.base import Entry, Page, Store
from hsu_core.wire import keys
from hsu_core.wire.codec import decode

KEPT_READINGS = 8
"""Readings kept; the largest (50,000 instances) is some 50 MB, and old ones make room."""

KEPT_RECORDS = 200_000
"""Decoded records kept: about twice what 50,000 instances have."""

CHEAP_S = 0.05
"""A reading of everything that took less is made anew for every explanation."""

COST_FACTOR = 10.0
"""An expensive one is used again for so many times what it took: explaining costs a tenth of the time at most."""

AGE_LIMIT_S = 10.0
"""But never for longer: reasons and usage of nodes are seconds old at worst."""

TRIES = 3
"""How often a read starts again when a compaction or an outage of the store overtakes it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is read: everything, one namespace, or one app; the nodes always, and alone with `is_nodes_only`."""

    namespace: str | None = None
    app: str | None = None
    is_nodes_only: bool = False

    @property
    def app_id(self) -> AppId | None:
        """Return the app of a scope of one app."""
        return AppId(self.namespace, self.app) if self.namespace is not None and self.app is not None else None

    def prefix(self, family: str) -> str:
        """Return the prefix of the scope's keys in a family that is ordered by namespace and app."""
        if self.namespace is None:
            return family
        if self.app is None:
            return f"{family}{self.namespace}/"
        return f"{family}{self.namespace}/{self.app}" + ("" if family in (keys.APPS, keys.ROLLOUTS) else "/")

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Return the prefixes of all keys of the scope."""
        families = (
            ()
            if self.is_nodes_only
            else (keys.APPS, keys.REVISIONS, keys.ASSIGNMENTS, keys.STATUS, keys.ROLLOUTS, keys.RUNS, keys.ROUTES)
        )
        return (*map(self.prefix, families), keys.NODES, keys.NODE_INTENTS, keys.REBALANCE)


EVERYTHING = Scope()
NODES_ONLY = Scope(is_nodes_only=True)


@dataclass(frozen=True, slots=True)
class InstanceIndex:
    """All instances of a view in order: assigned, missing, or only seen; and the newest status of each."""

    order: Sequence[InstanceId]
    latest: Mapping[InstanceId, InstanceStatus]


@dataclass(slots=True)
class Reading:
    """A view, and for each store key in it the revision of its last change. The rest is worked out when needed."""

    scope: Scope
    view: ClusterView
    changed: Mapping[str, int]
    unplaced: Mapping[InstanceId, str] | None = None
    drains: Mapping[str, DrainProgress] | None = None
    _index: InstanceIndex | None = None

    @property
    def index(self) -> InstanceIndex:
        """Return the index of the instances."""
        if self._index is None:
            self._index = _index_of(self.view)
        return self._index

    @property
    def revision(self) -> int:
        """Return the store revision of the reading."""
        return self.view.revision


class Reader:
    """Reads from one store; `clock` gives seconds since 1970 to the planner that explains unplaced slots."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        times: NodeTimes = DEFAULT_TIMES,
    ) -> None:
        self._store = store
        self._times = times
        self._clock = clock
        self._monotonic = monotonic
        self._overview: Reading | None = None
        self._overview_until_s = 0.0
        self._looking = asyncio.Lock()
        self._readings: OrderedDict[tuple[Scope, int], Reading] = OrderedDict()
        self._records: dict[str, tuple[int, Any]] = {}

    async def read(self, scope: Scope = EVERYTHING, *, revision: int | None = None) -> Reading:
        """Return the scope as of now, or at an earlier `revision`. Raises Compacted if that is gone."""
        if revision is not None:
            return await self._at(scope, revision)
        for attempt in range(TRIES):
            present = (await self._store.range(keys.CLUSTER, limit=1)).revision
            try:
                return await self._at(scope, present)
            except (Compacted, StoreUnavailable):  # it went away in between: perhaps an older reading can be had
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def unplaced(self, reading: Reading) -> Mapping[InstanceId, str]:
        """Return for each slot that no node can take the reason of the planner."""
        if reading.unplaced is None:
            reading.unplaced = await self._explain(reading)
        return reading.unplaced

    async def _explain(self, reading: Reading) -> Mapping[InstanceId, str]:
        missing = missing_slots(reading.view)
        if not missing:
            return {}
        overview = await self.overview()
        apps = {instance.app_id for instance in missing}
        plan = await asyncio.to_thread(reconcile, overview.view, self._clock(), apps=apps)
        return {instance: plan.unplaced[instance] for instance in missing if instance in plan.unplaced}

    async def overview(self) -> Reading:
        """Return a recent reading of everything: for what explains or sums up, and need not be of one revision."""
        async with self._looking:
            if self._overview is not None and self._monotonic() < self._overview_until_s:
                return self._overview
            started_s = self._monotonic()
            self._overview = await self.read(EVERYTHING)
            now_s = self._monotonic()
            took_s = now_s - started_s
            age_s = 0.0 if took_s < CHEAP_S else min(COST_FACTOR * took_s, AGE_LIMIT_S)
            self._overview_until_s = now_s + age_s
            return self._overview

    async def _at(self, scope: Scope, revision: int) -> Reading:
        kept = self._readings.get((scope, revision))
        if kept is not None:
            self._readings.move_to_end((scope, revision))
            return kept
        records: list[_Record] = []
        for prefix in scope.prefixes:
            records += await self._range(prefix, revision)
        reading = _build(scope, revision, records, self._times)
        self._readings[scope, revision] = reading
        while len(self._readings) > KEPT_READINGS:
            self._readings.popitem(last=False)
        return reading

    async def _range(self, prefix: str, revision: int) -> list[_Record]:
        found: list[_Record] = []
        start: str | None = None
        while True:
            page: Page = await self._store.range(prefix, start_key=start, revision=revision)
            found += [_Record(entry.key, entry.mod_revision, self._decode(entry)) for entry in page.entries]
            start = page.next_key
            if start is None:
                return found
            await asyncio.sleep(0)  # a local store answers without a pause: let others in between pages

    def _decode(self, entry: Entry) -> Any:
        known = self._records.get(entry.key)
        if known is not None and known[0] == entry.mod_revision:
            return known[1]
        record = decode(_kind_of(entry.key), entry.value)
        if len(self._records) >= KEPT_RECORDS:
            self._records.clear()
        self._records[entry.key] = (entry.mod_revision, record)
        return record


@dataclass(frozen=True, slots=True)
class _Record:
    key: str
    changed: int
    content: Any


def _build(scope: Scope, revision: int, records: list[_Record], times: NodeTimes) -> Reading:
    apps: dict[AppId, AppRecord] = {}
    revisions: dict[tuple[AppId, int], Revision] = {}
    assignments: dict[InstanceId, Assignment] = {}
    statuses: dict[tuple[InstanceId, str], InstanceStatus] = {}
    nodes: dict[str, NodeRecord] = {}
    intents: dict[str, NodeIntent] = {}
    rollouts: dict[AppId, Rollout] = {}
    runs: dict[tuple[AppId, str], AnalysisRun] = {}
    routes: dict[tuple[AppId, str], RouteState] = {}
    rebalance_intent: RebalanceIntent | None = None
    rebalance: Rebalance | None = None
    changed: dict[str, int] = {}
    for record in records:
        content = record.content
        if scope.app_id is not None and isinstance(content, AppRecord | Rollout) and content.id != scope.app_id:
            continue  # the prefix of app "shop" is also that of "shop2"
        changed[record.key] = record.changed
        if isinstance(content, Assignment):
            assignments[content.instance] = content
        elif isinstance(content, InstanceStatus):
            statuses[content.instance, content.node] = content
        elif isinstance(content, AppRecord):
            apps[content.id] = content
        elif isinstance(content, Revision):
            revisions[content.id, content.number] = content
        elif isinstance(content, NodeRecord):
            nodes[content.name] = content
        elif isinstance(content, NodeIntent):
            intents[content.name] = content
        elif isinstance(content, Rollout):
            rollouts[content.id] = content
        elif isinstance(content, AnalysisRun):
            runs[content.app, content.id] = content
        elif isinstance(content, RouteState):
            routes[content.app, content.name] = content
        elif isinstance(content, RebalanceIntent):
            rebalance_intent = content
        elif isinstance(content, Rebalance):
            rebalance = content
    view = ClusterView(
        revision,
        apps,
        revisions,
        assignments,
        statuses,
        nodes,
        intents,
        rollouts=rollouts,
        runs=runs,
        routes=routes,
        times=times,
        rebalance_intent=rebalance_intent,
        rebalance=rebalance,
    )
    return Reading(scope, view, changed)


_KINDS: Mapping[str, type[Any]] = {
    "apps": AppRecord,
    "revisions": Revision,
    "assignments": Assignment,
    "status": InstanceStatus,
    "nodes": NodeRecord,
    "node-intents": NodeIntent,
    "rollouts": Rollout,
    "runs": AnalysisRun,
    "routes": RouteState,
}


def _kind_of(key: str) -> type[Any]:
    """Return the type of the record at a key."""
    if key == keys.REBALANCE_INTENT:
        return RebalanceIntent
    return Rebalance if key == keys.REBALANCE_STATE else _KINDS[keys.parts(key)[0]]


def _index_of(view: ClusterView) -> InstanceIndex:
    latest: dict[InstanceId, InstanceStatus] = {}
    for (instance, _), status in view.statuses.items():
        known = latest.get(instance)
        if known is None or status.epoch > known.epoch:
            latest[instance] = status
    found = sorted({*view.assignments, *latest, *missing_slots(view)}, key=_order_key)
    return InstanceIndex(found, latest)


def _order_key(instance: InstanceId) -> tuple[str, str, str, int]:
    return instance.namespace, instance.app, instance.worker, instance.slot


def missing_slots(view: ClusterView) -> list[InstanceId]:
    """Return the slots that should exist and have no assignment, in order."""
    missing = []
    for app in sorted(view.apps):
        for layout in layouts_of(view, app):
            instances = (layout.target.instance(slot) for slot in layout.wanted_slots)
            missing += [instance for instance in instances if instance not in view.assignments]
    return missing


def layouts_of(view: ClusterView, app: AppId) -> tuple[Layout, ...]:
    """Return which slots the workers of an app should have (none while its revision is missing)."""
    record = view.apps[app]
    if (app, record.revision) not in view.revisions:
        return ()
    return app_layouts(record, view.revisions, rollout_of(view, record, 0.0))
