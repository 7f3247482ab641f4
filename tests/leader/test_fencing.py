"""A deposed leader commits nothing; the view is the store, whatever order things came in."""

from __future__ import annotations

import asyncio

import pytest

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import BATCH_LIMIT, FencedWriter
from hsu_core.model.assignment import Assignment
from hsu_core.model.errors import LeaseLost, StoreUnavailable
from hsu_core.model.ids import InstanceId
from hsu_core.store.base import Compare, Delete, Put, Target, range_all
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode


def _assignment(slot: int, node: str = "node-a", epoch: int = 1) -> Assignment:
    return Assignment(InstanceId("default", "shop", "web", slot), node, epoch, 1, "hash")


def _put(assignment: Assignment) -> Put:
    return Put(keys.assignment(assignment.instance), encode(assignment))


def test_a_deposed_leader_commits_nothing() -> None:
    async def main() -> None:
        store = MemoryStore()
        term = await store.put(keys.LEADER, b"one")
        writer = FencedWriter(store, Compare(keys.LEADER, Target.CREATE, term), lambda: 0.0)
        await writer.write([_put(_assignment(0))])
        await store.delete(keys.LEADER)
        await store.put(keys.LEADER, b"two")
        before = (await store.status()).revision
        with pytest.raises(LeaseLost):
            await writer.write([_put(_assignment(1))])
        assert (await store.status()).revision == before
        await store.close()

    asyncio.run(main())


def test_more_writes_than_a_transaction_holds_are_split() -> None:
    async def main() -> None:
        store = MemoryStore()
        term = await store.put(keys.LEADER, b"one")
        writer = FencedWriter(store, Compare(keys.LEADER, Target.CREATE, term), lambda: 0.0)
        count = 2 * BATCH_LIMIT + 1
        revision = await writer.write([_put(_assignment(slot)) for slot in range(count)])
        page = await range_all(store, keys.ASSIGNMENTS)
        assert len(page.entries) == count
        assert revision == page.revision
        await store.close()

    asyncio.run(main())


def test_the_view_follows_the_store_and_survives_compaction() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put(keys.assignment(_assignment(0).instance), encode(_assignment(0)))
        snapshot = Snapshot(store, lambda nodes: None)
        await snapshot.load()
        assert set(snapshot.view().assignments) == {_assignment(0).instance}

        moved = _assignment(0, "node-b", 2)
        result = await store.txn([], [_put(moved), _put(_assignment(1))])
        await store.txn([], [Delete(keys.assignment(_assignment(1).instance))])
        last = await store.put(keys.assignment(_assignment(2).instance), encode(_assignment(2)))
        await store.compact(result.revision + 1)  # the watch below begins before that: it has to list again

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            follow = group.create_task(snapshot.follow())
            await snapshot.reach(last)
            follow.cancel()
        assert snapshot.view().assignments == {a.instance: a for a in (moved, _assignment(2))}
        assert set(snapshot.assignments_of["node-b"]) == {moved.instance}
        assert set(snapshot.assignments_of["node-a"]) == {_assignment(2).instance}
        await store.close()

    asyncio.run(main())


def test_a_value_that_cannot_be_read_leaves_the_rest_of_the_view_alone() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put(keys.assignment(_assignment(0).instance), b"\xc1 bit rot")
        await store.put(keys.assignment(_assignment(1).instance), encode(_assignment(1)))
        snapshot = Snapshot(store, lambda nodes: None)
        await snapshot.load()
        assert set(snapshot.view().assignments) == {_assignment(1).instance}
        await store.close()

    asyncio.run(main())


def test_a_plan_of_a_view_that_lacks_the_last_plan_is_not_written() -> None:
    async def main() -> None:
        store = MemoryStore()
        term = await store.put(keys.LEADER, b"one")
        writer = FencedWriter(store, Compare(keys.LEADER, Target.CREATE, term), lambda: 0.0)
        snapshot = Snapshot(store, lambda nodes: None)
        await snapshot.load()
        assert snapshot.plan_revision == 0
        first = await writer.write([_put(_assignment(0))], after_plan=snapshot.plan_revision)  # its answer is lost
        with pytest.raises(StoreUnavailable):
            await writer.write([_put(_assignment(0, "node-b"))], after_plan=snapshot.plan_revision)
        await snapshot.load()
        assert snapshot.plan_revision == first
        await writer.write([_put(_assignment(0, "node-b", 2))], after_plan=snapshot.plan_revision)
        await store.close()

    asyncio.run(main())


def test_a_plan_in_many_transactions_is_one_plan() -> None:
    async def main() -> None:
        store = MemoryStore()
        term = await store.put(keys.LEADER, b"one")
        writer = FencedWriter(store, Compare(keys.LEADER, Target.CREATE, term), lambda: 0.0)
        await writer.write([_put(_assignment(slot)) for slot in range(2 * BATCH_LIMIT + 1)], after_plan=0)
        assert len((await range_all(store, keys.ASSIGNMENTS)).entries) == 2 * BATCH_LIMIT + 1
        await store.close()

    asyncio.run(main())
