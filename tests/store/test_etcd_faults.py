"""Real etcd servers that are killed, stopped and restarted under the client."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import etcd3  # type: ignore[import-untyped]
import pytest

from hsu_core.model.errors import HsuError, OutcomeUnknown, StoreError, StoreUnavailable
from hsu_core.store.base import Event, Resync, Store, WatchBatch
from hsu_core.store.campaign import Campaign
from hsu_core.store.etcd import EtcdStore
from tests.store.conftest import OLDEST_AND_NEWEST
from tests.support.etcd import EtcdCluster, EtcdProcess, default_etcd, find_etcd_binaries
from tests.support.stores import PATIENCE_S, check_history, eventually, next_events, next_resync, revision_of

pytestmark = pytest.mark.etcd

PREFIX = "/faults/"
VERSIONS = [name.partition("-")[2] for name in OLDEST_AND_NEWEST]


@pytest.fixture
def single() -> Iterator[EtcdProcess]:
    """A cluster of one."""
    with EtcdCluster() as cluster:
        yield cluster.members[0]


@pytest.fixture
def trio() -> Iterator[EtcdCluster]:
    """A cluster of three."""
    with EtcdCluster(size=3) as cluster:
        yield cluster


@dataclass
class Traffic:
    """A writer and a watch that run while the test breaks things."""

    store: Store
    watched: list[Event] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    start: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        """Write and watch for the time of the context."""
        self.start = await revision_of(self.store)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write()), group.create_task(self._watch())]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()

    async def progress(self, writes: int = 20) -> float:
        """Wait until more writes were acknowledged and watched; return how long that took, in seconds."""
        begun_s = time.monotonic()
        target = len(self.acknowledged) + writes

        async def is_there() -> bool:
            return len(self.acknowledged) >= target and max(self.acknowledged.values()) <= self._last_watched()

        await eventually(is_there, f"{writes} more writes")
        return time.monotonic() - begun_s

    async def check(self, fresh: Store) -> None:
        """Assert that the watch saw exactly the history, and that no outcome was misreported."""
        end = await fresh.put(PREFIX + "end", b"")
        async with fresh.watch(PREFIX, after_revision=self.start) as watch:
            history: list[Event] = []
            while not history or history[-1].entry.mod_revision < end:
                history += await next_events(watch, 1)
        check_history(self.watched)
        last = self._last_watched()
        assert self.watched == [event for event in history if event.entry.mod_revision <= last]
        stored = {event.entry.key: event.entry.mod_revision for event in history}
        assert all(stored.get(key) == revision for key, revision in self.acknowledged.items())
        assert not self.refused & stored.keys(), "reported as not written, and written"

    def _last_watched(self) -> int:
        return self.watched[-1].entry.mod_revision if self.watched else 0

    async def _write(self) -> None:
        number = 0
        while True:
            key = f"{PREFIX}{number:06}"
            number += 1
            try:
                self.acknowledged[key] = await self.store.put(key, b"v", timeout_s=2.0)
            except OutcomeUnknown:
                pass
            except StoreUnavailable:
                self.refused.add(key)
            await asyncio.sleep(0.002)

    async def _watch(self) -> None:
        async with self.store.watch(PREFIX, after_revision=self.start) as watch:
            async for batch in watch:
                assert isinstance(batch, WatchBatch)
                self.watched += batch.events


@asynccontextmanager
async def connected(endpoints: list[str]) -> AsyncIterator[EtcdStore]:
    """Give a store that prefers the first endpoint."""
    store = await EtcdStore.connect(endpoints)
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_kill_and_restart_under_a_watch_loses_and_doubles_nothing(version: str) -> None:
    binary = next((binary for binary in find_etcd_binaries() if binary.version == version), default_etcd())
    with EtcdCluster(binary.path) as cluster:
        (member,) = cluster.members
        async with connected(cluster.endpoints) as store, connected(cluster.endpoints) as fresh:
            async with Traffic(store).running() as traffic:
                await traffic.progress()
                member.kill()
                await eventually(has_refused(traffic), "a refused write")
                await asyncio.to_thread(member.restart)
                await traffic.progress()
            await traffic.check(fresh)


async def test_leader_killed_in_a_cluster_of_three(trio: EtcdCluster) -> None:
    leader = trio.leader()
    others = [member.endpoint for member in trio if member is not leader]
    async with connected([leader.endpoint, *others]) as store, connected(others) as fresh:
        async with Traffic(store).running() as traffic:
            await traffic.progress()
            leader.kill()
            took_s = await traffic.progress()
        await traffic.check(fresh)
    assert took_s < 15


@pytest.mark.parametrize("is_leader", [False, True])
async def test_writes_and_watches_leave_a_stopped_member(trio: EtcdCluster, is_leader: bool) -> None:
    victim = trio.leader() if is_leader else trio.followers()[0]
    others = [member.endpoint for member in trio if member is not victim]
    async with connected([victim.endpoint, *others]) as store, connected(others) as fresh:
        async with Traffic(store).running() as traffic:
            await traffic.progress()
            victim.pause()
            took_s = await traffic.progress()
            victim.resume()
            await traffic.progress()
        await traffic.check(fresh)
    assert took_s < 20


async def test_a_quiet_watch_notices_a_stopped_member_by_itself(trio: EtcdCluster) -> None:
    victim = trio.followers()[0]
    others = [member.endpoint for member in trio if member is not victim]
    async with connected([victim.endpoint, *others]) as store, connected(others) as writer:
        start = await revision_of(writer)
        async with store.watch(PREFIX, after_revision=start) as watch:
            await writer.put(PREFIX + "a", b"1")
            await next_events(watch, 1)
            victim.pause()
            await writer.put(PREFIX + "a", b"2")
            (event,) = await next_events(watch, 1)
            assert event.entry.value == b"2"


async def test_no_call_hangs_on_a_stopped_server(single: EtcdProcess) -> None:
    async with connected([single.endpoint]) as store:
        await store.put(PREFIX + "a", b"0")
        single.pause()
        begun_s = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await store.put(PREFIX + "a", b"1", timeout_s=1.0)
        with pytest.raises(StoreUnavailable):
            await store.get(PREFIX + "a", timeout_s=1.0)
        assert time.monotonic() - begun_s < 10
        single.resume()
        entry = await store.get(PREFIX + "a", timeout_s=PATIENCE_S)
        assert entry is not None
        assert entry.value in (b"0", b"1")


async def test_without_a_majority_writes_fail_in_time_and_the_watch_goes_on_later(trio: EtcdCluster) -> None:
    followers = trio.followers()
    survivor = trio.leader()
    async with connected([survivor.endpoint]) as store:
        async with Traffic(store).running() as traffic:
            await traffic.progress()
            for member in followers:
                member.kill()
            with pytest.raises(StoreError):
                await store.put("/elsewhere", b"", timeout_s=2.0)
            for member in followers:
                member.spawn()
            await traffic.progress()
        await traffic.check(store)


async def test_compaction_during_an_interruption_ends_the_watch_with_resync(single: EtcdProcess) -> None:
    async with connected([single.endpoint]) as store, connected([single.endpoint]) as other:
        first = await store.put(PREFIX + "a", b"0")
        async with store.watch(PREFIX, after_revision=first - 1) as watch:
            await next_events(watch, 1)
            single.kill()
            await asyncio.to_thread(single.restart)
            for number in range(5):
                last = await other.put(PREFIX + "a", str(number).encode(), timeout_s=PATIENCE_S)
            await other.compact(last)
            events, resync = await next_resync(watch)
            assert events == []
            assert resync == Resync(last)


async def test_leadership_survives_the_death_of_the_etcd_leader(trio: EtcdCluster) -> None:
    leader = trio.leader()
    others = [member.endpoint for member in trio if member is not leader]
    async with connected([leader.endpoint, *others]) as store:
        async with Campaign(store, "/leader", b"me", 10) as campaign:
            leadership = await campaign.acquire()
            until_s = leadership.safe_until
            leader.kill()

            async def is_renewed() -> bool:
                return leadership.safe_until > until_s + 5

            await eventually(is_renewed, "a renewal by another member")
            assert not leadership.lost.is_set()
            assert (await store.txn([leadership.fence()], [])).succeeded


async def test_a_leader_cut_off_from_etcd_steps_down_before_its_lease_ends(single: EtcdProcess) -> None:
    async with connected([single.endpoint]) as store:
        async with Campaign(store, "/leader", b"me", 3) as campaign:
            leadership = await campaign.acquire()
            single.pause()
            await asyncio.wait_for(leadership.lost.wait(), PATIENCE_S)
            assert "no renewal succeeded" in leadership.reason
            single.resume()


async def test_another_cluster_behind_an_endpoint_is_refused(single: EtcdProcess) -> None:
    with EtcdCluster() as stranger:
        async with connected([single.endpoint, *stranger.endpoints]) as store:
            await store.put(PREFIX + "a", b"1")
            single.kill()
            with pytest.raises(HsuError, match="belongs to etcd cluster"):
                await store.get(PREFIX + "a", timeout_s=3.0)


async def test_a_closed_watch_is_gone_from_the_server(single: EtcdProcess) -> None:
    async with connected([single.endpoint]) as store:
        start = await revision_of(store)
        async with store.watch(PREFIX, after_revision=start) as watch:
            await store.put(PREFIX + "a", b"")
            await next_events(watch, 1)
            assert await asyncio.to_thread(count_watchers, single) == 1

        async def is_gone() -> bool:
            return await asyncio.to_thread(count_watchers, single) == 0

        await eventually(is_gone, "the end of the watch on the server")


async def test_an_independent_client_sees_what_we_do_and_we_see_what_it_does(single: EtcdProcess) -> None:
    seen: list[tuple[bytes, bytes, int, bool]] = []
    observer = etcd3.client(host="127.0.0.1", port=single.client_port)
    try:

        def note(response: object) -> None:
            for event in getattr(response, "events", ()):
                is_delete = isinstance(event, etcd3.events.DeleteEvent)
                seen.append((event.key, b"" if is_delete else event.value, event.mod_revision, is_delete))

        watch_id = await asyncio.to_thread(observer.add_watch_prefix_callback, PREFIX, note)
        async with connected([single.endpoint]) as store:
            start = await revision_of(store)
            async with store.watch(PREFIX, after_revision=start) as watch:
                for number in range(20):
                    await store.put(f"{PREFIX}ours/{number}", b"\x00\xff")
                    await asyncio.to_thread(observer.put, f"{PREFIX}theirs/{number}", b"\xfe")
                await store.delete(PREFIX + "ours/0")
                await asyncio.to_thread(observer.delete, PREFIX + "theirs/0")
                events = await next_events(watch, 42)

                async def has_all() -> bool:
                    return len(seen) >= 42

                await eventually(has_all, "the observer's events")
        ours = [(e.entry.key.encode(), e.entry.value, e.entry.mod_revision, e.is_delete) for e in events]
        assert ours == seen
        await asyncio.to_thread(observer.cancel_watch, watch_id)
    finally:
        await asyncio.to_thread(observer.close)


def has_refused(traffic: Traffic) -> Callable[[], Awaitable[bool]]:
    """Return a condition: some write has failed."""
    before = len(traffic.refused)

    async def is_refused() -> bool:
        return len(traffic.refused) > before

    return is_refused


def count_watchers(member: EtcdProcess) -> int:
    """Return the number of watchers that the server counts."""
    with urllib.request.urlopen(member.endpoint + "/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("etcd_debugging_mvcc_watcher_total "):
                return int(float(line.split()[1]))
    raise AssertionError("etcd has no metric of its watchers")
