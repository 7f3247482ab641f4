"""A real master in this process, and agents that are a few lines of WebSocket: what the two say is the subject."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from hsu_cluster.client.client import ClusterClient
from hsu_cluster.daemon import run_master
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity, NodeTimes
from hsu_core.runtime.settings import Listen, MasterSettings, SqliteStoreSettings
from hsu_core.wire.frames import Frame, Hello, Orders, Report, Welcome, decode_frame, encode_frame

F = TypeVar("F")
PATIENCE_S = 30.0


def settings(folder: Path, *, ttl_s: float = 8.0, beat_s: float = 2.0) -> MasterSettings:
    """Return the settings of a master on port 0 with everything below `folder`."""
    return MasterSettings(
        name="master",
        listen=Listen("127.0.0.1", 0),
        advertise="http://127.0.0.1:0",
        data_dir=folder,
        store=SqliteStoreSettings(folder / "store.sqlite"),
        admin_token_file=folder / "admin.token",
        node_token_file=folder / "node.token",
        nodes=NodeTimes(beat_s, ttl_s / 2, ttl_s, 2 * ttl_s),
    )


class Master:
    """A running master."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.admin = (folder / "admin.token").read_text().strip()
        self.node = (folder / "node.token").read_text().strip()

    def client(self) -> ClusterClient:
        """Return a client with the admin token."""
        return ClusterClient(self.url, self.admin)

    @asynccontextmanager
    async def agent(self, name: str, **hello: Any) -> AsyncIterator[FakeAgent]:
        """Connect as an agent and say hello."""
        headers = {"Authorization": f"Bearer {self.node}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.ws_connect(f"{self.url}/v1/session") as socket,
        ):
            agent = FakeAgent(name, socket)
            await agent.send(Hello(name, **{"capacity": Capacity(8000, 2**33), "boot_id": name, **hello}))
            yield agent


@asynccontextmanager
async def running_master(chosen: MasterSettings) -> AsyncIterator[Master]:
    """Run a master until the context ends."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        task = group.create_task(run_master(chosen, stop=stop, ready=ready))
        yield Master(await ready, chosen.data_dir)
        stop.set()
        assert await task == 0


class FakeAgent:
    """The agent's side of the conversation; it runs nothing."""

    def __init__(self, name: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.name = name
        self.socket = socket
        self.assigned: dict[InstanceId, Assignment] = {}

    async def send(self, frame: Frame) -> None:
        """Send a frame."""
        await self.socket.send_bytes(encode_frame(frame))

    async def receive(self, kind: type[F]) -> F:
        """Return the next frame of a kind; orders on the way are kept."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, f"the session ended: {message}"
                frame = decode_frame(message.data)
                if isinstance(frame, Orders):
                    self._take(frame)
                if isinstance(frame, kind):
                    return frame

    def _take(self, orders: Orders) -> None:
        if orders.is_full:
            self.assigned.clear()
        self.assigned.update((order.assignment.instance, order.assignment) for order in orders.orders)
        for instance in orders.removed:
            self.assigned.pop(instance, None)

    async def join(self) -> Welcome:
        """Wait for the welcome, report that nothing runs, and take the first orders."""
        welcome = await self.receive(Welcome)
        await self.send(Report(is_full=True))
        await self.receive(Orders)
        return welcome

    async def run_everything(self, count: int) -> None:
        """Wait for `count` assignments and report each as running and ready."""
        while len(self.assigned) != count:
            await self.receive(Orders)
        await self.send(Report(tuple(self.status(assignment) for assignment in self.assigned.values())))

    def status(self, assignment: Assignment, state: State = State.RUNNING) -> InstanceStatus:
        """Return what this agent says of an assignment."""
        return InstanceStatus(
            assignment.instance,
            self.name,
            assignment.epoch,
            state,
            is_ready=state is State.RUNNING,
            revision=assignment.revision,
            spec_hash=assignment.spec_hash,
            generation=assignment.generation,
            pid=4711,
            started_at=1.0,
        )


def manifest(app: str, replicas: int, **worker: Any) -> dict[str, Any]:
    """Return a small manifest."""
    execution = {"executable_path": "sleep", "args": ["3600"]}
    unit = {"managed": {"metadata": {"name": "web"}, "control": {"execution": execution}}}
    return {"app": app, "workers": [{"id": "web", "type": "managed", "replicas": replicas, "unit": unit, **worker}]}


async def until(what: str, look: Any) -> Any:
    """Return the first true answer of the coroutine function `look`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.02)
    raise AssertionError(what)
