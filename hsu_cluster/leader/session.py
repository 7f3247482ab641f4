"""One agent's WebSocket as the leader sees it: orders out, reports in, requests and their answers.

What to send is computed when there is room to send it (the difference between the view and what was
sent), so a slow agent costs no memory. What a report means is the hub's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import WSMsgType

from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.errors import HsuError, NodeUnreachable, TooMany
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.sockets import Socket
from hsu_core.runtime.tasks import Wake
from hsu_core.wire.codec import Undecodable, encode
from hsu_core.wire.frames import (
    Answer,
    Ask,
    Beat,
    BeatAck,
    Cancel,
    Chunk,
    Frame,
    Goodbye,
    Hello,
    Order,
    Orders,
    Report,
    decode_frame,
    encode_frame,
)

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 5.0
"""An agent that takes no byte for so long is gone or hangs: the session is closed."""

CHUNKS_LIMIT = 256
"""Log chunks kept for a slow reader before its request is ended."""

ORDERS_LIMIT = 500
"""Assignments in one frame: about 100 KiB with their specifications."""

SPECS_LIMIT_BYTES = 1024 * 1024
"""Specifications in one frame: a quarter of what a frame may have."""

DECISION_LOOK_S = 0.2
"""How often it is looked whether the first orders may go, beside the times when something changes."""

ASK_TIMEOUT_S = 10.0
"""Longest wait for the answer to a signal, or for the first bytes of a log."""


_ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)


class SessionHost(Protocol):
    """What a session needs of its hub."""

    def assignments_of(self, node: str) -> dict[InstanceId, Assignment]:
        """Return the node's assignments as the view has them."""
        ...

    def order_spec(self, assignment: Assignment) -> tuple[str, Any]:
        """Return key and plain tree of an assignment's specification (tree None: not here)."""
        ...

    @property
    def revision(self) -> int:
        """Return the store revision of the view."""
        ...

    def may_acknowledge(self, session: Session) -> bool:
        """Return whether a beat may be acknowledged now, which prolongs the lease of the node."""
        ...

    async def take_report(self, session: Session, report: Report) -> None:
        """Keep what the agent observed."""
        ...

    def is_deciding(self, session: Session) -> bool:
        """Return whether the first orders wait, as it is not decided yet which of the agent's instances stay."""
        ...

    def is_awaited(self, instance: InstanceId, node: str) -> bool:
        """Return whether an instance that is assigned elsewhere runs on here for the moment."""
        ...

    def settled(self, session: Session) -> None:
        """The agent has reported everything and has all its orders."""
        ...

    async def take_goodbye(self, session: Session, goodbye: Goodbye) -> None:
        """The agent ends."""
        ...


