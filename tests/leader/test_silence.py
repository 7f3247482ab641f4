"""Silence that is a loss, and silence that is not: starved leaders and agents, storms of agents that come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from hsu_cluster.client.documents import NodeDocument
from hsu_cluster.leader.admission import ADMISSIONS_LIMIT, Line
from hsu_core.wire.frames import Beat, BeatAck, Queued, Report, Welcome
from tests.leader.harness import FakeAgent, Master, manifest, running_master, settings, until

pytestmark = pytest.mark.timeout(120)


def run(folder: Path, act: Callable[[Master], Awaitable[None]], **times: float) -> None:
    """Run `act` against a master."""

    async def main() -> None:
        async with running_master(settings(folder, **times)) as master:
            await act(master)

    asyncio.run(main())


async def _node(master: Master, name: str) -> NodeDocument:
    async with master.client() as client:
        return await client.get_node(name)


async def _codes(master: Master) -> list[str]:
    async with master.client() as client:
        return [event["code"] for event in (await client.events(limit=500))["items"]]


def test_a_silent_node_is_suspect_first_and_a_late_beat_ends_it(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent, master.client() as client:
            await agent.join()
            await client.deploy("default", "shop", manifest("shop", 1))
            await agent.run_everything(1)

            async def is_suspect() -> NodeDocument | None:
                node = await _node(master, "node-a")
                return node if node["state"] == "suspect" else None

            node = await until("node-a is suspect", is_suspect)
            assert node["reason"] == "silent for more than 1.5 s"
            await agent.send(Beat(1.0))

            async def is_ready() -> bool:
                return (await _node(master, "node-a"))["state"] == "ready"

            await until("node-a is ready", is_ready)
            assert "NodeLost" not in await _codes(master)

    run(tmp_path, act, ttl_s=3.0, beat_s=1.0)


def test_an_agent_that_is_starved_for_less_than_its_ttl_moves_nothing(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as starved, master.agent("node-b") as other, master.client() as client:
            await starved.join()
            await other.join()
            await client.deploy("default", "shop", manifest("shop", 2))
            await starved.run_everything(1)
            await other.run_everything(1)
            end_s = time.monotonic() + 6.0
            while time.monotonic() < end_s:  # every beat of node-a is late by almost a whole TTL
                for _ in range(5):
                    await other.send(Beat(0.0))
                    await asyncio.sleep(0.3)
                await starved.send(Beat(0.0))
                await starved.receive(BeatAck)
            codes = await _codes(master)
            assert "NodeLost" not in codes
            assert len(starved.assigned) == len(other.assigned) == 1

    run(tmp_path, act, ttl_s=2.1, beat_s=0.7)


def test_a_leader_that_was_starved_blames_nobody_and_still_sees_who_is_dead(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as alive:
            async with master.agent("node-b") as dead:
                await dead.join()
                await alive.join()
            for _ in range(3):
                threading.Event().wait(3.0)  # the loop of the master stands still for two TTLs
                await alive.send(Beat(0.0))
                await alive.receive(BeatAck)
                assert "NodeLost" not in await _codes(master)

            async def is_lost() -> bool:
                await alive.send(Beat(0.0))
                return (await _node(master, "node-b"))["state"] == "lost"

            await until("node-b is lost", is_lost)
            assert (await _node(master, "node-a"))["state"] == "ready"

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


def test_a_node_that_was_lost_and_is_back_cools_down(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent:
            await agent.join()

            async def is_lost() -> bool:
                return (await _node(master, "node-a"))["state"] == "lost"

            await until("node-a is lost", is_lost)
        async with master.agent("node-a") as agent:
            await agent.join()
            node = await _node(master, "node-a")
            assert node["state"] == "ready"
            assert node["cooling_until"] is not None
            assert 0 < node["cooling_until"] - time.time() <= 3.0

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


def test_nodes_lost_together_are_an_alarm_until_they_are_back(tmp_path: Path) -> None:
    names = [f"node-{number}" for number in range(4)]

    async def act(master: Master) -> None:
        async with AsyncExitStack() as stack:
            for name in names:
                await (await stack.enter_async_context(master.agent(name))).join()

        async def alarms() -> list[str]:
            async with master.client() as client:
                return (await client.cluster())["alarms"]

        (alarm,) = await until("there is an alarm", alarms)
        assert "4 of 4 nodes were lost together" in alarm
        await until("people are told", lambda: _has(master, "FailoverBraked"))
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(master.agent(name)) for name in names]
            for agent in agents:
                await agent.join()

            async def is_over() -> bool:
                for agent in agents:
                    await agent.send(Beat(0.0))
                return not await alarms() and await _has(master, "FailoverResumed")

            await until("the alarm is over", is_over)

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


async def _has(master: Master, code: str) -> bool:
    return code in await _codes(master)


# --- the line ------------------------------------------------------------------------------------


def test_turns_are_given_in_order_and_those_who_leave_the_line_take_none() -> None:
    async def main() -> None:
        line = Line(2)
        first, second, third, fourth, fifth = (line.enter() for _ in range(5))
        assert [turn.done() for turn in (first, second, third, fourth, fifth)] == [True, True, False, False, False]
        assert line.waiting == 3
        line.end(third)
        line.end(first)
        assert (fourth.done(), fifth.done(), line.waiting) == (True, False, 1)
        line.end(second)
        line.end(fourth)
        line.end(fifth)
        assert line.enter().done()
        assert line.enter().done()
        assert not line.enter().done()

    asyncio.run(main())


def test_agents_in_the_line_are_never_lost_however_long_it_lasts(tmp_path: Path) -> None:
    """As many as there are turns do not report, so the line stands still: each turn ends by its own deadline."""
    count = ADMISSIONS_LIMIT + 3

    async def act(master: Master) -> None:
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(master.agent(f"node-{number:02d}")) for number in range(count)]
            told = [await agent.receive(Queued) for agent in agents[ADMISSIONS_LIMIT:]]
            assert [word.waiting for word in told] == [3, 3, 3]
            beating = asyncio.create_task(_beat(agents))
            for agent in agents[ADMISSIONS_LIMIT:]:
                await agent.receive(Welcome)
                await agent.send(Report(is_full=True))
            beating.cancel()
            assert "NodeLost" not in await _codes(master)

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


async def _beat(agents: list[FakeAgent]) -> None:
    while True:
        for agent in agents[:ADMISSIONS_LIMIT]:
            await agent.send(Beat(0.0))
        await asyncio.sleep(0.3)


def test_an_agent_that_goes_while_it_stands_in_line_frees_its_place(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with AsyncExitStack() as stack:
            for number in range(ADMISSIONS_LIMIT):
                await stack.enter_async_context(master.agent(f"node-{number:02d}"))
            async with master.agent("node-x") as leaving:
                await leaving.receive(Queued)
        async with master.agent("node-y") as agent:
            await agent.join()
            await agent.send(Beat(1.0))
            message = await agent.socket.receive()
            assert message.type is aiohttp.WSMsgType.BINARY

    run(tmp_path, act)
