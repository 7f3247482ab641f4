"""When a standby deposes a leader whose port refuses, and when it must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_cluster.leader.takeover import REFUSAL_PAUSE_S, TCP, Contact, Grounds, Takeover
from hsu_core.model.records import MasterAdvert
from hsu_core.store.campaign import Campaign
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.leader.harness import until

pytestmark = pytest.mark.timeout(120)

BROKEN, REFUSED, SILENT = Contact.BROKEN, Contact.REFUSED, Contact.SILENT


@pytest.mark.parametrize(
    ("contacts", "is_gone"),
    [
        ([BROKEN, REFUSED, REFUSED], True),
        ([BROKEN, BROKEN, REFUSED, REFUSED], True),
        ([REFUSED, REFUSED, REFUSED], False),  # a wrong port: it never answered
        ([BROKEN, REFUSED], False),
        ([BROKEN, REFUSED, BROKEN, REFUSED], False),  # it was started again in between
        ([BROKEN, REFUSED, SILENT, REFUSED], False),
        ([BROKEN, SILENT, SILENT, SILENT], False),  # its host is gone or cut off: the lease decides
    ],
)
def test_only_refusals_in_a_row_of_a_leader_that_was_reached_count(contacts: Sequence[Contact], is_gone: bool) -> None:
    grounds = Grounds()
    for contact in contacts:
        assert not grounds.are_sufficient
        grounds.note(contact)
    assert grounds.are_sufficient is is_gone


class Port:
    """A port that accepts connections, or refuses them once closed; a stand-in for a master's server."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._held: list[asyncio.StreamWriter] = []
        self.accepted = 0
        self.number = 0

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.number)
        self.number = self._server.sockets[0].getsockname()[1]

    async def _take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._held.append(writer)

    def close(self) -> None:
        """End every connection and refuse new ones, as the death of the process would."""
        assert self._server is not None
        self._server.close()
        for writer in self._held:
            writer.transport.abort()
        self._held.clear()

    def advert(self, name: str, since: float = 1.0) -> MasterAdvert:
        """Return a master that is reached here."""
        return MasterAdvert(name, f"http://127.0.0.1:{self.number}", since=since)


class Standby:
    """A takeover with its own port, and whom it deposed."""

    def __init__(self, leader: Port) -> None:
        self.leader = leader
        self.own = Port()
        self.deposed: list[tuple[str, int]] = []

    async def depose(self, leader: MasterAdvert, term: int) -> bool:
        """Note it."""
        self.deposed.append((leader.name, term))
        return True


@asynccontextmanager
async def _standby() -> AsyncIterator[tuple[Standby, Takeover]]:
    standby = Standby(Port())
    await standby.leader.open()
    await standby.own.open()
    takeover = Takeover(standby.own.advert("two"), standby.depose, time.monotonic, TCP)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(takeover.run())
        yield standby, takeover
        task.cancel()
    standby.own.close()
    standby.leader.close()


async def _settles() -> None:
    """Wait for as long as a takeover would need several times over: proof of something that does not happen."""
    await asyncio.sleep(6 * REFUSAL_PAUSE_S)


def test_a_leader_whose_port_refuses_after_it_answered_is_deposed_once() -> None:
    async def main() -> None:
        async with _standby() as (standby, takeover):
            takeover.see(standby.leader.advert("one"), 7)
            await until("it is watched", lambda: _is_held(standby.leader))
            started_s = time.monotonic()
            standby.leader.close()
            await until("it is deposed", lambda: _has_deposed(standby, 1))
            assert time.monotonic() - started_s < 5.0
            await _settles()
            assert standby.deposed == [("one", 7)]

    asyncio.run(main())


async def _is_held(port: Port) -> bool:
    return port.accepted > 0


async def _has_deposed(standby: Standby, count: int) -> bool:
    return len(standby.deposed) >= count


def test_a_process_that_leads_again_after_it_was_deposed_is_left_alone_and_another_one_is_not() -> None:
    async def main() -> None:
        async with _standby() as (standby, takeover):
            takeover.see(standby.leader.advert("one"), 7)
            await until("it is watched", lambda: _is_held(standby.leader))
            standby.leader.close()
            await until("it is deposed", lambda: _has_deposed(standby, 1))
            await standby.leader.open()
            takeover.see(None, 7)
            accepted = standby.leader.accepted
            takeover.see(standby.leader.advert("one"), 9)  # the same process: the guess was wrong
            await _settles()
            assert standby.leader.accepted == accepted
            takeover.see(standby.leader.advert("one", since=2.0), 11)  # started again since
            await until("it is watched", lambda: _is_accepted(standby.leader, accepted + 1))
            standby.leader.close()
            await until("it is deposed", lambda: _has_deposed(standby, 2))
            assert standby.deposed == [("one", 7), ("one", 11)]

    asyncio.run(main())


async def _is_accepted(port: Port, count: int) -> bool:
    return port.accepted >= count


def test_a_port_that_never_answered_proves_nothing() -> None:
    async def main() -> None:
        async with _standby() as (standby, takeover):
            standby.leader.close()
            takeover.see(standby.leader.advert("one"), 7)
            await _settles()
            assert standby.deposed == []

    asyncio.run(main())


def test_a_master_that_is_not_reached_itself_deposes_nobody() -> None:
    async def main() -> None:
        async with _standby() as (standby, takeover):
            takeover.see(standby.leader.advert("one"), 7)
            await until("it is watched", lambda: _is_held(standby.leader))
            standby.own.close()
            standby.leader.close()
            await _settles()
            assert standby.deposed == []
            await standby.own.open()

    asyncio.run(main())


def test_a_restarted_leader_deposes_its_earlier_process_at_its_start_and_only_then() -> None:
    async def main() -> None:
        async with _standby() as (standby, takeover):
            takeover.see(standby.own.advert("two", since=0.5), 7)
            await until("it is deposed", lambda: _has_deposed(standby, 1))
            takeover.see(standby.own.advert("two"), 9)
            takeover.see(standby.own.advert("two", since=3.0), 11)  # another master with our name and address
            await _settles()
            assert standby.deposed == [("two", 7)]

    asyncio.run(main())


def test_a_service_takes_over_from_a_dead_process_long_before_its_lease_ends() -> None:
    async def main() -> None:
        store, leader, own = MemoryStore(), Port(), Port()
        await leader.open()
        await own.open()
        lease = await store.grant(300.0)
        await store.put(keys.LEADER, encode(leader.advert("one")), lease=lease.id)
        service = LeaderService(store, own.advert("two"), LeaderTimes())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await until("the leader is watched", lambda: _is_held(leader))
            leader.close()
            await until("it leads", lambda: _leads(service))
            task.cancel()
        await store.close()
        own.close()

    asyncio.run(main())


async def _leads(service: LeaderService) -> bool:
    return service.is_leading


def test_who_hands_over_does_not_campaign_again() -> None:
    async def main() -> None:
        store = MemoryStore()
        service = LeaderService(store, MasterAdvert("one", "http://127.0.0.1:1"), LeaderTimes())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await until("it leads", lambda: _leads(service))
            await service.hand_over()
            assert await store.get(keys.LEADER) is None
            async with Campaign(store, keys.LEADER, b"another", 5) as other:
                leadership = await other.acquire()
                assert not leadership.took_by_force
                await until("it has stopped leading", lambda: _is_standby(service))
            task.cancel()
        await store.close()

    asyncio.run(main())


async def _is_standby(service: LeaderService) -> bool:
    return not service.is_leading
