"""The contract of the store protocol, on every backend."""

from __future__ import annotations

import asyncio

import pytest

from hsu_core.model.errors import Compacted, InvalidInput, LeaseLost, StoreUnavailable, TooLarge
from hsu_core.store.base import (
    TXN_LIMIT_BYTES,
    TXN_OPERATIONS_LIMIT,
    VALUE_LIMIT_BYTES,
    Compare,
    Delete,
    Entry,
    Event,
    Get,
    Operation,
    Put,
    Relation,
    Target,
    WatchBatch,
    range_all,
)
from tests.store.conftest import Backend
from tests.support.stores import (
    check_history,
    contents,
    eventually,
    keys_of,
    next_events,
    next_resync,
    revision_of,
)


async def test_get_of_a_missing_key_is_none(backend: Backend) -> None:
    async with backend.open() as store:
        assert await store.get(backend.prefix + "nothing") is None


async def test_put_returns_its_revision_and_get_reads_it_back(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        first = await store.put(key, b"one")
        second = await store.put(key, b"\x00\xff two")
        assert second == first + 1
        assert await store.get(key) == Entry(key, b"\x00\xff two", first, second, 2)


async def test_version_starts_anew_after_a_deletion(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        await store.put(key, b"1")
        assert await store.delete(key) is True
        assert await store.delete(key) is False
        revision = await store.put(key, b"2")
        assert await store.get(key) == Entry(key, b"2", revision, revision, 1)


async def test_deleting_nothing_makes_no_revision(backend: Backend) -> None:
    async with backend.open() as store:
        before = await store.put(backend.prefix + "a", b"")
        await store.delete(backend.prefix + "b")
        await store.txn([], [Delete(backend.prefix + "none/", is_prefix=True)])
        assert await revision_of(store) == before


async def test_keys_are_any_text_sorted_by_code_point(backend: Backend) -> None:
    names = ["z", "ä", "a b", "a", "\uffff", "\U00010000", "日本", "~", "a/b"]
    async with backend.open() as store:
        for name in names:
            await store.put(backend.prefix + name, name.encode())
        page = await store.range(backend.prefix)
        assert keys_of(page.entries) == sorted(backend.prefix + name for name in names)
        assert page.next_key is None


async def test_range_knows_its_prefix_from_its_neighbours(backend: Backend) -> None:
    prefix = backend.prefix + "p"
    async with backend.open() as store:
        for name in ("o", "p", "p0", "p/1", "p\uffff", "p\U0010ffff", "q"):
            await store.put(backend.prefix + name, b"")
        page = await store.range(prefix)
        assert keys_of(page.entries) == [prefix, prefix + "/1", prefix + "0", prefix + "\uffff", prefix + "\U0010ffff"]


async def test_pages_are_read_at_one_revision(backend: Backend) -> None:
    async with backend.open() as store:
        for number in range(7):
            await store.put(f"{backend.prefix}{number}", b"old")
        page = await store.range(backend.prefix, limit=3)
        assert keys_of(page.entries) == [f"{backend.prefix}{number}" for number in range(3)]
        await store.put(backend.prefix + "4", b"new")
        await store.delete(backend.prefix + "5")
        await store.put(backend.prefix + "9", b"new")
        rest = await store.range(backend.prefix, limit=10, start_key=page.next_key, revision=page.revision)
        assert [entry.value for entry in rest.entries] == [b"old"] * 4
        assert rest.next_key is None
        assert rest.revision == page.revision


async def test_range_all_reads_every_page(backend: Backend) -> None:
    async with backend.open() as store:
        for start in range(0, 1100, 100):
            await store.txn([], [Put(f"{backend.prefix}{start + n:05}", b"x") for n in range(100)])
        whole = await range_all(store, backend.prefix)
        assert keys_of(whole.entries) == [f"{backend.prefix}{number:05}" for number in range(1100)]


async def test_range_at_a_future_revision_is_refused(backend: Backend) -> None:
    async with backend.open() as store:
        with pytest.raises(InvalidInput):
            await store.range(backend.prefix, revision=await revision_of(store) + 1000)


@pytest.mark.parametrize(
    ("target", "relation", "operand", "holds"),
    [
        (Target.VALUE, Relation.EQUAL, b"value", True),
        (Target.VALUE, Relation.NOT_EQUAL, b"value", False),
        (Target.VALUE, Relation.LESS, b"w", True),
        (Target.VALUE, Relation.GREATER, b"w", False),
        (Target.VERSION, Relation.EQUAL, 2, True),
        (Target.VERSION, Relation.LESS, 2, False),
        (Target.VERSION, Relation.GREATER, 1, True),
        (Target.CREATE, Relation.GREATER, 0, True),
        (Target.MOD, Relation.NOT_EQUAL, 0, True),
        (Target.MOD, Relation.EQUAL, 0, False),
    ],
)
async def test_compare_of_a_present_key(
    backend: Backend, target: Target, relation: Relation, operand: int | bytes, holds: bool
) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        await store.put(key, b"first")
        await store.put(key, b"value")
        assert (await store.txn([Compare(key, target, operand, relation)], [])).succeeded is holds


@pytest.mark.parametrize(
    ("target", "relation", "operand", "holds"),
    [
        (Target.VALUE, Relation.EQUAL, b"", False),
        (Target.VALUE, Relation.NOT_EQUAL, b"x", False),
        (Target.VERSION, Relation.EQUAL, 0, True),
        (Target.CREATE, Relation.EQUAL, 0, True),
        (Target.MOD, Relation.EQUAL, 0, True),
        (Target.MOD, Relation.LESS, 1, True),
        (Target.MOD, Relation.GREATER, 0, False),
    ],
)
async def test_compare_of_an_absent_key(
    backend: Backend, target: Target, relation: Relation, operand: int | bytes, holds: bool
) -> None:
    async with backend.open() as store:
        compare = Compare(backend.prefix + "none", target, operand, relation)
        assert (await store.txn([compare], [])).succeeded is holds


async def test_txn_takes_one_branch_at_one_revision(backend: Backend) -> None:
    a, b, c = (backend.prefix + name for name in "abc")
    async with backend.open() as store:
        before = await store.put(a, b"1")
        done = await store.txn(
            [Compare(a, Target.MOD, before)],
            [Put(b, b"2"), Delete(a), Get(b), Get(c), Delete(c)],
            [Put(c, b"never")],
        )
        assert done.succeeded
        assert done.revision == before + 1
        created = Entry(b, b"2", done.revision, done.revision, 1)
        assert done.answers == (None, 1, created, None, 0)
        refused = await store.txn([Compare(a, Target.MOD, before)], [Put(c, b"never")], [Get(b)])
        assert not refused.succeeded
        assert refused.revision == done.revision
        assert refused.answers == (created,)
        assert await contents(store, backend.prefix) == {b: b"2"}


async def test_txn_deletes_a_whole_prefix_and_counts(backend: Backend) -> None:
    async with backend.open() as store:
        for name in ("d/1", "d/2", "d/3", "e"):
            await store.put(backend.prefix + name, b"")
        result = await store.txn([], [Delete(backend.prefix + "d/", is_prefix=True)])
        assert result.answers == (3,)
        assert list(await contents(store, backend.prefix)) == [backend.prefix + "e"]


async def test_a_key_written_twice_in_a_branch_is_refused(backend: Backend) -> None:
    key = backend.prefix + "a/1"
    async with backend.open() as store:
        branches: list[list[Operation]] = [
            [Put(key, b"1"), Put(key, b"2")],
            [Put(key, b"1"), Delete(key)],
            [Delete(backend.prefix + "a/", is_prefix=True), Put(key, b"1")],
        ]
        for branch in branches:
            with pytest.raises(InvalidInput, match="written twice"):
                await store.txn([], branch)
        assert await store.get(key) is None


async def test_limits_are_refused_before_anything_is_written(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        before = await revision_of(store)
        full = [Put(f"{key}{number}", b"x") for number in range(TXN_OPERATIONS_LIMIT)]
        with pytest.raises(InvalidInput, match="129 operations"):
            await store.txn([], [*full, Put(key, b"x")])
        with pytest.raises(TooLarge, match=str(VALUE_LIMIT_BYTES)):
            await store.put(key, bytes(VALUE_LIMIT_BYTES + 1))
        with pytest.raises(TooLarge, match=str(TXN_LIMIT_BYTES)):
            await store.txn([], [Put(f"{key}{number}", bytes(VALUE_LIMIT_BYTES)) for number in range(5)])
        with pytest.raises(InvalidInput):
            await store.put("", b"x")
        assert await revision_of(store) == before
        assert (await store.txn([], full)).revision == before + 1
        await store.txn([], [Put(f"{key}{number}", bytes(VALUE_LIMIT_BYTES - 100)) for number in range(4)])


async def test_concurrent_compare_and_set_lets_one_win(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        results = await asyncio.gather(
            *(store.txn([Compare(key, Target.CREATE, 0)], [Put(key, str(n).encode())]) for n in range(20))
        )
        winners = [n for n, result in enumerate(results) if result.succeeded]
        assert len(winners) == 1
        entry = await store.get(key)
        assert entry is not None
        assert entry.value == str(winners[0]).encode()


async def test_watch_delivers_history_then_the_present_without_gap(backend: Backend) -> None:
    a, b = backend.prefix + "a", backend.prefix + "b"
    async with backend.open() as store:
        start = await store.put(a, b"0")
        first = await store.put(a, b"1")
        await store.put("/elsewhere" + a, b"-")
        async with store.watch(backend.prefix, after_revision=start) as watch:
            (event,) = await next_events(watch, 1)
            assert event.entry == Entry(a, b"1", start, first, 2)
            done = await store.txn([], [Put(b, b"2"), Delete(a)])
            events = await next_events(watch, 2)
        assert [(e.entry.key, e.entry.value, e.is_delete) for e in events] == [(b, b"2", False), (a, b"", True)]
        assert {e.entry.mod_revision for e in events} == {done.revision}
        assert (events[1].entry.create_revision, events[1].entry.version) == (0, 0)


async def test_watch_never_splits_a_revision(backend: Backend) -> None:
    async with backend.open() as store:
        start = await revision_of(store)
        for start_number in range(0, 1200, 100):
            await store.txn([], [Put(f"{backend.prefix}{start_number + n:04}", b"v" * 2000) for n in range(100)])
        await store.txn([], [Delete(backend.prefix, is_prefix=True)])
        async with store.watch(backend.prefix, after_revision=start) as watch:
            seen: dict[int, int] = {}
            events: list[Event] = []
            async with asyncio.timeout(30):
                async for batch in watch:
                    assert isinstance(batch, WatchBatch)
                    revisions = {event.entry.mod_revision for event in batch.events}
                    assert not revisions & seen.keys()
                    events += batch.events
                    for event in batch.events:
                        seen[event.entry.mod_revision] = seen.get(event.entry.mod_revision, 0) + 1
                    if len(events) >= 2400:
                        break
        check_history(events)
        assert sorted(seen.values()) == [100] * 12 + [1200]


async def test_watch_misses_nothing_under_concurrent_writes(backend: Backend) -> None:
    async with backend.open() as store:
        start = await revision_of(store)

        async def write(worker: int) -> list[int]:
            return [await store.put(f"{backend.prefix}{worker}", str(n).encode()) for n in range(40)]

        async with store.watch(backend.prefix, after_revision=start) as watch:
            revisions = await asyncio.gather(*(write(worker) for worker in range(8)))
            events = await next_events(watch, 320)
        check_history(events)
        assert [e.entry.mod_revision for e in events] == sorted(r for part in revisions for r in part)


async def test_two_watches_are_independent(backend: Backend) -> None:
    async with backend.open() as store:
        start = await revision_of(store)
        async with (
            store.watch(backend.prefix + "x/", after_revision=start) as xs,
            store.watch(backend.prefix + "y/", after_revision=start) as ys,
        ):
            await store.put(backend.prefix + "x/1", b"")
            await store.put(backend.prefix + "y/1", b"")
            assert [e.entry.key for e in await next_events(xs, 1)] == [backend.prefix + "x/1"]
            assert [e.entry.key for e in await next_events(ys, 1)] == [backend.prefix + "y/1"]


async def test_a_cancelled_read_of_a_watch_loses_nothing(backend: Backend) -> None:
    async with backend.open() as store:
        start = await revision_of(store)
        async with store.watch(backend.prefix, after_revision=start) as watch:
            with pytest.raises(TimeoutError):
                await next_events(watch, 1, timeout_s=0.05)
            revisions = [await store.put(backend.prefix + "a", str(n).encode()) for n in range(5)]
            assert [e.entry.mod_revision for e in await next_events(watch, 5)] == revisions


async def test_compaction_keeps_the_present_and_forgets_the_past(backend: Backend) -> None:
    a, b = backend.prefix + "a", backend.prefix + "b"
    async with backend.open() as store:
        old = await store.put(a, b"1")
        await store.put(b, b"1")
        await store.put(a, b"2")
        await store.delete(b)
        now = await store.put(a, b"3")
        await store.compact(now)
        await store.compact(now)
        assert await contents(store, backend.prefix) == {a: b"3"}
        assert keys_of((await store.range(backend.prefix, revision=now)).entries) == [a]
        with pytest.raises(Compacted):
            await store.range(backend.prefix, revision=old)
        async with store.watch(backend.prefix, after_revision=old) as watch:
            events, resync = await next_resync(watch)
            assert events == []
            assert resync.compacted_revision >= now
            with pytest.raises(StopAsyncIteration):
                await anext(watch)


async def test_compacting_the_future_is_refused(backend: Backend) -> None:
    async with backend.open() as store:
        with pytest.raises(InvalidInput):
            await store.compact(await revision_of(store) + 1000)


async def test_a_caught_up_watch_survives_a_compaction(backend: Backend) -> None:
    async with backend.open() as store:
        start = await store.put(backend.prefix + "a", b"1")
        async with store.watch(backend.prefix, after_revision=start - 1) as watch:
            await next_events(watch, 1)
            for _ in range(3):
                elsewhere = await store.put("/elsewhere" + backend.prefix, b"")
            await store.compact(elsewhere)
            revision = await store.put(backend.prefix + "a", b"2")
            assert [e.entry.mod_revision for e in await next_events(watch, 1)] == [revision]


async def test_keys_of_a_revoked_lease_vanish_at_one_revision(backend: Backend) -> None:
    async with backend.open() as store:
        lease = await store.grant(60)
        assert lease.id > 0
        assert lease.ttl_s >= 60
        await store.put(backend.prefix + "b", b"", lease=lease.id)
        await store.put(backend.prefix + "a", b"", lease=lease.id)
        await store.put(backend.prefix + "c", b"", lease=lease.id)
        start = await store.put(backend.prefix + "c", b"without")
        entry = await store.get(backend.prefix + "a")
        assert entry is not None
        assert entry.lease == lease.id
        async with store.watch(backend.prefix, after_revision=start) as watch:
            await store.revoke(lease.id)
            events = await next_events(watch, 2)
        assert [(e.entry.key, e.is_delete) for e in events] == [
            (backend.prefix + "a", True),
            (backend.prefix + "b", True),
        ]
        assert len({e.entry.mod_revision for e in events}) == 1
        assert list(await contents(store, backend.prefix)) == [backend.prefix + "c"]
        await store.revoke(lease.id)


async def test_a_dead_lease_is_refused(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        lease = await store.grant(60)
        assert await store.renew(lease.id) == lease.ttl_s
        await store.revoke(lease.id)
        with pytest.raises(LeaseLost):
            await store.renew(lease.id)
        with pytest.raises(LeaseLost):
            await store.put(key, b"", lease=lease.id)
        assert await store.get(key) is None


async def test_a_txn_with_a_dead_lease_writes_nothing(backend: Backend) -> None:
    async with backend.open() as store:
        lease = await store.grant(60)
        await store.revoke(lease.id)
        with pytest.raises(LeaseLost):
            await store.txn([], [Put(backend.prefix + "a", b""), Put(backend.prefix + "b", b"", lease.id)])
        assert await contents(store, backend.prefix) == {}


async def test_a_lease_that_is_not_renewed_ends_and_takes_its_keys(backend: Backend) -> None:
    key = backend.prefix + "a"
    async with backend.open() as store:
        lease = await store.grant(1)
        start = await store.put(key, b"", lease=lease.id)
        async with store.watch(backend.prefix, after_revision=start) as watch:
            (event,) = await next_events(watch, 1)
        assert event.is_delete
        assert event.entry.key == key
        with pytest.raises(LeaseLost):
            await store.renew(lease.id)


async def test_a_renewed_lease_outlives_its_first_ttl(backend: Backend) -> None:
    key = backend.prefix + "a"
    loop = asyncio.get_running_loop()
    async with backend.open() as store:
        lease = await store.grant(1)
        end_s = loop.time() + 1.6 * lease.ttl_s
        await store.put(key, b"", lease=lease.id)

        async def is_over() -> bool:
            await store.renew(lease.id)
            return loop.time() > end_s

        await eventually(is_over, "the end of the lease's first TTL")
        assert await store.get(key) is not None


async def test_status_says_who_answers(backend: Backend) -> None:
    async with backend.open() as store:
        revision = await store.put(backend.prefix + "a", b"")
        status = await store.status()
        assert status.backend == backend.name.partition("-")[0]
        assert status.cluster_id
        assert status.revision >= revision
        assert (await store.status()).cluster_id == status.cluster_id


async def test_a_closed_store_refuses_everything(backend: Backend) -> None:
    async with backend.open() as store:
        async with store.watch(backend.prefix, after_revision=await revision_of(store)) as watch:
            reader = asyncio.ensure_future(next_events(watch, 1))
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreUnavailable):
                await reader
        with pytest.raises(StoreUnavailable):
            await store.get(backend.prefix + "a")
        with pytest.raises(StoreUnavailable):
            await store.put(backend.prefix + "a", b"")
        await store.close()
