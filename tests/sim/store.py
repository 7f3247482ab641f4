"""The simulated store: one committed truth, and for each client a view of it that loses, delays and lies in time.

The truth is the memory store. What a client is told is the network's business: an answer that is late, lost after the
commit or lost before it; a watch that lags or has to list again; a lease that ends late, never early.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self, TypeVar

from hsu_core.model.errors import OutcomeUnknown, StoreUnavailable
from hsu_core.store.base import (
    CALL_TIMEOUT_S,
    PAGE_LIMIT,
    Compare,
    Entry,
    Get,
    Lease,
    Operation,
    Page,
    Resync,
    StoreStatus,
    TxnResult,
    Watch,
    WatchBatch,
)
from hsu_core.store.local import Staged
from hsu_core.store.memory import MemoryStore
from hsu_core.store.rules import check_key, check_prefix, check_range, check_txn
from hsu_core.wire.keys import LEADER
from tests.sim.virtual import VirtualLoop

T = TypeVar("T")

EXPIRY_LAG_S = 0.5
"""An expired lease is looked for this often by etcd: measured 5.48 to 5.51 s for a TTL of 5."""


class Truth(MemoryStore):
    """What is committed. `on_commit` sees every commit in its order, with the client that made it."""

    backend = "sim"

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        super().__init__(monotonic=loop.time, randbits=rng.getrandbits)
        self._cluster_id = "simulated"
        self.on_commit: list[Callable[[str, Staged], None]] = []
        self.writer = ""
        self._simulation = loop
        self._rng = rng
        self._ending: set[int] = set()

    def _publish(self, staged: Staged) -> None:
        super()._publish(staged)
        if staged.stage.commits:
            for tell in self.on_commit:
                tell(self.writer, staged)

    def _expire(self, lease: int) -> None:
        if lease not in self._ending:
            self._ending.add(lease)
            self._simulation.later(self._rng.uniform(0.0, EXPIRY_LAG_S), self._end_expired, lease)

    def _end_expired(self, lease: int) -> None:
        self._ending.discard(lease)
        if lease in self._lessor.expired(self._monotonic()):
            self.writer = "expiry"
            super()._expire(lease)

    def elect(self) -> None:
        """A new etcd leader: every lease begins its TTL anew."""
        now_s = self._monotonic()
        self._lessor.load({lease: record.ttl_s for lease, record in self._lessor._records.items()}, now_s)
        self._arm_expiry()

    def everything(self, prefix: str = "") -> list[Entry]:
        """Return all that is there, without asking anybody."""
        return [entry for key in self._state.keys(prefix) if (entry := self._state.entry(key)) is not None]

    @property
    def revision(self) -> int:
        """Return the present revision."""
        return self._state.revision


@dataclass(slots=True)
class StoreFaults:
    """What happens to the calls of one client. Probabilities are per call, times in seconds."""

    delay_s: tuple[float, float] = (0.0005, 0.003)
    slow: float = 0.0
    slow_s: float = 1.0
    lost_before: float = 0.0
    lost_after: float = 0.0
    refused: float = 0.0
    watch_lag_s: float = 0.0
    is_away: bool = False


QUIET = StoreFaults(delay_s=(0.0, 0.0))


@dataclass(slots=True)
class View:
    """The store as one client sees it; implements `hsu_core.store.base.Store`."""

    truth: Truth
    client: str
    rng: Random
    faults: StoreFaults = field(default_factory=StoreFaults)
    on_call: Callable[[str, str], None] | None = None
    before_write: Callable[[str], bool] | None = None
    """Asked right before a write is applied; False: the client dies first, and nothing is written."""
    after_write: Callable[[str], bool] | None = None
    reach: Callable[[str], None] = print
    """Told what a run has come across."""
    is_closed: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _watches: dict[Any, None] = field(default_factory=dict)

    # -- the way there and back -------------------------------------------------------------------

    def set_away(self, is_away: bool) -> None:
        """Cut this client off the store, or let it back."""
        self.faults.is_away = is_away
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _call(self, what: str, apply: Callable[[], Awaitable[T]], timeout_s: float, *, is_write: bool) -> T:
        if self.is_closed:
            raise self._closed_error()
        faults, rng = self.faults, self.rng
        if rng.random() < faults.refused:
            raise StoreUnavailable(what, "no leader (simulated)", "try again")
        loop = asyncio.get_running_loop()
        if faults is QUIET:
            self.truth.writer = self.client
            return await apply()
        answer: asyncio.Future[T] = loop.create_future()
        delay_s = rng.uniform(*faults.delay_s) + (rng.uniform(0.0, faults.slow_s) if rng.random() < faults.slow else 0)
        is_lost_before = rng.random() < faults.lost_before
        is_lost_after = rng.random() < faults.lost_after
        back_s = rng.uniform(*faults.delay_s)
        if not is_lost_before:
            loop.later(delay_s, self._arrive, what, apply, answer, back_s, is_lost_after, is_write)  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            if is_write:
                raise OutcomeUnknown(what, f"no answer within {timeout_s:g} s", "read before another try") from None
            raise StoreUnavailable(what, f"no answer within {timeout_s:g} s", "try again") from None

    def _arrive(
        self, what: str, apply: Any, answer: asyncio.Future[Any], back_s: float, is_lost: bool, is_write: bool
    ) -> None:
        if self.faults.is_away:
            return
        if is_write and self.before_write is not None and not self.before_write(what):
            return
        loop: Any = asyncio.get_running_loop()
        loop.start(self._work(what, apply, answer, back_s, is_lost, is_write), f"{self.client}: {what}")

    async def _work(
        self, what: str, apply: Any, answer: asyncio.Future[Any], back_s: float, is_lost: bool, is_write: bool
    ) -> None:
        loop: Any = asyncio.get_running_loop()
        result, error = None, None
        self.truth.writer = self.client
        try:
            result = await apply()
        except Exception as raised:
            error = raised
        if is_write and self.after_write is not None:
            self.after_write(what)
        if is_lost and is_write:
            self.reach("an answer is lost after the commit")
        if not is_lost and not self.faults.is_away:
            loop.later(back_s, _give, answer, result, error)

    # -- the protocol -----------------------------------------------------------------------------

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        check_key(key)
        return await self._call(f"get {key}", lambda: self.truth.get(key), timeout_s, is_write=False)

    async def range(
        self,
        prefix: str,
        *,
        start_key: str | None = None,
        limit: int = PAGE_LIMIT,
        revision: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Page:
        check_range(prefix, start_key, limit, revision)

        def apply() -> Awaitable[Page]:
            return self.truth.range(prefix, start_key=start_key, limit=limit, revision=revision)

        return await self._call(f"range {prefix}", apply, timeout_s, is_write=False)

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> int:
        check_key(key)
        return await self._call(f"put {key}", lambda: self.truth.put(key, value, lease=lease), timeout_s, is_write=True)

    async def delete(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        check_key(key)
        return await self._call(f"delete {key}", lambda: self.truth.delete(key), timeout_s, is_write=True)

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        check_txn(compares, success, failure)
        is_write = not all(isinstance(operation, Get) for operation in (*success, *failure))
        what = f"txn {success[0].key if success else ''}"
        result = await self._call(
            what, lambda: self.truth.txn(compares, success, failure), timeout_s, is_write=is_write
        )
        if not result.succeeded and is_write and compares[0].key == LEADER and compares[0].operand:
            self.reach("a write of a deposed leader is refused")
        return result

    async def grant(self, ttl_s: float, *, timeout_s: float = CALL_TIMEOUT_S) -> Lease:
        return await self._call("grant", lambda: self.truth.grant(ttl_s), timeout_s, is_write=True)

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        return await self._call("renew", lambda: self.truth.renew(lease), timeout_s, is_write=False)

    async def revoke(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        await self._call("revoke", lambda: self.truth.revoke(lease), timeout_s, is_write=True)

    async def compact(self, revision: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        await self._call("compact", lambda: self.truth.compact(revision), timeout_s, is_write=True)

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        return await self._call("status", self.truth.status, timeout_s, is_write=False)

    async def close(self) -> None:
        self.is_closed = True
        for batches in list(self._watches):
            batches.close(self._closed_error())
        self._wake()

    # -- watches ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(self, prefix: str, *, after_revision: int) -> AsyncIterator[Watch]:
        check_prefix(prefix)
        if self.is_closed:
            raise self._closed_error()
        async with self.truth.watch(prefix, after_revision=after_revision) as batches:
            self._watches[batches] = None
            try:
                yield _ViewedWatch(self, batches, after_revision)
            finally:
                del self._watches[batches]

    async def arrive(self) -> None:
        """Wait until something that was committed has come here."""
        if self.faults is not QUIET:
            await asyncio.sleep(self.rng.uniform(*self.faults.delay_s) + self.faults.watch_lag_s)
        while self.faults.is_away:
            await self._changed.wait()

    def _closed_error(self) -> StoreUnavailable:
        return StoreUnavailable("use the store", "it was closed", "open it again")


class _ViewedWatch:
    """A watch that lags; a batch of several revisions may come in two parts."""

    def __init__(self, view: View, batches: Watch, after_revision: int) -> None:
        self._view = view
        self._batches = batches
        self._delivered = after_revision
        self._is_ended = False
        self._coming: deque[WatchBatch | Resync] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch | Resync:
        if self._is_ended:
            raise StopAsyncIteration
        if not self._coming:
            item = await anext(self._batches)
            is_split = isinstance(item, WatchBatch) and self._view.faults is not QUIET
            self._coming.extend(_split(item, self._view.rng) if is_split else [item])
        await self._view.arrive()
        item, compacted = self._coming.popleft(), self._view.truth._state.compacted
        if isinstance(item, WatchBatch) and self._view.faults is not QUIET and compacted > self._delivered:
            item = Resync(compacted)  # it had to connect again, and its place in the history is gone
        if isinstance(item, WatchBatch):
            self._delivered = item.revision
        else:
            self._is_ended = True
            self._view.reach("a watch lists again")
        return item


def _split(batch: WatchBatch, rng: Random) -> list[WatchBatch]:
    """Return the batch in one or two parts; a revision stays whole."""
    revisions = sorted({event.entry.mod_revision for event in batch.events})
    if len(revisions) < 2 or rng.random() < 0.5:
        return [batch]
    last = revisions[rng.randrange(len(revisions) - 1)]
    first = tuple(event for event in batch.events if event.entry.mod_revision <= last)
    rest = tuple(event for event in batch.events if event.entry.mod_revision > last)
    return [WatchBatch(last, first), WatchBatch(batch.revision, rest)]


def _give(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
