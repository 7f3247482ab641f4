"""An agent with its keeper, real workers and a fake master."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hsu_core.model.lifecycle import State
from tests.agent.harness import AgentProcess, instance, order, status_where
from tests.support.fake_master import FakeMaster


def test_a_worker_runs_and_is_stopped(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await master.put(order("sleep", "1000"))
            status = await status_where(master, instance(), state=State.RUNNING, is_ready=True)
            assert status.pid is not None
            await master.drop(instance())
            await status_where_gone(master)
            assert await agent.stop() == 0
            assert len(master.goodbyes) == 1

    async def status_where_gone(master: FakeMaster) -> None:
        while instance() not in master.gone:
            await asyncio.sleep(0.01)

    asyncio.run(scenario())
