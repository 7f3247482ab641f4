"""Who watches what: one watch of the store per master, handed out as change notices and kept in the mirror.

A notice says what kind of thing changed, not how: the reader asks again. So notices that a reader has
not taken yet are merged into one, and a slow reader costs a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web

from hsu_cluster.api.outage import OutageStore
from hsu_cluster.client.documents import NoticeDocument
from hsu_core.model.errors import StoreError
from hsu_core.runtime.tasks import Wake, keep_running
from hsu_core.store.base import Resync, range_all
from hsu_core.wire import keys

KINDS: Mapping[str, str] = {
    "apps": "apps",
    "revisions": "apps",
    "assignments": "instances",
    "status": "instances",
    "routes": "routes",
    "nodes": "nodes",
    "node-intents": "nodes",
    "rebalance": "nodes",
    "events": "events",
    "masters": "cluster",
    "rollouts": "apps",
    "runs": "apps",
    "leader": "cluster",
    "cluster": "cluster",
}
"""Kind of notice for each family of keys; other families (tokens) are nobody's business."""

ALL_KINDS = frozenset(KINDS.values())

APPS_LIMIT = 200
"""Apps named in one notice; beyond it the notice names none, which means: any."""


class Subscription:
    """What one watcher has not been told yet."""

    def __init__(self, kinds: frozenset[str], namespace: str | None, app: str | None) -> None:
        self._wanted = kinds or ALL_KINDS
        self._namespace = namespace
        self._app = app
        self._wake = Wake()
        self._kinds: set[str] = set()
        self._apps: set[str] = set()
        self._is_any_app = False
        self._revision = 0
        self.is_closed = False

    def close(self) -> None:
        """End the watch: nothing more will come."""
        self.is_closed = True
        self._wake.wake()

    def add(self, revision: int, family: str, rest: list[str]) -> None:
        """Note one change, if it is wanted."""
        kind = KINDS.get(family)
        if kind is None or kind not in self._wanted:
            return
        if kind in ("apps", "instances", "routes"):
            if self._namespace not in (None, rest[0]) or self._app not in (None, rest[1]):
                return
            self._apps.add(f"{rest[0]}/{rest[1]}")
        self._note(revision, {kind})

    def add_everything(self, revision: int) -> None:
        """Note that anything may have changed."""
        self._is_any_app = True
        self._note(revision, set(self._wanted))

    def _note(self, revision: int, kinds: set[str]) -> None:
        self._kinds |= kinds
        self._revision = max(self._revision, revision)
        if len(self._apps) > APPS_LIMIT:
            self._is_any_app = True
        self._wake.wake()

    async def next(self, timeout_s: float) -> NoticeDocument | None:
        """Wait for changes and return them as one notice; None if there was none for `timeout_s`."""
        if not self._kinds:
            await self._wake.wait(timeout_s)
        if not self._kinds:
            return None
        notice: NoticeDocument = {
            "revision": self._revision,
            "kinds": sorted(self._kinds),
            "apps": [] if self._is_any_app else sorted(self._apps),
        }
        self._kinds, self._apps, self._is_any_app = set(), set(), False
        return notice


class NoticeHub:
    """One watch of the store, many subscriptions."""

    def __init__(self, store: OutageStore) -> None:
        self._store = store
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(self, kinds: frozenset[str], namespace: str | None, app: str | None) -> Iterator[Subscription]:
        """Give a subscription that gathers changes until the context is left."""
        subscription = Subscription(kinds, namespace, app)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def close(self, _: web.Application) -> None:
        """End every watch: the server stops."""
        for subscription in self._subscriptions:
            subscription.close()

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Follow the store for the life of the application (an aiohttp cleanup context)."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(
                keep_running("watch for notices", self._follow, expected=(StoreError,), ceiling_s=2.0),
                name="api notices",
            )
            pulse = group.create_task(self._store.pulse(), name="api pulse")
            yield
            following.cancel()
            pulse.cancel()

    async def _follow(self) -> None:
        while True:
            everything = await range_all(self._store, keys.ROOT)
            revision = everything.revision
            self._store.mirror.load(everything.entries, revision)
            for subscription in self._subscriptions:
                subscription.add_everything(revision)  # what happened until the watch stands is not known
            async with self._store.watch(keys.ROOT, after_revision=revision) as batches:
                async for batch in batches:
                    if isinstance(batch, Resync):
                        break
                    self._store.mirror.apply(batch.events, batch.revision)
                    for event in batch.events:
                        family, *rest = keys.parts(event.entry.key)
                        for subscription in self._subscriptions:
                            subscription.add(batch.revision, family, rest)
