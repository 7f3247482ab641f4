"""How many agents are let in at once, and how their records are written together.

After a takeover all agents of a fleet come in one moment. Each costs a handshake, a full report, its orders and maybe
a record; taken all at once they would delay the beats of those that are in already, and each other beyond every
deadline. So they stand in a line: a number of them are being admitted at any time, the others are told that they wait.
An agent in the line is connected, so it counts as heard (`leader.hub`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_core.model.errors import StoreError
from hsu_core.model.ids import is_node_name
from hsu_core.model.node import NodeTimes
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Operation
from hsu_core.wire.frames import OLDEST_PROTOCOL, PROTOCOL, Hello, Refuse

ADMISSIONS_LIMIT = 32
"""Agents being admitted at the same time: enough that a write of the store is never waited for alone."""

STORM_ARRIVALS = 8
"""So many agents within a beat, while more are missing than can be admitted at once, are a storm."""

STORM_TTLS = 30
"""Longest grace for a storm that does not end, in TTLs: 5,000 agents on a third of a core take 11."""

REGISTRATIONS_LIMIT = 50
"""Records written together: with their events below the operations of one transaction."""


SESSIONS_LIMIT = 10_000
"""Agents of one master: twice the 5,000 of the design."""


def refusal(hello: Hello, count: int, present: Hello | None) -> Refuse | None:
    """Return why an agent is not let in, None if it is. `count` are connected; `present` is heard under its name.

    Another agent gets the name once that one has been silent for a TTL: until then its strict workers may run.
    """
    if not is_node_name(hello.node):
        return Refuse("input.node", f"{hello.node[:80]!r} cannot name a node", is_final=True)
    if hello.protocol < OLDEST_PROTOCOL:
        text = f"the agent speaks protocol {hello.protocol}, this master {OLDEST_PROTOCOL} to {PROTOCOL}; upgrade it"
        return Refuse("session.protocol", text, is_final=True)
    if count >= SESSIONS_LIMIT:
        return Refuse("limit.too-many", f"{SESSIONS_LIMIT} nodes are connected already")
    if present is not None and (present.agent, present.boot_id) != (hello.agent, hello.boot_id):  # data folder and host
        text = f"another agent is connected as {hello.node}; give each agent its own `node` name"
        return Refuse("node.name-taken", text)
    return None


class Line:
    """Gives turns, first come, first served; at most `limit` are taken at any time."""

    def __init__(self, limit: int = ADMISSIONS_LIMIT) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Return how many wait for a turn."""
        return len(self._waiting)

    def enter(self) -> asyncio.Future[None]:
        """Return a future that is done when it is the caller's turn. Every one that is done has to be ended."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._taken < self._limit:
            self._taken += 1
            turn.set_result(None)
        else:
            self._waiting.append(turn)
        return turn

    def end(self, turn: asyncio.Future[None]) -> None:
        """End a turn, or leave the line without having had one. A turn is ended once."""
        if not turn.done():
            self._waiting.remove(turn)
            turn.cancel()
            return
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._taken -= 1


class Storm:
    """Tells whether agents come together, so that those that are missing deserve more time."""

    def __init__(self, times: NodeTimes) -> None:
        self._times = times
        self._arrivals: deque[float] = deque(maxlen=STORM_ARRIVALS)
        self._began_s = self._seen_s = float("-inf")

    def arrive(self, now_s: float) -> None:
        """Note that an agent has connected; `now_s` is of a monotonic clock."""
        self._arrivals.append(now_s)

    def is_grace(self, now_s: float, waiting: int, missing: int) -> bool:
        """Return whether the silence of all counts from now on: `waiting` stand in line, `missing` have no session.

        Agents also wait where nobody sees them, in the kernel: as long as others keep coming and more are missing than
        can be admitted at once, the rest is taken to be on its way. Not without end.
        """
        arrivals = self._arrivals
        is_flood = len(arrivals) == STORM_ARRIVALS and arrivals[0] >= now_s - self._times.beat_s
        if not waiting and not (is_flood and missing > ADMISSIONS_LIMIT):
            return False
        if now_s - self._seen_s > self._times.ttl_s:
            self._began_s = now_s
        self._seen_s = now_s
        return now_s - self._began_s < STORM_TTLS * self._times.ttl_s


class Registrar:
    """Writes records of nodes, all that have gathered in one transaction."""

    def __init__(self, snapshot: Snapshot, writer: FencedWriter) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._pending: list[tuple[Sequence[Operation], asyncio.Future[None]]] = []
        self._wake = Wake()
        self._is_over = False

    async def write(self, operations: Sequence[Operation]) -> None:
        """Return when the operations are written and the view shows them. Raises StoreError."""
        if self._is_over:
            raise _over()
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((operations, written))
        self._wake.wake()
        await written

    async def run(self) -> None:
        """Write as they come, until cancelled. Raises StoreError, which those who wait get too."""
        try:
            while True:
                await self._wake.wait()
                while self._pending:
                    batch, self._pending = self._pending[:REGISTRATIONS_LIMIT], self._pending[REGISTRATIONS_LIMIT:]
                    await self._write(batch)
        except asyncio.CancelledError:
            self._is_over = True
            raise
        finally:
            self._fail(self._pending, _over())
            self._pending = []

    async def _write(self, batch: list[tuple[Sequence[Operation], asyncio.Future[None]]]) -> None:
        try:
            operations = [operation for part, _ in batch for operation in part]
            async with self._writer.runs:  # no plan is under way that takes them for lost: orders would be out of date
                await self._snapshot.reach(await self._writer.write(operations))
        except StoreError as error:
            self._fail(batch, error)
            raise
        except BaseException:
            self._fail(batch, _over())
            raise
        for _, written in batch:
            if not written.done():
                written.set_result(None)

    @staticmethod
    def _fail(batch: list[tuple[Sequence[Operation], asyncio.Future[None]]], error: StoreError) -> None:
        for _, written in batch:
            if not written.done():
                written.set_exception(StoreError(error.what, error.why, error.fix, code=error.code))


def _over() -> StoreError:
    return StoreError("register a node", "this master stops leading or lost its store")
