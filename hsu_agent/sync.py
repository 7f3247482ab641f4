"""The session with the leader: dial, obey, report, beat. With no master in reach the ledger's orders go on.

Until the first full orders of a session have come, those of the ledger are in force; then everything that is
not among them is stopped. Which orders are obeyed is decided in `hsu_agent.orders`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp

from hsu_agent.asks import Asks
from hsu_agent.fence import Fence
from hsu_agent.ledger import Ledger
from hsu_agent.logs.capture import Capture
from hsu_agent.loop import Supervisor
from hsu_agent.masters import RETRY_CEILING_S, Masters, Outcome
from hsu_agent.metrics import AgentMetrics
from hsu_agent.orders import Obedience, SessionEnded
from hsu_core.model.errors import HsuError, InvalidSettings
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient
from hsu_core.runtime.settings import AgentSettings
from hsu_core.runtime.sockets import Socket
from hsu_core.runtime.tasks import Wake
from hsu_core.wire import frames
from hsu_core.wire.codec import FRAME_LIMIT_BYTES

log = logging.getLogger(__name__)

SESSION_PATH = "/v1/session"

REFUSED_RETRY_S = 30.0
"""Wait after a final refusal: only a person can mend it, and then it should not need a restart."""

CONNECT_S = 2.0
"""Longest wait for a TCP connection: a host that is gone must not cost the time in which another could hear us."""

FIRST_ANSWER_S = 10.0
"""Longest wait for the handshake, and for a word after our Hello: a leader says so when others come first."""

FIRST_ANSWER_CEILING_S = 80.0
"""The same after it was in vain several times in a row: a fleet that gives up together is never served."""

STALL_S = 0.5
"""A timer this late means that we were stopped or starved, and that the other side may have spoken meanwhile."""

REPORT_PAUSE_S = 0.01
"""Shortest time between two reports of changes: a thousand starts must not become a thousand frames."""

CLOSE_S = 0.5
"""Longest wait for the other side's part of a close: it may be the silent one."""

REPORT_LIMIT = 5_000
"""Most statuses in one frame of changes: about 1.5 MB, below the limit of a frame."""


class Silent(SessionEnded):
    """The other side said nothing for too long."""


Dial = Callable[[str, str], Awaitable[Socket]]
"""Opens the WebSocket of a URL with a token. Raises OSError, TimeoutError, or what aiohttp does."""


