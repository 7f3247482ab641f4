"""Leases and campaigns: deadlines from the send time, one leader at a time, fencing, hand-over."""

from __future__ import annotations

import asyncio
import time

import pytest

from hsu_core.model.errors import LeaseLost, StoreUnavailable
from hsu_core.store.base import CALL_TIMEOUT_S, Put
from hsu_core.store.campaign import Campaign, Leadership, depose, deposed_key
from hsu_core.store.lease import LeaseKeeper, bounded_margin_s
from hsu_core.store.memory import MemoryStore
from tests.store.conftest import Backend
from tests.support.stores import PATIENCE_S, eventually


class LateStore(MemoryStore):
    """A memory store whose answers to renewals take `delay_s` of its clock, or do not come."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.delay_s = 0.0
        self.is_away = False
        super().__init__(monotonic=self.clock)

    def clock(self) -> float:
        """Return the time of this store."""
        return self.now_s

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Renew at once and answer late."""
        if self.is_away:
            raise StoreUnavailable("renew the lease", "it is away", "wait")
        ttl_s = await super().renew(lease, timeout_s=timeout_s)
        self.now_s += self.delay_s
        return ttl_s


async def test_deadline_counts_from_the_send_time() -> None:
    store = LateStore()
    keeper = await LeaseKeeper.grant(store, 12, margin_s=2, monotonic=store.clock)
    assert keeper.deadline == 112.0
    store.now_s, store.delay_s = 104.0, 3.0
    await keeper.renew()
    assert store.now_s == 107.0
    assert keeper.deadline == 116.0
    assert keeper.safe_until == 114.0
    assert not keeper.is_presumed_lost(113.9)
    assert keeper.is_presumed_lost(114.0)


async def test_a_renewal_answered_after_the_deadline_does_not_count() -> None:
    store = LateStore()
    keeper = await LeaseKeeper.grant(store, 12, margin_s=2, monotonic=store.clock)
    store.now_s, store.delay_s = 109.0, 2.0
    with pytest.raises(LeaseLost):
        await keeper.renew()
    assert keeper.lost.is_set()


async def test_without_answers_the_lease_is_presumed_lost_a_margin_early() -> None:
    store = LateStore()
    keeper = await LeaseKeeper.grant(store, 12, margin_s=2, monotonic=store.clock)
    store.is_away = True
    store.now_s = 110.0
    await asyncio.wait_for(keeper.run(), PATIENCE_S)
    assert keeper.lost.is_set()
    assert "no renewal succeeded" in keeper.reason


async def test_an_owner_without_progress_loses_its_lease() -> None:
    store = LateStore()
    keeper = await LeaseKeeper.grant(store, 12, margin_s=2, progress_limit_s=3, monotonic=store.clock)
    store.now_s = 110.5
    await asyncio.wait_for(keeper.run(), PATIENCE_S)
    assert "no progress for 10.5 s" in keeper.reason


@pytest.mark.parametrize(("margin_s", "ttl_s", "wanted_s"), [(2, 15, 2), (2, 4, 1), (0, 15, 0), (-1, 15, 0)])
def test_margin_is_at_most_a_quarter_of_the_ttl(margin_s: float, ttl_s: float, wanted_s: float) -> None:
    assert bounded_margin_s(margin_s, ttl_s) == wanted_s


