"""What the API reads: a part of the cluster's state at ONE store revision, so that an answer never mixes two.

A read asks the store for its present revision first (linearizable) and then for the ranges at that
revision. What was read at a revision never changes, so it is kept for the next reader: the pages of
one list, and everybody who looks while nothing happens, cost one short question.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.slots import worker_targets
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.errors import Compacted
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import NodeIntent, NodeRecord
from hsu_core.model.view import ClusterView
from hsu_core.store.base import Entry, Page, Store
from hsu_core.wire import keys
from hsu_core.wire.codec import decode

KEPT_READINGS = 8
"""Readings kept; the largest (50,000 instances) is some 50 MB, and old ones make room."""

KEPT_RECORDS = 200_000
"""Decoded records kept: about twice what 50,000 instances have."""

TRIES = 3
"""How often a read starts again when a compaction overtakes it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is read: everything, one namespace, or one app."""

    namespace: str | None = None
    app: str | None = None

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
        return f"{family}{self.namespace}/{self.app}" + ("" if family == keys.APPS else "/")


EVERYTHING = Scope()


@dataclass(slots=True)
class Reading:
    """A view, and for each store key in it the revision of its last change."""

    scope: Scope
    view: ClusterView
    changed: Mapping[str, int]
    unplaced: Mapping[InstanceId, str] | None = field(default=None)

    @property
    def revision(self) -> int:
        """Return the store revision of the reading."""
        return self.view.revision


class Reader:
    """Reads from one store; `clock` gives seconds since 1970 to the planner that explains unplaced slots."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
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
            except Compacted:
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
        full = await self.read(revision=reading.revision)
        apps = {instance.app_id for instance in missing}
        plan = await asyncio.to_thread(reconcile, full.view, self._clock(), apps=apps)
        return plan.unplaced

    async def _at(self, scope: Scope, revision: int) -> Reading:
        kept = self._readings.get((scope, revision))
        if kept is not None:
            self._readings.move_to_end((scope, revision))
            return kept
        entries: list[Entry] = []
        for prefix in (
            *(scope.prefix(family) for family in (keys.APPS, keys.REVISIONS, keys.ASSIGNMENTS, keys.STATUS)),
            keys.NODES,
            keys.NODE_INTENTS,
        ):
            entries += await self._range(prefix, revision)
        reading = self._build(scope, revision, entries)
        self._readings[scope, revision] = reading
        while len(self._readings) > KEPT_READINGS:
            self._readings.popitem(last=False)
        return reading

    async def _range(self, prefix: str, revision: int) -> list[Entry]:
        found: list[Entry] = []
        start: str | None = None
        while True:
            page: Page = await self._store.range(prefix, start_key=start, revision=revision)
            found += page.entries
            start = page.next_key
            if start is None:
                return found
            await asyncio.sleep(0)  # a local store answers without a pause: let others in between pages

    def _build(self, scope: Scope, revision: int, entries: list[Entry]) -> Reading:
        apps: dict[AppId, AppRecord] = {}
        revisions: dict[tuple[AppId, int], Revision] = {}
        assignments: dict[InstanceId, Assignment] = {}
        statuses: dict[tuple[InstanceId, str], InstanceStatus] = {}
        nodes: dict[str, NodeRecord] = {}
        intents: dict[str, NodeIntent] = {}
        changed: dict[str, int] = {}
        for entry in entries:
            record = self._decode(entry)
            if scope.app_id is not None and isinstance(record, AppRecord) and record.id != scope.app_id:
                continue  # the prefix of app "shop" is also that of "shop2"
            changed[entry.key] = entry.mod_revision
            if isinstance(record, Assignment):
                assignments[record.instance] = record
            elif isinstance(record, InstanceStatus):
                statuses[record.instance, record.node] = record
            elif isinstance(record, AppRecord):
                apps[record.id] = record
            elif isinstance(record, Revision):
                revisions[record.id, record.number] = record
            elif isinstance(record, NodeRecord):
                nodes[record.name] = record
            elif isinstance(record, NodeIntent):
                intents[record.name] = record
        view = ClusterView(revision, apps, revisions, assignments, statuses, nodes, intents)
        return Reading(scope, view, changed)

    def _decode(self, entry: Entry) -> Any:
        known = self._records.get(entry.key)
        if known is not None and known[0] == entry.mod_revision:
            return known[1]
        record = decode(_KINDS[keys.parts(entry.key)[0]], entry.value)
        if len(self._records) >= KEPT_RECORDS:
            self._records.clear()
        self._records[entry.key] = (entry.mod_revision, record)
        return record


_KINDS: Mapping[str, type[Any]] = {
    "apps": AppRecord,
    "revisions": Revision,
    "assignments": Assignment,
    "status": InstanceStatus,
    "nodes": NodeRecord,
    "node-intents": NodeIntent,
}


def missing_slots(view: ClusterView) -> list[InstanceId]:
    """Return the slots that should exist and have no assignment, in order."""
    missing = []
    for app, record in sorted(view.apps.items()):
        revision = view.revisions.get((app, record.revision))
        for target in worker_targets(record, revision) if revision is not None else ():
            for slot in range(target.replicas):
                instance = target.instance(slot)
                if instance not in view.assignments:
                    missing.append(instance)
    return missing