class Sync:
    """Holds at most one session, for as long as the agent runs."""

    def __init__(
        self,
        *,
        settings: AgentSettings,
        hello: frames.Hello,
        supervisor: Supervisor,
        ledger: Ledger,
        capture: Capture,
        metrics: AgentMetrics,
        dialing: Callable[[], AbstractAsyncContextManager[Dial]] | None = None,
        ambient: Ambient = REAL,
        fence: Fence | None = None,
    ) -> None:
        self._fence = fence
        self._dialing = dialing if dialing is not None else partial(dialing_masters, True)
        self._ambient = ambient
        self._settings = settings
        self._hello = hello
        self._supervisor = supervisor
        self._ledger = ledger
        self._capture = capture
        self._metrics = metrics
        self._changed: set[InstanceId] = set()
        self._reports = Wake()
        self._obedience = Obedience(supervisor, ledger)
        self._is_stopping_workers = False
        supervisor.table.listeners.append(self._note_change)

    def _note_change(self, instance: InstanceId) -> None:
        self._changed.add(instance)
        self._reports.wake()

    async def run(self, stop: asyncio.Event, *, is_stopping_workers: bool = False) -> None:
        """Keep a session open until `stop` is set, then say good-bye."""
        self._is_stopping_workers = is_stopping_workers
        if not self._settings.masters:
            return
        loop = asyncio.get_running_loop()
        masters = Masters(self._settings.masters, self._ambient.uniform)
        last_text = ""
        self._patience_s = FIRST_ANSWER_S
        async with self._dialing() as dial:
            while not stop.is_set():
                url = masters.next(loop.time())
                outcome = await self._dial(dial, url, stop, masters.patience_s(url, loop.time()))
                self._ledger.flush()
                wait_s = masters.note(url, outcome, loop.time())
                if stop.is_set():
                    return
                if outcome.text and outcome.text != last_text and not outcome.urls:
                    log.warning("no session with %s: %s; workers run on", url, outcome.text)
                last_text = outcome.text
                await _wait(stop, wait_s)

    async def _dial(self, dial: Dial, url: str, stop: asyncio.Event, patience_s: float | None) -> Outcome:
        """Hold one session; return why it ended."""
        try:
            token = self._settings.token_file.read_text().strip()
        except OSError as error:
            return Outcome(f"cannot read token_file: {error}", wait_s=RETRY_CEILING_S)
        session = _Session(self, stop)
        try:
            async with asyncio.timeout(min(self._patience_s, patience_s or self._patience_s)):
                socket = await dial(url.rstrip("/") + SESSION_PATH, token)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                text = f"the master refuses the token of {self._settings.token_file} (HTTP {error.status})"
                return Outcome(f"{text}; put a node token of this cluster there", wait_s=RETRY_CEILING_S)
            return Outcome(f"HTTP {error.status}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            is_silent = isinstance(error, TimeoutError)
            if is_silent and patience_s is None and not isinstance(error, aiohttp.ClientError):
                self._patience_s = min(2 * self._patience_s, FIRST_ANSWER_CEILING_S)  # it is there, and has much to do
            is_refused = isinstance(getattr(error, "os_error", error), ConnectionRefusedError)
            return Outcome(str(error) or type(error).__name__, is_refused=is_refused, is_silent=is_silent)
        try:
            return await session.hold(socket)
        finally:
            self._metrics.is_connected.set(0)
            await socket.close()

    # -- what a session needs ---------------------------------------------------------------------

    @property
    def hello(self) -> frames.Hello:
        """Return our first frame."""
        ledger = self._ledger
        return replace(
            self._hello,
            agent=ledger.agent,
            incarnation=ledger.incarnation,
            term=ledger.term,
            revision=ledger.revision,
            workers=max(1, len(self._supervisor.statuses())) if self._supervisor.has_workers else 0,
        )

    def welcome(self, frame: frames.Welcome) -> None:
        """Begin a session with this leader. Raises SessionEnded for one that was replaced."""
        self._obedience.welcome(frame)
        self._patience_s = FIRST_ANSWER_S
        if self._fence is not None:
            self._fence.begin_session(frame.ttl_s)
        self._metrics.is_connected.set(1)
        self._metrics.sessions.inc()
        log.info("session with leader %s, term %d", frame.leader, frame.term)

    def obey(self, orders: frames.Orders) -> None:
        """Take orders into force. Raises SessionEnded if they cannot be obeyed."""
        self._obedience.obey(orders)
        if self._fence is not None:
            self._fence.name(self._obedience.in_force(orders))

    def acknowledged(self, frame: frames.BeatAck) -> None:
        """Take note of a beat that the leader has heard; that of a cluster which is not obeyed gives no lease."""
        self._obedience.hear_of(frame.revision)
        if self._fence is not None and not self._obedience.is_holding:
            self._fence.acknowledged(frame.sent_at)

    def full_report(self) -> frames.Report:
        """Return everything observed."""
        self._changed.clear()
        return frames.Report(self._supervisor.statuses(), is_full=True)

    async def next_report(self) -> frames.Report:
        """Return what has changed; waits until something has. A lone change goes at once, many go together."""
        while not self._changed:
            await self._reports.wait()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._reported_s + REPORT_PAUSE_S - loop.time()))
        self._reported_s = loop.time()
        taken = [self._changed.pop() for _ in range(min(len(self._changed), REPORT_LIMIT))]
        statuses = {instance: self._supervisor.status(instance) for instance in sorted(taken)}
        gone = tuple(instance for instance, status in statuses.items() if status is None)
        return frames.Report(tuple(status for status in statuses.values() if status is not None), gone)

    _reported_s = float("-inf")
    _patience_s = FIRST_ANSWER_S