class Session:
    """A connected agent. `last_frame_s` is on the monotonic clock given."""

    def __init__(
        self,
        socket: Socket,
        hello: Hello,
        term: int,
        host: SessionHost,
        monotonic: Callable[[], float],
    ) -> None:
        self.hello = hello
        self.node = hello.node
        self.last_frame_s = monotonic()
        self.is_admitted = False
        self.since_s = self.last_frame_s
        self.has_left = False
        self.held_by = ""
        """The other incarnation whose work its agent holds; it obeys no orders then."""

        self._socket = socket
        self._term = term
        self._host = host
        self._monotonic = monotonic
        self._wake = Wake()
        self._sent: dict[InstanceId, Assignment | None] = {}
        self._sent_specs: set[str] = set()
        self._has_sent_all = False
        self.has_reported = False
        self.reported: dict[InstanceId, InstanceStatus] = {}
        """What the first full report said, until the first orders are sent."""
        self._outgoing: asyncio.Queue[Frame] = asyncio.Queue(maxsize=CHUNKS_LIMIT)
        self._requests: dict[int, asyncio.Queue[Chunk | Answer]] = {}
        self._next_request = 0

    def wake(self) -> None:
        """Look again whether there is something to send."""
        self._wake.wake()

    async def run(self) -> None:
        """Serve the session until either side ends it."""
        self.is_admitted = True
        self.since_s = self._monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(self._send(), name=f"session-send-{self.node}")
                try:
                    await self._receive()
                finally:
                    sender.cancel()
        except* (ConnectionError, TimeoutError) as group_error:
            log.info("node %s: session ended: %s", self.node, group_error.exceptions[0])
        finally:
            for queue in self._requests.values():
                _force_put(queue, Answer(0, "node.unreachable", "the node's session ended"))
            await self.close()

    async def close(self) -> None:
        """Close the connection; the agent dials again."""
        try:
            async with asyncio.timeout(1.0):
                await self._socket.close()
        except (TimeoutError, ConnectionError):
            log.debug("node %s: the connection did not close in time", self.node)

    async def _receive(self) -> None:
        while (message := await self._socket.receive()).type not in _ENDS:
            if message.type is not WSMsgType.BINARY:
                continue
            self.last_frame_s = self._monotonic()
            try:
                frame = decode_frame(message.data)
            except Undecodable as error:
                log.warning("node %s sent a frame that cannot be read: %s", self.node, error)
                return
            await self._take(frame)
            if isinstance(frame, Goodbye):
                return

    async def _take(self, frame: Frame | None) -> None:
        if isinstance(frame, Beat):
            self._offer(BeatAck(frame.sent_at, self._term, self._host.revision))
        elif isinstance(frame, Report):
            if frame.is_full and not self._has_sent_all:
                self.reported = {status.instance: status for status in frame.statuses}
            await self._host.take_report(self, frame)
            if frame.is_full:
                self.has_reported = True
                self._wake.wake()
        elif isinstance(frame, Chunk | Answer):
            self._take_answer(frame)
        elif isinstance(frame, Goodbye):
            await self._host.take_goodbye(self, frame)

    def _take_answer(self, frame: Chunk | Answer) -> None:
        queue = self._requests.get(frame.id)
        if queue is None:
            return
        try:
            queue.put_nowait(frame)
        except asyncio.QueueFull:
            self._offer(Cancel(frame.id))
            _force_put(queue, Answer(frame.id, "limit.too-many", "the reader was too slow"))

    def _offer(self, frame: Frame) -> None:
        try:
            self._outgoing.put_nowait(frame)
        except asyncio.QueueFull:
            raise TimeoutError(f"{CHUNKS_LIMIT} frames wait to be sent") from None
        self._wake.wake()

    async def _send(self) -> None:
        while True:
            while not self._outgoing.empty():
                frame = self._outgoing.get_nowait()
                if not isinstance(frame, BeatAck) or self._host.may_acknowledge(self):
                    await self._write(frame)
            if not self._has_sent_all and self._host.is_deciding(self):
                await self._wake.wait(DECISION_LOOK_S)
                continue
            for orders in self._due_orders():
                await self._write(orders)
            self.reported = {}
            if self.has_reported:
                self._host.settled(self)
            await self._wake.wait()

    async def _write(self, frame: Frame) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._socket.send_bytes(encode_frame(frame))

    def _due_orders(self) -> Iterable[Orders]:
        """Yield the frames that bring the agent from what was sent to what the view says.

        An order whose specification is not here (its revision cannot be read, or is on its way) is named
        without it: the agent keeps what it runs for that instance.
        """
        wanted = self._host.assignments_of(self.node)
        gone = self._sent.keys() - wanted.keys()
        removed = tuple(sorted(instance for instance in gone if not self._host.is_awaited(instance, self.node)))
        changed = [item for item in sorted(wanted.items()) if self._sent.get(item[0]) != item[1]]
        if not changed and not removed and self._has_sent_all:
            return
        parts = list(_parts([self._spec_of(assignment) for _, assignment in changed]))
        is_one_frame = len(parts) == 1
        for number, (specs, orders) in enumerate(parts):
            is_full = not self._has_sent_all and is_one_frame
            yield self._orders(orders, specs=specs, is_full=is_full, removed=removed if number == 0 else ())
            self._sent_specs |= specs.keys()
            self._sent.update((order.assignment.instance, order.assignment) for order in orders)
            for order in orders:
                if order.spec not in self._sent_specs:
                    self._sent[order.assignment.instance] = None  # sent again when its specification is here
        for instance in removed:
            self._sent.pop(instance, None)
        if not self._has_sent_all and not is_one_frame:
            # More than one frame: the last one names all, so that the agent can stop what is not in it.
            everything = [Order(assignment, self._host.order_spec(assignment)[0]) for assignment in wanted.values()]
            yield self._orders(everything, specs={}, is_full=True)
        self._has_sent_all = True
        # Both sides keep the specifications of current orders, and no others.
        self._sent_specs &= {self._host.order_spec(assignment)[0] for assignment in wanted.values()}

    def _spec_of(self, assignment: Assignment) -> tuple[Order, Any]:
        """Return the order and the specification that has to go with it (None: the agent has it, or nobody)."""
        key, tree = self._host.order_spec(assignment)
        return Order(assignment, key), None if key in self._sent_specs else tree

    def _orders(
        self,
        orders: Sequence[Order],
        *,
        specs: dict[str, Any],
        is_full: bool,
        removed: tuple[InstanceId, ...] = (),
    ) -> Orders:
        revision = self._host.revision
        return Orders(self._term, revision, is_full=is_full, specs=specs, orders=tuple(orders), removed=removed)

    @asynccontextmanager
    async def ask(self, verb: str, instance: InstanceId, **arguments: Any) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Ask the agent; yield the chunks of its answer. Raises NodeUnreachable or what the agent answers."""
        if len(self._requests) >= CHUNKS_LIMIT:
            raise TooMany(f"ask node {self.node}", f"{CHUNKS_LIMIT} requests are under way", "try again later")
        self._next_request += 1
        request = self._next_request
        queue: asyncio.Queue[Chunk | Answer] = asyncio.Queue(maxsize=CHUNKS_LIMIT)
        self._requests[request] = queue
        try:
            self._offer(Ask(request, verb, instance, arguments))
            yield self._chunks(request, queue, verb, instance, bool(arguments.get("follow")))
        finally:
            self._requests.pop(request, None)
            if not self._socket.closed:
                self._offer(Cancel(request))

    async def _chunks(
        self, request: int, queue: asyncio.Queue[Chunk | Answer], verb: str, instance: InstanceId, is_follow: bool
    ) -> AsyncIterator[Chunk]:
        while True:
            try:
                async with asyncio.timeout(None if is_follow else ASK_TIMEOUT_S):
                    item = await queue.get()
            except TimeoutError:
                raise NodeUnreachable(
                    f"ask node {self.node} for {verb} of {instance}", f"no answer in {ASK_TIMEOUT_S:g} s"
                ) from None
            if isinstance(item, Chunk):
                yield item
            elif item.code:
                raise _error_of(item, f"ask node {self.node} for {verb} of {instance}")
            else:
                return


def _parts(items: Sequence[tuple[Order, Any]]) -> Iterator[tuple[dict[str, Any], list[Order]]]:
    """Yield (specifications, orders) of one frame each, within ORDERS_LIMIT and SPECS_LIMIT_BYTES; at least one."""
    specs: dict[str, Any] = {}
    orders: list[Order] = []
    size_bytes = 0
    for order, tree in items:
        weight = len(encode(tree)) if tree is not None and order.spec not in specs else 0
        if orders and (len(orders) >= ORDERS_LIMIT or size_bytes + weight > SPECS_LIMIT_BYTES):
            yield specs, orders
            specs, orders, size_bytes = {}, [], 0
        if tree is not None and order.spec not in specs:
            specs[order.spec] = tree
            size_bytes += weight
        orders.append(order)
    yield specs, orders


def _force_put(queue: asyncio.Queue[Chunk | Answer], answer: Answer) -> None:
    """Put the end of an answer even into a full queue (its oldest chunk goes)."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(answer)


def _error_of(answer: Answer, what: str) -> HsuError:
    if answer.code == "node.unreachable":
        return NodeUnreachable(what, answer.text)
    error = HsuError(what, answer.text, code=answer.code)
    error.status = 404 if answer.code.startswith("not-found") else 409
    return error
