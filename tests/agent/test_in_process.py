"""The agent inside another program's event loop, as `hsu-cluster standalone` runs it: no keeper, no signals."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from hsu_agent.daemon import run_agent
from hsu_core.model.lifecycle import State
from hsu_core.runtime.settings import AgentSettings
from tests.agent.harness import instance, is_running, marked_pids, order, status_where
from tests.support.fake_master import TOKEN, FakeMaster
from tests.support.waiting import eventually


def test_it_runs_ends_and_runs_again_in_one_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "token").write_text(TOKEN)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        async with FakeMaster() as master:
            settings = AgentSettings("node-1", (master.url,), tmp_path / "data", tmp_path / "token", "127.0.0.1")
            pids = []
            await master.put(order("sleep", "1000", slot=0), order("sleep", "1000", slot=1))
            for turn in range(2):
                stop = asyncio.Event()
                agent = asyncio.create_task(run_agent(settings, stop=stop))
                await eventually(lambda: len(master.hellos) == turn + 1)  # noqa: B023
                found = [await status_where(master, instance(slot=slot), state=State.RUNNING) for slot in range(2)]
                pids.append([status.pid for status in found])
                assert {number: signal.getsignal(number) for number in handlers} == handlers
                stop.set()
                assert await agent == 0
            assert pids[0] == pids[1]
            assert all(pid is not None and is_running(pid) for pid in pids[0])
            stop = asyncio.Event()
            agent = asyncio.create_task(run_agent(settings, stop=stop))
            await eventually(lambda: len(master.hellos) == 3)
            os.kill(pids[0][0] or 0, signal.SIGKILL)
            status = await status_where(master, instance(slot=0), state=State.RUNNING, restarts=1)
            assert status.last_exit is not None
            assert status.last_exit.signal == "SIGKILL"
            await master.drop(instance(slot=0), instance(slot=1))
            await eventually(lambda: len(master.gone) == 2)
            stop.set()
            assert await agent == 0
            identity = (tmp_path / "data/ledger/agent-id").read_text()
            assert marked_pids(identity) == []

    asyncio.run(scenario())
