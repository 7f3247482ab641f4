"""What the leader says to agents, and what it makes of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hsu_cluster.daemon import run_master
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import StoreInUse
from hsu_core.model.lifecycle import State
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import Beat, BeatAck, Goodbye, Orders, Refuse, Report, Welcome
from tests.leader.harness import Master, manifest, running_master, settings, until

pytestmark = pytest.mark.timeout(120)


def run(folder: Path, act: Callable[[Master], Awaitable[None]], **times: float) -> None:
    """Run `act` against a master."""

    async def main() -> None:
        async with running_master(settings(folder, **times)) as master:
            await act(master)

    asyncio.run(main())


async def _states(master: Master) -> dict[str, str]:
    async with master.client() as client:
        return {node["name"]: node["state"] for node in (await client.list_nodes())["items"]}


async def _instances(master: Master, app: str = "shop") -> list[Any]:
    async with master.client() as client:
        return list((await client.list_instances("default", app))["items"])


def test_an_agent_is_given_its_own_assignments_only(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as first, master.agent("node-b") as second:
            welcome = await first.join()
            await second.join()
            assert (welcome.beat_s, welcome.ttl_s) == (2.0, 8.0)
            async with master.client() as client:
                await client.deploy("default", "shop", manifest("shop", 4))
            await first.run_everything(2)
            await second.run_everything(2)
            assert {a.node for a in first.assigned.values()} == {"node-a"}
            assert not first.assigned.keys() & second.assigned.keys()

    run(tmp_path, act)


def test_what_happens_to_an_instance_is_told_as_an_event_and_a_host_that_falls_is_no_flood(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent, master.client() as client:
            await agent.join()
            await client.deploy("default", "shop", manifest("shop", 60))
            await agent.run_everything(60)
            fallen = [
                replace(
                    agent.status(assignment, State.RESTARTING),
                    last_exit=LastExit(1),
                    reason="ended with code 1; starts again in 0.5 s",
                )
                for assignment in agent.assigned.values()
            ]
            await until("all run", lambda: _all_in(master, "running"))
            await agent.send(Report(tuple(fallen)))

            async def codes() -> list[str]:
                found = [event["code"] for event in (await client.events(limit=500))["items"]]
                return found if "ManyChanges" in found else []

            found = await until("the events", codes)
            assert found.count("InstanceEnded") == 50

    run(tmp_path, act)


async def _all_in(master: Master, state: str) -> bool:
    return {item["state"] for item in await _instances(master)} == {state}


def test_a_changed_worker_comes_with_a_higher_epoch_and_a_removed_one_is_named(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent, master.client() as client:
            await agent.join()
            await client.deploy("default", "shop", manifest("shop", 1))
            await agent.run_everything(1)
            before = next(iter(agent.assigned.values()))
            await client.restart("default", "shop", worker="web")
            while next(iter(agent.assigned.values())).generation == before.generation:
                await agent.receive(Orders)
            assert next(iter(agent.assigned.values())).epoch > before.epoch
            await client.remove("default", "shop")
            while agent.assigned:
                await agent.receive(Orders)
            assert await _instances(master), "shown until its agent says it is gone"
            await agent.send(Report(gone=(before.instance,)))
            await until("it is gone", lambda: _has_none(master))

    run(tmp_path, act)


async def _has_none(master: Master) -> bool:
    async with master.client() as client:
        return not (await client.list_instances())["items"]


def test_a_silent_node_is_lost_and_its_instances_move_and_it_is_told_when_it_is_back(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-b") as alive, master.client() as client:
            await alive.join()
            async with master.agent("node-a") as silent:
                await silent.join()
                await client.deploy("default", "shop", manifest("shop", 2))
                await silent.run_everything(1)
                await alive.run_everything(1)
                old = dict(silent.assigned)

                async def is_lost() -> bool:
                    await alive.send(Beat(0.0))
                    return (await _states(master)) == {"node-a": "lost", "node-b": "ready"}

                await until("node-a is lost", is_lost)
            await alive.run_everything(2)
            async with master.agent("node-a") as back:
                await back.receive(Welcome)
                await back.send(Report(tuple(back.status(a) for a in old.values()), is_full=True))
                orders = await back.receive(Orders)
                assert orders.is_full
                assert not back.assigned, "what moved away is not its own any more"
                assert (await _states(master))["node-a"] == "ready"

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


def test_a_node_that_beats_is_not_lost(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent:
            await agent.join()
            loop = asyncio.get_running_loop()
            end_s = loop.time() + 3.0
            while loop.time() < end_s:
                await agent.send(Beat(loop.time()))
                assert (await agent.receive(BeatAck)).term > 0
                assert (await _states(master))["node-a"] == "ready"
                await asyncio.sleep(0.2)

    run(tmp_path, act, ttl_s=1.5, beat_s=0.5)


def test_an_agent_that_says_goodbye_has_left(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as agent:
            await agent.join()
            await agent.send(Goodbye())

            async def has_left() -> bool:
                return (await _states(master))["node-a"] == "left"

            await until("it has left", has_left)

    run(tmp_path, act)


def test_refusals_say_why(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("bad name!") as agent:
            assert (await agent.receive(Refuse)).is_final
        async with master.agent("old", protocol=0) as agent:
            refusal = await agent.receive(Refuse)
            assert refusal.code == "session.protocol"
            assert "upgrade" in refusal.text
        async with master.agent("node-a", boot_id="one") as first:
            await first.join()
            async with master.agent("node-a", boot_id="two") as other:
                assert (await other.receive(Refuse)).code == "node.name-taken"
            async with master.agent("node-a", boot_id="one") as again:
                await again.receive(Welcome)  # the same host again: its old connection is closed

    run(tmp_path, act)


def test_frames_and_fields_of_a_newer_agent_are_ignored(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a", protocol=99) as agent:
            welcome = await agent.receive(Welcome)
            assert welcome.protocol == 1
            await agent.socket.send_bytes(encode({"f": "Telepathy", "d": {"thought": 1}}))
            await agent.socket.send_bytes(encode({"f": "Beat", "d": {"sent_at": 7.0, "mood": "good"}}))
            assert (await agent.receive(BeatAck)).sent_at == 7.0

    run(tmp_path, act)


def test_a_frame_that_is_no_frame_ends_that_session_only(tmp_path: Path) -> None:
    async def act(master: Master) -> None:
        async with master.agent("node-a") as good, master.agent("node-b") as bad:
            await good.join()
            await bad.join()
            await bad.socket.send_bytes(b"\xc1 nonsense")
            async with asyncio.timeout(20):
                while (await bad.socket.receive()).type is aiohttp.WSMsgType.BINARY:
                    pass
            await good.send(Beat(1.0))
            await good.receive(BeatAck)

    run(tmp_path, act)


def test_a_second_master_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async def act(_: Master) -> None:
        with pytest.raises(StoreInUse, match="one file serves one process"):
            await run_master(settings(tmp_path), stop=asyncio.Event())

    run(tmp_path, act)
