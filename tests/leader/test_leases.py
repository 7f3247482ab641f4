"""What a leader promises to nodes: only while it surely leads, never to a node that it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from hsu_cluster.leader.leases import Leases
from hsu_cluster.leader.snapshot import Snapshot
from hsu_core.model.node import NodeState
from hsu_core.store.base import Put
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import Beat, BeatAck, Welcome
from tests.leader.harness import running_master, settings
from tests.support.builders import make_node

TTL_S = 8.0


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def play(act: Callable[[Snapshot, Clock], Awaitable[None]]) -> None:
    """Run `act` on a view with the lost nodes a and b and the ready node c."""

    async def scenario() -> None:
        store = MemoryStore()
        states = {"a": NodeState.LOST, "b": NodeState.LOST, "c": NodeState.READY}
        nodes = [make_node(name, state=state) for name, state in states.items()]
        await store.txn([], [Put(keys.node(node.name), encode(node)) for node in nodes])
        snapshot = Snapshot(store, lambda nodes: None)
        await snapshot.load()
        await act(snapshot, Clock())

    asyncio.run(scenario())


def test_a_lease_is_over_a_ttl_after_the_last_promise() -> None:
    async def act(snapshot: Snapshot, clock: Clock) -> None:
        leases = Leases(snapshot, TTL_S, clock, lambda: True)
        clock.now_s += 5
        assert leases.prolong("a")
        assert leases.prolong("c")
        assert leases.of_lost_nodes() == {"a": 8.0, "b": 3.0}, "b may have the promise of a former leader"
        clock.now_s += 3
        assert leases.of_lost_nodes() == {"a": 5.0}
        clock.now_s += 5
        assert leases.of_lost_nodes() == {}

    play(act)


def test_a_leader_that_may_have_been_replaced_promises_nothing() -> None:
    async def act(snapshot: Snapshot, clock: Clock) -> None:
        leases = Leases(snapshot, TTL_S, clock, lambda: False)
        assert not leases.prolong("a")
        assert leases.of_lost_nodes() == {"a": 8.0, "b": 8.0}

    play(act)


def test_after_a_takeover_by_force_the_former_leader_may_have_promised_for_longer() -> None:
    async def act(snapshot: Snapshot, clock: Clock) -> None:
        leases = Leases(snapshot, TTL_S, clock, lambda: True, former_leader_s=5.0)
        clock.now_s += 10
        leases.prolong("a")
        assert leases.of_lost_nodes() == {"a": 8.0, "b": 3.0}

    play(act)


def test_a_beat_is_answered_with_its_own_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_master(settings(tmp_path)) as master, master.agent("node-a", fence="") as agent:
            await agent.receive(Welcome)
            await agent.send(Beat(12.5))
            assert (await agent.receive(BeatAck)).sent_at == 12.5

    asyncio.run(scenario())