async def test_a_keeper_keeps_its_lease_beyond_the_ttl(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "a"
    async with slow_backend.open() as store:
        keeper = await LeaseKeeper.grant(store, 1)
        await store.put(key, b"", lease=keeper.lease.id)
        end = keeper.deadline + keeper.lease.ttl_s / 2
        async with asyncio.TaskGroup() as group:
            run = group.create_task(keeper.run())

            async def is_over() -> bool:
                return time.monotonic() > end

            await eventually(is_over, "the end of the first TTL")
            assert not keeper.lost.is_set()
            assert await store.get(key) is not None
            await keeper.end()
            await asyncio.wait_for(run, PATIENCE_S)
        assert await store.get(key) is None


async def test_a_revoked_lease_is_noticed_by_its_keeper(slow_backend: Backend) -> None:
    async with slow_backend.open() as store:
        keeper = await LeaseKeeper.grant(store, 1.5)
        await store.revoke(keeper.lease.id)
        await asyncio.wait_for(keeper.run(), PATIENCE_S)
        assert "has ended" in keeper.reason


async def test_one_candidate_leads_and_the_next_follows_a_resignation(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with slow_backend.open() as store, Campaign(store, key, b"a", 10) as a, Campaign(store, key, b"b", 10) as b:
        first = await a.acquire()
        entry = await store.get(key)
        assert entry is not None
        assert (entry.value, entry.create_revision, entry.lease) == (b"a", first.term, first.lease.id)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(b.acquire())
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            assert not done
            await first.resign()
            assert first.lost.is_set()
            second = await asyncio.wait_for(waiting, PATIENCE_S)
        assert second.term > first.term
        assert not second.lost.is_set()
        with pytest.raises(LeaseLost):
            await store.renew(first.lease.id)


async def test_a_deposed_leader_commits_nothing(slow_backend: Backend) -> None:
    key, work = slow_backend.prefix + "leader", slow_backend.prefix + "work"
    async with slow_backend.open() as store, Campaign(store, key, b"a", 10) as a, Campaign(store, key, b"b", 10) as b:
        old = await a.acquire()
        assert (await store.txn([old.fence()], [Put(work, b"old")])).succeeded
        assert await depose(store, key, old.term, 10)
        assert not await depose(store, key, old.term, 10)
        new = await b.acquire()
        assert not (await store.txn([old.fence()], [Put(work, b"ghost")])).succeeded
        assert (await store.txn([new.fence()], [Put(work, b"new")])).succeeded
        await asyncio.wait_for(old.lost.wait(), PATIENCE_S)
        await old.resign()
        assert not new.lost.is_set()
        assert (await store.txn([new.fence()], [])).succeeded


async def test_a_wedged_leader_is_lost_before_another_leads(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with (
        slow_backend.open() as store,
        Campaign(store, key, b"a", 2, progress_limit_s=0.1) as a,
        Campaign(store, key, b"b", 2) as b,
    ):
        wedged = await a.acquire()
        lost_s = asyncio.ensure_future(time_of_loss(wedged))
        second = await asyncio.wait_for(b.acquire(), PATIENCE_S)
        taken_s = time.monotonic()
        assert await lost_s <= taken_s
        assert wedged.is_presumed_lost(taken_s)
        assert second.term > wedged.term


async def test_leaving_the_context_hands_over(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with slow_backend.open() as store, Campaign(store, key, b"b", 10) as b:
        async with Campaign(store, key, b"a", 10) as a:
            first = await a.acquire()
        assert first.lost.is_set()
        assert await store.get(key) is None
        assert (await asyncio.wait_for(b.acquire(), PATIENCE_S)).term > first.term


async def test_a_candidate_can_lead_again(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with slow_backend.open() as store, Campaign(store, key, b"a", 10) as campaign:
        first = await campaign.acquire()
        await depose(store, key, first.term, 10)
        second = await asyncio.wait_for(campaign.acquire(), PATIENCE_S)
        assert second.term > first.term
        assert (await store.txn([second.fence()], [])).succeeded


async def time_of_loss(leadership: Leadership) -> float:
    """Return when a leadership was lost."""
    await leadership.lost.wait()
    return time.monotonic()


async def test_who_leads_after_a_deposed_leader_knows_it_for_that_ones_ttl(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with slow_backend.open() as store, Campaign(store, key, b"a", 10) as a, Campaign(store, key, b"b", 10) as b:
        old = await a.acquire()
        assert (old.took_by_force, old.deposed_ttl_s) == (False, 0.0)
        assert await depose(store, key, old.term, 0.2)
        new = await b.acquire()
        assert (new.took_by_force, new.deposed_ttl_s) == (True, 0.2)
        with pytest.raises(LeaseLost):
            await store.renew(old.lease.id)  # so its belief ends within its TTL

        async def is_settled() -> bool:
            return await store.get(deposed_key(key)) is None

        await eventually(is_settled, "the mark is taken away")
        await new.resign()
        assert not (await a.acquire()).took_by_force


async def test_a_successor_that_is_replaced_at_once_hands_the_mark_on(slow_backend: Backend) -> None:
    key = slow_backend.prefix + "leader"
    async with slow_backend.open() as store, Campaign(store, key, b"a", 10) as a, Campaign(store, key, b"b", 10) as b:
        await depose(store, key, (await a.acquire()).term, 60.0)
        await (await b.acquire()).resign()
        assert (await a.acquire()).deposed_ttl_s == 60.0


async def test_a_mark_that_cannot_be_read_counts_as_a_long_one() -> None:
    store = MemoryStore()
    await store.put(deposed_key("/leader"), b"\xff")
    async with Campaign(store, "/leader", b"a", 10) as campaign:
        assert (await campaign.acquire()).deposed_ttl_s >= 30.0
