"""A leader through faults of its store: it steps down or goes on, and leads again; it never ends the master."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_core.model.assignment import AppRecord
from hsu_core.model.errors import StoreUnavailable
from hsu_core.model.records import MasterAdvert
from hsu_core.store.base import CALL_TIMEOUT_S, Compare, Operation, Page, Put, TxnResult
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.leader.harness import until
from tests.support.builders import SHOP, make_node, make_revision, make_worker

pytestmark = pytest.mark.timeout(120)

ADVERT = MasterAdvert("one", "http://127.0.0.1:1")


class FaultyStore(MemoryStore):
    """A memory store that is away for as many calls as asked."""

    failing_ranges = 0
    failing_writes = 0
    is_swallowing_assignments = False
    held = 0
    renewals = 0

    async def range(self, prefix: str, **options: Any) -> Page:
        """Fail as asked, else answer."""
        if self.failing_ranges and prefix != keys.LEADER:
            self.failing_ranges -= 1
            raise StoreUnavailable("read", "the test took the store away")
        return await super().range(prefix, **options)

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Fail as asked, else answer."""
        if self.is_swallowing_assignments and any(
            isinstance(each, Put) and each.key.startswith(keys.ASSIGNMENTS) for each in success
        ):
            self.held += 1
            await asyncio.Event().wait()  # a wedge as a bug would make one: no deadline ends it
        if self.failing_writes and success:
            self.failing_writes -= 1
            raise StoreUnavailable("write", "the test took the store away")
        return await super().txn(compares, success, failure, timeout_s=timeout_s)

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Count and renew."""
        self.renewals += 1
        return await super().renew(lease, timeout_s=timeout_s)


@asynccontextmanager
async def _service(store: FaultyStore) -> AsyncIterator[LeaderService]:
    service = LeaderService(store, ADVERT, LeaderTimes(leader_ttl_s=4.0))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(service.run())
        yield service
        assert not task.done(), "the service goes on whatever happens to the store"
        task.cancel()
    await store.close()


async def _leads(service: LeaderService) -> bool:
    return service.is_leading


def test_a_store_that_fails_during_the_takeover_is_tried_again() -> None:
    async def main() -> None:
        store = FaultyStore()
        store.failing_ranges = 3
        async with _service(store) as service:
            await until("it leads", lambda: _leads(service))
            assert store.failing_ranges == 0

    asyncio.run(main())


def test_a_store_that_refuses_writes_for_a_while_does_not_end_the_leadership() -> None:
    async def main() -> None:
        store = FaultyStore()
        async with _service(store) as service:
            await until("it leads", lambda: _leads(service))
            term = service.term
            store.failing_writes = 3
            await until("the store is back", lambda: _is_spent(store))
            assert service.is_leading
            assert service.term == term

    asyncio.run(main())


async def _is_spent(store: FaultyStore) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await store.txn([], [Put("/elsewhere", b"")])
    return store.failing_writes == 0


def test_a_deposed_leader_steps_down_and_leads_again_in_a_higher_term() -> None:
    async def main() -> None:
        store = FaultyStore()
        async with _service(store) as service:
            await until("it leads", lambda: _leads(service))
            first = service.term
            await store.delete(keys.LEADER)
            await store.put(keys.LEADER, encode(MasterAdvert("two", "http://127.0.0.1:2")))

            async def is_standby() -> bool:
                return not service.is_leading and service.leader is not None and service.leader.name == "two"

            await until("it sees who leads", is_standby)
            await store.delete(keys.LEADER)
            await until("it leads again", lambda: _leads(service))
            assert service.term > first

    asyncio.run(main())


def test_a_clean_stop_hands_the_leadership_over() -> None:
    async def main() -> None:
        store = FaultyStore()
        other = LeaderService(store, MasterAdvert("two", "http://127.0.0.1:2"), LeaderTimes())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            first = group.create_task(LeaderService(store, ADVERT, LeaderTimes(leader_ttl_s=300.0)).run())
            await until("one leads", lambda: _has_leader(store))
            second = group.create_task(other.run())
            first.cancel()
            await until("two leads without waiting for the lease", lambda: _leads(other))
            second.cancel()
        await store.close()

    asyncio.run(main())


async def _has_leader(store: FaultyStore) -> bool:
    return await store.get(keys.LEADER) is not None


def test_a_leader_whose_planner_is_wedged_is_replaced() -> None:
    async def main() -> None:
        store = FaultyStore()
        async with _service(store) as service:
            await until("it leads", lambda: _leads(service))
            first = service.term
            store.is_swallowing_assignments = True
            for entry in (
                Put(keys.revision(SHOP, 1), encode(make_revision(1, make_worker()))),
                Put(keys.node("node-a"), encode(make_node("node-a"))),
                Put(keys.app(SHOP), encode(AppRecord(SHOP, 1))),
            ):
                await store.put(entry.key, entry.value)
            await until("its planner is wedged", lambda: _is_wedged(store))
            renewed = store.renewals
            await until("the leadership ends, although the lease could be renewed", lambda: _is_over(store, first))
            assert store.renewals > renewed, "it was renewed while it still might have been only slow"
            store.is_swallowing_assignments = False
            await until("it leads in a new term", lambda: _leads(service))
            await until("what waited is placed", lambda: _is_placed(store))
            assert service.term > first

    asyncio.run(main())


async def _is_wedged(store: FaultyStore) -> bool:
    return store.held > 0


async def _is_over(store: FaultyStore, term: int) -> bool:
    entry = await store.get(keys.LEADER)
    return entry is None or entry.create_revision != term


async def _is_placed(store: FaultyStore) -> bool:
    return bool((await store.range(keys.ASSIGNMENTS)).entries)
