"""The simulated network: connections that are slow, cut in one direction, and end when a program dies.

A message on a cut edge waits, as TCP sends it again, and goes on when the edge is healed. A host that is down sends
nothing, not even the end of its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from aiohttp import WSMessage, WSMsgType

from hsu_cluster.leader.takeover import CONNECT_TIMEOUT_S, Address, Contact
from tests.sim.virtual import Program, VirtualLoop

T = TypeVar("T")

ROOM = 64
"""Messages on the way before a sender has to wait, as the buffers of a connection are bounded."""

IDLE_S = 60.0
"""An idle connection is closed by the server after this."""

_CLOSED = WSMessage(WSMsgType.CLOSED, None, None)


class Net:
    """Hosts by name, who listens, and which edges are cut."""

    def __init__(self, loop: VirtualLoop, rng: Random, delay_s: tuple[float, float] = (0.0002, 0.003)) -> None:
        self.loop = loop
        self.delay_s = delay_s
        self._rng = rng
        self._cuts: set[tuple[str, str]] = set()
        self.down: set[str] = set()
        self._listening: dict[str, tuple[str, Program, Callable[[End], Coroutine[Any, Any, None]]]] = {}
        self._pipes: list[_Pipe] = []

    # -- faults -----------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one host to another."""
        self._cuts.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """Let everything through again."""
        self._cuts.discard((source, target))
        self._retry()

    def heal_all(self) -> None:
        """Mend every edge."""
        self._cuts.clear()
        self._retry()

    def is_open(self, source: str, target: str) -> bool:
        """Return whether a message gets through now."""
        return (source, target) not in self._cuts and source not in self.down and target not in self.down

    def set_down(self, host: str, is_down: bool) -> None:
        """A host falls, or is there again."""
        (self.down.add if is_down else self.down.discard)(host)
        if not is_down:
            for pipe in [pipe for pipe in self._pipes if pipe.source == host and not pipe.is_over]:
                pipe.send(_CLOSED)  # it knows nothing of the connections it had, and says so
            self._retry()

    def _retry(self) -> None:
        self._pipes = [pipe for pipe in self._pipes if not pipe.is_over]
        for pipe in self._pipes:
            pipe.push()

    def draw_delay_s(self) -> float:
        """Return how long one message takes."""
        return self._rng.uniform(*self.delay_s)

    def server(self, host: str) -> Program | None:
        """Return the program that listens on a host."""
        return next((program for name, program, _ in self._listening.values() if name == host), None)

    # -- connections ------------------------------------------------------------------------------

    def listen(self, url: str, host: str, program: Program, serve: Callable[[End], Coroutine[Any, Any, None]]) -> None:
        """Serve connections to `url` in a program; a later one takes the place of an earlier."""
        self._listening[url] = (host, program, serve)

    async def connect(self, url: str, source: str, program: Program) -> End:
        """Return this side's end. Waits for ever where nothing comes back. Raises ConnectionError."""
        if url not in self._listening:
            await asyncio.sleep(self.draw_delay_s())
            raise ConnectionRefusedError(f"nobody listens on {url}")
        host, server, serve = self._listening[url]
        opened: asyncio.Future[End] = self.loop.create_future()

        def arrive() -> None:
            if not self.is_open(source, host):
                return
            if server.is_dead:
                self.loop.later(self.draw_delay_s(), refuse)
            else:
                server.call(accept)

        def accept() -> None:
            ours, theirs = self._pair(source, program, host, server)
            server.start(serve(theirs), f"serves {source}")
            self.loop.later(self.draw_delay_s(), give, ours)

        def give(ours: End) -> None:
            if not self.is_open(host, source):
                self.loop.later(1.0, give, ours)  # the answer is sent again
            elif not opened.done():
                opened.set_result(ours)
            else:
                ours.drop()

        def refuse() -> None:
            if self.is_open(host, source) and not opened.done():
                opened.set_exception(ConnectionRefusedError(f"nobody listens on {url}"))

        self.loop.later(self.draw_delay_s(), arrive)
        return await opened

    def _pair(self, source: str, client: Program, host: str, server: Program) -> tuple[End, End]:
        ours, theirs = End(self, source, client), End(self, host, server)
        ours.out, theirs.out = _Pipe(self, source, host, theirs), _Pipe(self, host, source, ours)
        self._pipes += (ours.out, theirs.out)
        client.on_death.append(ours.drop)
        server.on_death.append(theirs.drop)
        return ours, theirs

    def request(self, source: str, host: str, server: Program, work: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Have a program do something and return the future of its answer, which may never come."""
        answer: asyncio.Future[T] = self.loop.create_future()

        async def serve() -> None:
            result, error = None, None
            try:
                result = await work()
            except Exception as raised:
                error = raised
            self.loop.later(self.draw_delay_s(), reply, result, error)

        def arrive() -> None:
            if not self.is_open(source, host):
                return
            if server.is_dead:
                self.loop.later(self.draw_delay_s(), reply, None, ConnectionRefusedError(f"{host} refuses"))
            else:
                server.call(lambda: server.start(serve(), f"request of {source}") and None)

        def reply(result: Any, error: Exception | None) -> None:
            if answer.done() or not self.is_open(host, source):
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self.loop.later(self.draw_delay_s(), arrive)
        return answer


class _Pipe:
    """One direction of a connection: in order, one message after the other."""

    def __init__(self, net: Net, source: str, target: str, end: End) -> None:
        self._net = net
        self.source = source
        self._target = target
        self._end = end
        self._waiting: deque[WSMessage] = deque()
        self._is_moving = False
        self.is_over = False
        self.room: asyncio.Event = asyncio.Event()
        self.room.set()

    def send(self, message: WSMessage) -> None:
        self._waiting.append(message)
        if len(self._waiting) >= ROOM:
            self.room.clear()
        self.push()

    def push(self) -> None:
        if self._waiting and not self._is_moving and self._net.is_open(self.source, self._target):
            self._is_moving = True
            self._net.loop.later(self._net.draw_delay_s(), self._arrive)

    def _arrive(self) -> None:
        self._is_moving = False
        if not self._net.is_open(self.source, self._target):
            return
        message = self._waiting.popleft()
        if len(self._waiting) < ROOM:
            self.room.set()
        self._end.take(message)
        if message.type is WSMsgType.CLOSED:
            self.is_over = True
            self._waiting.clear()
        self.push()


class End:
    """One end of a connection; a `hsu_core.runtime.sockets.Socket`."""

    def __init__(self, net: Net, host: str, program: Program) -> None:
        self._net = net
        self._host = host
        self._program = program
        self._inbox: deque[WSMessage] = deque()
        self._arrived = asyncio.Event()
        self.closed = False
        self.out: _Pipe

    def take(self, message: WSMessage) -> None:
        """A message has come."""
        if message.type is WSMsgType.CLOSED:
            self._net_end()
        self._inbox.append(message)
        self._arrived.set()

    def _net_end(self) -> None:
        self.out.is_over = True
        self.out.room.set()

    async def receive(self) -> WSMessage:
        """Return the next message."""
        while not self._inbox:
            if self.closed:
                return _CLOSED
            self._arrived.clear()
            await self._arrived.wait()
        if self._inbox[0].type is WSMsgType.CLOSED:
            return self._inbox[0]
        return self._inbox.popleft()

    async def send_bytes(self, data: bytes) -> None:
        """Send a message."""
        await self.out.room.wait()
        if self.closed or self.out.is_over:
            raise ConnectionResetError("the connection is closed")
        self.out.send(WSMessage(WSMsgType.BINARY, data, None))

    async def close(self) -> None:
        """Close the connection."""
        self.drop()

    def drop(self) -> None:
        """Close the connection at once; a host that is down closes nothing."""
        if self.closed:
            return
        self.closed = True
        self._arrived.set()
        if self._host not in self._net.down and not self.out.is_over:
            self.out.send(_CLOSED)


class SimPorts:
    """Connections from one master to others that carry nothing; a `hsu_cluster.leader.takeover.Ports`."""

    def __init__(self, net: Net, host: str) -> None:
        self._net = net
        self._host = host

    async def contact(self, address: Address) -> Contact:
        """Hold a connection until the other side ends it."""
        net, target = self._net, address[0]
        await asyncio.sleep(2 * net.draw_delay_s())
        server = net.server(target)
        if not (net.is_open(self._host, target) and net.is_open(target, self._host)):
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            return Contact.SILENT
        if server is None or server.is_dead:
            return Contact.REFUSED
        ended: asyncio.Future[None] = net.loop.create_future()

        def end() -> None:
            if not net.is_open(target, self._host):
                net.loop.later(0.5, end)  # sent again
            elif not ended.done():
                ended.set_result(None)

        server.on_death.append(end)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await ended
        return Contact.BROKEN

    async def is_reached(self, address: Address) -> bool:
        """Return whether somebody listens there."""
        await asyncio.sleep(2 * self._net.draw_delay_s())
        server = self._net.server(address[0])
        return server is not None and not server.is_dead
