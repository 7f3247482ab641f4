"""A lost node comes back with its processes: what its agent and that of the replacement are told, in which order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hsu_core.wire.frames import Beat, Orders, Report, Welcome
from tests.leader.harness import FakeAgent, Master, manifest, running_master, settings, until

pytestmark = pytest.mark.timeout(120)


async def _state(master: Master, *beating: FakeAgent) -> dict[str, str]:
    for agent in beating:
        await agent.send(Beat(0.0))
    async with master.client() as client:
        return {node["name"]: node["state"] for node in (await client.list_nodes())["items"]}


def test_the_original_is_confirmed_before_the_replacement_is_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path, ttl_s=1.5, beat_s=0.5)) as master, master.client() as client:
            async with master.agent("node-a") as first:
                await first.join()
                await client.deploy("default", "shop", manifest("shop", 1, on_return="keep_original"))
                await first.run_everything(1)
                (original,) = first.assigned.values()
            async with master.agent("node-b") as other:
                await other.join()

                async def is_lost() -> bool:
                    return (await _state(master, other))["node-a"] == "lost"

                await until("node-a is lost", is_lost)
                await other.run_everything(1)
                (replacement,) = other.assigned.values()
                assert replacement.replaces == "node-a"
                async with master.agent("node-a") as back:
                    await back.receive(Welcome)
                    await back.send(Report((back.status(original),), is_full=True))
                    orders = await back.receive(Orders)
                    assert orders.is_full
                    (again,) = back.assigned.values()
                    assert (again.node, again.beside) == ("node-a", "node-b")
                    assert again.epoch > replacement.epoch > original.epoch
                    assert await _none_of(other, Orders), "the original has not confirmed its order yet"
                    await back.send(Report((back.status(again),)))
                    while other.assigned:
                        await other.receive(Orders)

    asyncio.run(main())


async def _none_of(agent: FakeAgent, kind: type[Orders]) -> bool:
    """Return whether no frame of a kind comes for a while, in which the agent beats."""
    for _ in range(3):
        await agent.send(Beat(0.0))
        try:
            async with asyncio.timeout(0.3):
                await agent.receive(kind)
                return False
        except TimeoutError:
            continue
    return True


def test_an_original_that_does_not_run_any_more_is_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path, ttl_s=1.5, beat_s=0.5)) as master, master.client() as client:
            async with master.agent("node-a") as first:
                await first.join()
                await client.deploy("default", "shop", manifest("shop", 1, on_return="keep-original"))
                await first.run_everything(1)
            async with master.agent("node-b") as other:
                await other.join()

                async def is_lost() -> bool:
                    return (await _state(master, other))["node-a"] == "lost"

                await until("node-a is lost", is_lost)
                await other.run_everything(1)
                async with master.agent("node-a") as back:
                    await back.receive(Welcome)
                    await back.send(Report(is_full=True))
                    assert (await back.receive(Orders)).is_full
                    assert not back.assigned
                    assert len(other.assigned) == 1

    asyncio.run(main())
