"""A master in the test's own process: a real WebSocket server that speaks the real frames and decides nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web

from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import InstanceId
from hsu_core.model.order import OrderSpec
from hsu_core.wire import frames
from hsu_core.wire.codec import encode, to_plain

TOKEN = "node-token"


@dataclass(slots=True)
class Session:
    """One connected agent."""

    socket: web.WebSocketResponse
    hello: frames.Hello
    sent_specs: set[str] = field(default_factory=set)

    async def send(self, frame: frames.Frame) -> None:
        """Send one frame."""
        await self.socket.send_bytes(frames.encode_frame(frame))

    async def send_unknown(self) -> None:
        """Send a frame of a kind that no release knows."""
        await self.socket.send_bytes(encode({"f": "Horoscope", "d": {"text": "good"}}))


class FakeMaster:
    """Answers agents as told: `orders` are what it wants, `statuses` what was reported last."""

    def __init__(self, *, beat_s: float = 0.2, ttl_s: float = 3.0) -> None:
        self.term = 1
        self.incarnation = "test"
        self.accepted: tuple[str, ...] = ()
        self.beat_s = beat_s
        self.ttl_s = ttl_s
        self.orders: dict[InstanceId, tuple[Assignment, OrderSpec]] = {}
        self.statuses: dict[InstanceId, InstanceStatus] = {}
        self.history: list[InstanceStatus] = []
        self.gone: list[InstanceId] = []
        self.hellos: list[frames.Hello] = []
        self.goodbyes: list[frames.Goodbye] = []
        self.beats = 0
        self.answer: frames.Redirect | frames.Refuse | None = None
        self.is_silent = False
        self.acknowledged_at = 0.0
        self.is_withholding_orders = False
        self.queued = 0
        """Words to an agent in the line before it is let in."""
        self.session: Session | None = None
        self.chunks: dict[int, list[frames.Chunk]] = defaultdict(list)
        self.answers: dict[int, frames.Answer] = {}
        self.revision = 0
        self.url = ""
        self._asked = 0
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on a free port, or on the one it had before."""
        application = web.Application()
        application.router.add_get("/v1/session", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Close the session and stop listening."""
        if self.session is not None:
            await self.session.socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        hello: frames.Hello | None = None
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                continue
            frame = frames.decode_frame(message.data)
            if isinstance(frame, frames.Hello):
                hello = frame
                self.statuses.clear()  # what an earlier session said must not pass for what this one says
                self.hellos.append(hello)
                if self.answer is not None:
                    await socket.send_bytes(frames.encode_frame(self.answer))
                    break
                self.session = Session(socket, hello)
                for waiting in range(self.queued, 0, -1):
                    await self.session.send(frames.Queued(waiting))
                silence_s = self.ttl_s / 2
                welcome = frames.Welcome(
                    self.term,
                    self.incarnation,
                    self.beat_s,
                    self.ttl_s,
                    "fake",
                    frames.PROTOCOL,
                    silence_s,
                    self.accepted,
                )
                await self.session.send(welcome)
            elif self.session is not None:
                await self._take(self.session, frame)
        return socket

    async def _take(self, session: Session, frame: frames.Frame | None) -> None:
        if isinstance(frame, frames.Report):
            if frame.is_full:
                self.statuses.clear()
            for status in frame.statuses:
                self.statuses[status.instance] = status
                self.history.append(status)
            for instance in frame.gone:
                self.statuses.pop(instance, None)
                self.gone.append(instance)
            if frame.is_full and not self.is_withholding_orders:
                await self._send_orders(session, list(self.orders), is_full=True)
        elif isinstance(frame, frames.Beat):
            self.beats += 1
            if not self.is_silent:
                self.acknowledged_at = max(self.acknowledged_at, frame.sent_at)
                await session.send(frames.BeatAck(frame.sent_at, self.term))
        elif isinstance(frame, frames.Goodbye):
            self.goodbyes.append(frame)
        elif isinstance(frame, frames.Chunk):
            self.chunks[frame.id].append(frame)
        elif isinstance(frame, frames.Answer):
            self.answers[frame.id] = frame

    async def _send_orders(
        self,
        session: Session,
        instances: list[InstanceId],
        *,
        is_full: bool = False,
        removed: tuple[InstanceId, ...] = (),
    ) -> None:
        self.revision += 1
        specs: dict[str, Any] = {}
        orders = []
        for instance in instances:
            assignment, spec = self.orders[instance]
            if spec.key not in session.sent_specs:
                specs[spec.key] = to_plain(spec)
                session.sent_specs.add(spec.key)
            orders.append(frames.Order(assignment, spec.key))
        await session.send(frames.Orders(self.term, self.revision, is_full, specs, tuple(orders), removed))

    async def put(self, *orders: tuple[Assignment, OrderSpec]) -> None:
        """Want these too; tells a connected agent."""
        for assignment, spec in orders:
            self.orders[assignment.instance] = (assignment, spec)
        if self.session is not None and not self.session.socket.closed:
            await self._send_orders(self.session, [assignment.instance for assignment, _ in orders])

    async def change(self, instance: InstanceId, **fields: Any) -> None:
        """Change fields of an assignment; its epoch grows unless one is given."""
        assignment, spec = self.orders[instance]
        fields.setdefault("epoch", assignment.epoch + 1)
        await self.put((replace(assignment, **fields), spec))

    async def drop(self, *instances: InstanceId) -> None:
        """Want these no more."""
        for instance in instances:
            del self.orders[instance]
        if self.session is not None and not self.session.socket.closed:
            await self._send_orders(self.session, [], removed=instances)

    async def ask(self, verb: str, instance: InstanceId, **arguments: Any) -> int:
        """Ask the agent; return the number under which `chunks` and `answers` come."""
        assert self.session is not None
        self._asked += 1
        await self.session.send(frames.Ask(self._asked, verb, instance, arguments))
        return self._asked

    async def cut(self) -> None:
        """Drop the connection without a word."""
        if self.session is not None and self.session.socket._req is not None:
            transport = self.session.socket._req.transport
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)