class _Session:
    """One WebSocket with one master."""

    def __init__(self, sync: Sync, stop: asyncio.Event) -> None:
        self._sync = sync
        self._stop = stop
        self._socket: Socket | None = None

    async def hold(self, socket: Socket) -> Outcome:
        """Speak until one side ends it."""
        self._socket = socket
        loop = asyncio.get_running_loop()
        welcomed_s: float | None = None
        term = 0
        try:
            await self._send(self._sync.hello)
            answer = await self._first(FIRST_ANSWER_S)
            if isinstance(answer, frames.Redirect):
                return Outcome("it does not lead", answer.urls, None if answer.urls else answer.retry_s)
            if isinstance(answer, frames.Refuse):
                wait_s = REFUSED_RETRY_S if answer.is_final else None
                return Outcome(f"it refuses this node: {answer.text} [{answer.code}]", wait_s=wait_s)
            if not isinstance(answer, frames.Welcome):
                raise SessionEnded(f"its first frame is a {type(answer).__name__}")
            self._sync.welcome(answer)
            welcomed_s, term = loop.time(), answer.term
            await self._speak(answer)
            return Outcome(lasted_s=loop.time() - welcomed_s, term=answer.term)
        except (SessionEnded, HsuError, aiohttp.ClientError, OSError, TimeoutError) as error:
            wait_s = error.wait_s if isinstance(error, SessionEnded) else None
            lasted_s = None if welcomed_s is None else loop.time() - welcomed_s
            text, is_silent = str(error) or type(error).__name__, isinstance(error, Silent)
            return Outcome(text, wait_s=wait_s, lasted_s=lasted_s, term=term, is_silent=is_silent)

    async def _speak(self, welcome: frames.Welcome) -> None:
        ended: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._send(self._sync.full_report())
                tasks.create_task(self._beat(welcome.beat_s), name="beat")
                tasks.create_task(self._report(), name="report")
                tasks.create_task(self._leave(), name="leave")
                asks = Asks(self._sync._supervisor, self._sync._capture, tasks, self._send)
                await self._listen(welcome.silence_s or welcome.ttl_s / 2, asks)
        except* (SessionEnded, HsuError, aiohttp.ClientError, OSError, TimeoutError) as group:
            ended = list(group.exceptions)
        if ended and not self._stop.is_set():
            first = ended[0]
            if isinstance(first, Silent):
                raise first
            raise SessionEnded(str(first) or type(first).__name__, getattr(first, "wait_s", None))

    async def _listen(self, silence_s: float, asks: Asks) -> None:
        while True:
            frame = await self._receive(silence_s)
            if isinstance(frame, frames.Orders):
                self._sync.obey(frame)
            elif isinstance(frame, frames.BeatAck):
                self._sync.acknowledged(frame)
            elif isinstance(frame, frames.Ask):
                asks.begin(frame)
            elif isinstance(frame, frames.Cancel):
                asks.cancel(frame.id)
            elif isinstance(frame, frames.Redirect):
                raise SessionEnded("it does not lead any more")
            elif isinstance(frame, frames.Refuse):
                raise SessionEnded(f"it refuses this node: {frame.text} [{frame.code}]")

    async def _beat(self, beat_s: float) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()  # the first one at once: it is what a lease begins with
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self._sync._metrics.loop_lag_seconds.set(max(0.0, loop.time() - due_s))
            due_s = max(due_s + beat_s, loop.time())
            self._sync._ledger.flush()
            await self._send(frames.Beat(self._sync._ambient.boottime()))

    async def _report(self) -> None:
        while True:
            await self._send(await self._sync.next_report())

    async def _leave(self) -> None:
        await self._stop.wait()
        if self._sync._changed:  # what it said last must be true
            await self._send(await self._sync.next_report())
        await self._send(frames.Goodbye(self._sync._is_stopping_workers))
        raise SessionEnded("the agent stops")

    async def _first(self, wait_s: float) -> frames.Frame:
        while True:
            frame = await self._receive(wait_s)
            if frame is not None and not isinstance(frame, frames.Queued):
                return frame

    async def _receive(self, silence_s: float) -> frames.Frame | None:
        """Return the next frame (None: of a kind we do not know). Silence of `silence_s` ends the session.

        Time in which we did not run is not the other side's silence: what it said may wait unread.
        """
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + silence_s
            try:
                async with asyncio.timeout_at(due_s):
                    message = await self._socket.receive()
                break
            except TimeoutError:
                if loop.time() - due_s < STALL_S:
                    raise Silent(f"it was silent for {silence_s:g} s") from None
        if message.type is not aiohttp.WSMsgType.BINARY:
            reason = f" ({message.extra})" if message.extra else ""
            raise SessionEnded(f"the connection was closed{reason}")
        return frames.decode_frame(message.data)

    async def _send(self, frame: frames.Frame) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(frames.encode_frame(frame))


@asynccontextmanager
async def dialing_masters(tls: ssl.SSLContext | bool) -> AsyncIterator[Dial]:
    """Give the dial of a real network, for the time of the context; `tls` as from `tls_context`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:

        async def dial(url: str, token: str) -> Socket:
            return await http.ws_connect(
                url,
                headers={"authorization": f"Bearer {token}"},
                max_msg_size=FRAME_LIMIT_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                ssl=tls,
            )

        yield dial


def tls_context(settings: AgentSettings) -> ssl.SSLContext | bool:
    """Return how masters are verified: by `ca_file`, or by the system's authorities. Raises InvalidSettings."""
    if settings.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.ca_file))
    except (OSError, ssl.SSLError) as error:
        fix = "put the certificate of the cluster's authority (PEM) there"
        raise InvalidSettings(f"use ca_file {settings.ca_file}", str(error), fix) from error


async def _wait(stop: asyncio.Event, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await stop.wait()
    except TimeoutError:
        pass
