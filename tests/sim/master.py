"""The real master on the simulated store and network: election, leader service, and the handlers of the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hsu_cluster.api.auth import Principal
from hsu_cluster.api.calls import Answer, Call, Services
from hsu_cluster.api.reading import Reader
from hsu_cluster.daemon import ensure_cluster
from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_core.model.errors import StoreError
from hsu_core.model.records import MasterAdvert
from hsu_core.runtime.ambient import Ambient
from tests.sim.net import Net, SimPorts
from tests.sim.store import StoreFaults, Truth, View
from tests.sim.virtual import Program, VirtualLoop

Handler = Callable[[Call], Awaitable[Answer]]


class SimMaster:
    """One master: its host has the same name; `start` runs it, `crash` ends it."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        truth: Truth,
        net: Net,
        rng: Random,
        faults: StoreFaults,
        times: LeaderTimes,
        *,
        make_service: Callable[..., LeaderService] = LeaderService,
        make_view: Callable[..., View] = View,
    ) -> None:
        self.name = name
        self.url = f"http://{name}:7070"
        self.wall_offset_s = 0.0
        self.program: Program | None = None
        self.service: LeaderService | None = None
        self.store: View | None = None
        self.starts = 0
        self.on_start: list[Callable[[SimMaster], None]] = []
        self._loop = loop
        self._truth = truth
        self._net = net
        self._rng = rng
        self.faults = faults
        self._times = times
        self._make_service = make_service
        self._make_view = make_view
        self._services: Services | None = None
        self._ending: asyncio.Event | None = None

    def wall(self) -> float:
        """Return this host's clock, which may be wrong."""
        return 1_700_000_000.0 + self._loop.time() + self.wall_offset_s

    @property
    def is_running(self) -> bool:
        """Return whether the master runs and is not stopped."""
        return self.program is not None and not self.program.is_dead and not self.program.is_stopped

    @property
    def is_leading(self) -> bool:
        """Return whether the master believes that it leads."""
        return self.is_running and self.service is not None and self.service.is_leading

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.program is not None and not self.program.is_dead:
            return
        self.starts += 1
        self.program = Program(self._loop, f"{self.name}#{self.starts}")
        self.store = self._make_view(self._truth, self.name, self._rng, self.faults)
        for tell in self.on_start:
            tell(self)
        self.program.start(self._run(self.program, self.store), "master")

    async def _run(self, program: Program, store: View) -> None:
        now = self._loop.time
        ambient = Ambient(self.wall, now, self._rng.uniform, lambda n: self._rng.randbytes(n).hex(), now)
        while True:
            try:
                await ensure_cluster(store, self.wall())
                break
            except StoreError:
                await asyncio.sleep(1.0)  # the service manager starts it again
        service = self.service = self._make_service(
            store,
            MasterAdvert(self.name, self.url, since=self.wall()),
            self._times,
            ambient=ambient,
            ports=SimPorts(self._net, self.name),
        )
        self._services = Services(
            store, None, service, self.wall, Reader(store, self.wall, self._loop.time), None, None, None, None
        )  # type: ignore[arg-type]
        self._net.listen(self.url, self.name, program, service.serve)
        self._ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.run(), name="leader")
            await self._ending.wait()
            await service.hand_over()
            running.cancel()
        self._ending = None
        program.call(program.kill)

    def crash(self) -> None:
        """Kill it."""
        if self.program is not None:
            self.program.kill()
            self.service = self._services = self._ending = None

    def end(self) -> None:
        """Ask it to end, as SIGTERM does."""
        if self._ending is not None and self.program is not None:
            self.program.call(self._ending.set)

    def ask(self, source: str, handler: Handler, **parts: Any) -> asyncio.Future[Answer]:
        """Have the API handle a request of a client, and return the future of its answer."""
        request = Request(**parts)

        async def work() -> Answer:
            if self._services is None:
                raise ConnectionRefusedError(f"{self.name} is starting")
            return await handler(Call(request, self._services, Principal("admin", "admin")))  # type: ignore[arg-type]

        assert self.program is not None
        return self._net.request(source, self.name, self.program, work)


@dataclass
class Request:
    """What a handler looks at of an HTTP request."""

    match_info: dict[str, str]
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    content_type: str = "application/json"

    @property
    def path_qs(self) -> str:
        """Return something that tells two requests apart."""
        return json.dumps([self.match_info, self.query], sort_keys=True)

    @property
    def can_read_body(self) -> bool:
        """Return whether there is a body."""
        return self.body is not None

    content_length = 0

    async def read(self) -> bytes:
        """Return the body."""
        return b"" if self.body is None else json.dumps(self.body, sort_keys=True).encode()
