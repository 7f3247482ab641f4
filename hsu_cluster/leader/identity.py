"""Which incarnation of the cluster a leadership leads, and how it notices that the store is not what it was.

Two witnesses tell of a store that was restored from an older state: its own identity is another one than the
cluster's record says (another etcd cluster), or an agent has heard of a later revision of this incarnation than the
store has (revisions of one history never go back). Then the leader begins a new incarnation that is held: nothing is
planned, agents keep the work of the former one, until an administrator accepts (`api.restore`). It is one fenced
write; after it the leader gives up its term, and whoever leads next reads the new record. So it does not matter
where anybody dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_core.model.errors import StoreError, StoreUnavailable
from hsu_core.model.records import ClusterRecord
from hsu_core.store.base import Put, Store
from hsu_core.store.campaign import Leadership
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import Hello

log = logging.getLogger(__name__)

INCARNATION_BYTES = 8
"""Random bytes of an incarnation: never the same twice."""


class Identity:
    """The cluster's record as one leadership knows it; `clock` gives seconds since 1970."""

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        writer: FencedWriter,
        leadership: Leadership,
        *,
        clock: Callable[[], float],
        token: Callable[[int], str],
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._writer = writer
        self._leadership = leadership
        self._clock = clock
        self._token = token

    @property
    def record(self) -> ClusterRecord:
        """Return the record as the snapshot has it."""
        return self._snapshot.cluster or ClusterRecord("")

    async def establish(self) -> None:
        """Make sure that there is a record, and that it is this store's. Raises StoreError, LeaseLost."""
        if keys.CLUSTER in self._snapshot.unreadable:
            raise StoreError("lead", f"{keys.CLUSTER} holds what this version cannot read", "restore it, or upgrade")
        store_id = (await self._store.status()).cluster_id
        record = self._snapshot.cluster
        if record is None:
            # Never the incarnation of before, even if this process knows it: the store was wiped.
            await self._write(ClusterRecord(self._new(), self._clock(), store_id=store_id))
        elif not record.store_id:
            await self._write(replace(record, store_id=store_id))
        elif record.store_id != store_id:
            await self._begin_anew(
                f"its data was made by store {record.store_id}, and this one is {store_id}", store_id
            )

    async def check(self, hello: Hello) -> None:
        """Begin a new incarnation if an agent has seen a later state of this one than the store has.

        Returns once the view is as far as what the agent has heard of. Raises StoreError; LeaseLost also when a new
        incarnation was begun.
        """
        if hello.incarnation != self.record.incarnation:
            return
        if hello.term > self._leadership.term:
            leader = await self._store.get(keys.LEADER)
            if leader is not None and leader.create_revision == self._leadership.term:
                await self._begin_anew(
                    f"node {hello.node} obeyed term {hello.term}, and the present one is {self._leadership.term}"
                )
        if hello.revision > self._snapshot.revision:
            present = (await self._store.range(keys.CLUSTER, limit=1)).revision
            if hello.revision > present:
                await self._begin_anew(
                    f"node {hello.node} has heard of revision {hello.revision}, and the store is at {present}"
                )
            await self._snapshot.reach(hello.revision)

    def held_by(self, hello: Hello) -> str:
        """Return the other incarnation that an agent holds the work of, empty if it obeys."""
        known = ("", self.record.incarnation, *self.record.accepted)
        return hello.incarnation if hello.workers and hello.incarnation not in known else ""

    async def _begin_anew(self, why: str, store_id: str | None = None) -> None:
        former = self.record
        held = f"the store was restored from an older state: {why}"
        record = ClusterRecord(
            self._new(),
            self._clock(),
            former=former.incarnation,
            held=held,
            store_id=former.store_id if store_id is None else store_id,
        )
        log.error("%s; new incarnation %s is held until `hsu-cluster doctor accept-restore`", held, record.incarnation)
        await self._write(record, self._writer.event("StoreRestored", "cluster", held))
        await self._leadership.resign()
        raise StoreUnavailable("go on leading", held, "the next leader leads the new incarnation")

    async def _write(self, record: ClusterRecord, *others: Put) -> None:
        await self._writer.write([Put(keys.CLUSTER, encode(record)), *others])
        self._snapshot.cluster = record

    def _new(self) -> str:
        return self._token(INCARNATION_BYTES)
