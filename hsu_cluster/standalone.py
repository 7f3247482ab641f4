"""`hsu-cluster standalone`: a master on SQLite and an agent in one process, for one machine.

The same two programs: the agent dials the master over loopback like any other, and more agents can
join. Killing this process leaves the workers running; starting it again adopts them.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable
from pathlib import Path

from hsu_agent.daemon import run_agent
from hsu_cluster.daemon import run_master, stop_on_signals
from hsu_core.runtime.settings import AgentSettings, Listen, MasterSettings, SqliteStoreSettings


def standalone_settings(
    data_dir: Path, listen: Listen, *, log_format: str = "text", log_level: str = "info"
) -> MasterSettings:
    """Return the master's settings: everything below `data_dir`, loopback, SQLite."""
    return MasterSettings(
        name=platform.node() or "standalone",
        listen=listen,
        advertise=f"http://{listen}",
        data_dir=data_dir,
        store=SqliteStoreSettings(data_dir / "store.sqlite"),
        admin_token_file=data_dir / "admin.token",
        node_token_file=data_dir / "node.token",
        log_format=log_format,
        log_level=log_level,
        allow_exec_analysis=True,  # the agent beside it runs what is deployed anyway, as the same user
        allow_templates=True,  # who may deploy here runs programs on this machine anyway
    )


def agent_settings(master: MasterSettings, url: str) -> AgentSettings:
    """Return the settings of the agent beside this master."""
    return AgentSettings(
        node=master.name,
        masters=(url,),
        data_dir=master.data_dir / "agent",
        token_file=master.node_token_file,
        address="127.0.0.1",
        log_format=master.log_format,
        log_level=master.log_level,
    )


async def run_standalone(
    settings: MasterSettings, *, stop: asyncio.Event | None = None, ready: asyncio.Future[str] | None = None
) -> int:
    """Run master and agent until `stop` is set (or SIGTERM, SIGINT when none is given); return the exit code.

    The workers run on when it ends; `ready` gets the URL of the API once it listens.
    """
    stop = stop or stop_on_signals()
    agent_stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    master_stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        master = group.create_task(run_master(settings, stop=master_stop, ready=url), name="master")
        listening = group.create_task(_value(url), name="listening")
        await asyncio.wait({master, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not url.done():
            listening.cancel()
            return await master
        agent = group.create_task(run_agent(agent_settings(settings, url.result()), stop=agent_stop), name="agent")
        if ready is not None:
            ready.set_result(url.result())
        stopping = group.create_task(_value(stop.wait()), name="stop")
        await asyncio.wait({master, agent, stopping}, return_when=asyncio.FIRST_COMPLETED)
        agent_stop.set()
        codes = [await agent]
        master_stop.set()
        codes.append(await master)
        stopping.cancel()
    return max(codes)


async def _value(what: Awaitable[object]) -> None:
    await what
