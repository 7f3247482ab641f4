"""Leader election on the store protocol alone: one key, its lease, and a fence for every write.

The leader is who created the key; the term is the key's create revision, which grows with every
leadership. A lease alone does not fence (its owner may be asleep while it ends), so every write of
a leader carries `Leadership.fence()`.

    async with Campaign(store, "/hsu/leader", advert, ttl_s=15) as campaign:
        leadership = await campaign.acquire()
        while not leadership.is_presumed_lost(time.monotonic()):
            leadership.progress()
            await store.txn([leadership.fence()], [...])
        # leaving the context resigns
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from hsu_core.model.errors import Compacted, HsuError, OutcomeUnknown
from hsu_core.store.base import Compare, Delete, Entry, Get, Lease, Put, Resync, Store, Target
from hsu_core.store.lease import MARGIN_S, LeaseKeeper

RETRY_S = 0.2
RETRY_LIMIT_S = 1.0
"""Pause before the next try when the store is away, doubling, with jitter."""

RESIGN_TIMEOUT_S = 2.0
"""How long a resignation may take; if the store is away the lease ends by itself."""

_LOG = logging.getLogger(__name__)


class Leadership:
    """One term as leader; made by `Campaign.acquire`."""

    def __init__(self, store: Store, key: str, term: int, keeper: LeaseKeeper) -> None:
        self.key = key
        self.term = term
        self._store = store
        self._keeper = keeper

    @property
    def create_revision(self) -> int:
        """Return the create revision of the leader key, which is the term."""
        return self.term

    @property
    def lease(self) -> Lease:
        """Return the lease that the leader key hangs on."""
        return self._keeper.lease

    @property
    def lost(self) -> asyncio.Event:
        """Return the event that is set when the leadership has ended or must be presumed to have."""
        return self._keeper.lost

    @property
    def reason(self) -> str:
        """Return why it was lost, empty while it is held."""
        return self._keeper.reason

    @property
    def safe_until(self) -> float:
        """Return until when the leader may act without another renewal, on the campaign's clock."""
        return self._keeper.safe_until

    def is_presumed_lost(self, now_s: float) -> bool:
        """Return whether the leader has to stop acting."""
        return self._keeper.is_presumed_lost(now_s)

    def fence(self) -> Compare:
        """Return the condition that every write of this leader includes."""
        return Compare(self.key, Target.CREATE, self.term)

    def progress(self) -> None:
        """Report that the control loop has made a turn; see `progress_limit_s` of the campaign."""
        self._keeper.progress()

    async def renew(self) -> None:
        """Renew now, out of turn. Raises LeaseLost or StoreUnavailable."""
        await self._keeper.renew()

    async def resign(self) -> None:
        """Hand over: delete the leader key, then end the lease. Does not fail; the lease ends anyway."""
        self._keeper.lose("it resigned")
        with contextlib.suppress(HsuError):
            await depose(self._store, self.key, self.term, timeout_s=RESIGN_TIMEOUT_S)
        await self._keeper.end(RESIGN_TIMEOUT_S)


async def depose(store: Store, key: str, term: int, *, timeout_s: float = RESIGN_TIMEOUT_S) -> bool:
    """End the leadership `term` by deleting its key; return whether it was still the present one.

    For a successor that knows for certain that the leader's process is gone: its writes are fenced
    off from then on.
    """
    result = await store.txn([Compare(key, Target.CREATE, term)], [Delete(key)], timeout_s=timeout_s)
    return result.succeeded


class Campaign:
    """Runs for leader again and again; a context manager that owns the renewals.

    `value` is what others read to find the leader. `margin_s` (at most ttl_s / 4) is how long
    before the lease may end the leadership counts as lost. With `progress_limit_s` the lease is
    not renewed while `Leadership.progress` was not called for that long.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        value: bytes,
        ttl_s: float,
        *,
        margin_s: float = MARGIN_S,
        progress_limit_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._uniform = uniform
        self.key = key
        self.value = value
        self.ttl_s = ttl_s
        self._store = store
        self._margin_s = margin_s
        self._progress_limit_s = progress_limit_s
        self._monotonic = monotonic
        self._tasks = asyncio.TaskGroup()
        self._upkeep: set[asyncio.Task[None]] = set()
        self._leadership: Leadership | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._leadership is not None and not self._leadership.lost.is_set():
                await self._leadership.resign()
        finally:
            for task in self._upkeep:
                task.cancel()
            # The group is not told of the body's error: it would wrap it, and who runs us could not name it.
            await self._tasks.__aexit__(None, None, None)

    async def acquire(self) -> Leadership:
        """Wait until this candidate leads, through outages of the store, and return the leadership."""
        pause_s = RETRY_S
        while True:
            try:
                leadership = await self._try_once()
                pause_s = RETRY_S
            except HsuError as error:
                _LOG.warning("cannot run for leader now: %s", error)
                await asyncio.sleep(pause_s * self._uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, RETRY_LIMIT_S)
                continue
            if leadership is not None:
                self._leadership = leadership
                return leadership

    async def _try_once(self) -> Leadership | None:
        look = await self._store.txn([], [Get(self.key)])
        if isinstance(look.answers[0], Entry):
            await self._wait_until_vacant(look.revision)
            return None
        keeper = await LeaseKeeper.grant(
            self._store,
            self.ttl_s,
            margin_s=self._margin_s,
            progress_limit_s=self._progress_limit_s,
            monotonic=self._monotonic,
        )
        try:
            term = await self._create_key(keeper.lease)
        except BaseException:
            await keeper.end(RESIGN_TIMEOUT_S)
            raise
        if term is None or keeper.is_presumed_lost(self._monotonic()):
            await keeper.end(RESIGN_TIMEOUT_S)
            return None
        keeper.progress()
        self._own(keeper.run(), f"renew leadership {self.key}")
        self._own(self._watch_own_key(keeper, term), f"watch leadership {self.key}")
        return Leadership(self._store, self.key, term, keeper)

    async def _create_key(self, lease: Lease) -> int | None:
        """Return the create revision if this candidate created the key, else None."""
        put = Put(self.key, self.value, lease.id)
        try:
            result = await self._store.txn([Compare(self.key, Target.CREATE, 0)], [put])
        except OutcomeUnknown:
            entry = await self._store.get(self.key)
            return entry.create_revision if entry is not None and entry.lease == lease.id else None
        return result.revision if result.succeeded else None

    async def _wait_until_vacant(self, after_revision: int) -> None:
        with contextlib.suppress(Compacted):
            async with self._store.watch(self.key, after_revision=after_revision) as changes:
                async for batch in changes:
                    if isinstance(batch, Resync):
                        return
                    if any(event.is_delete and event.entry.key == self.key for event in batch.events):
                        return

    async def _watch_own_key(self, keeper: LeaseKeeper, term: int) -> None:
        """Notice at once when somebody removes the key; the lease's deadline covers all the rest."""
        after_revision = term
        while not keeper.lost.is_set():
            try:
                await self._wait_until_vacant(after_revision)
                look = await self._store.txn([], [Get(self.key)])
            except HsuError as error:
                _LOG.warning("cannot watch the own leader key: %s", error)
                await asyncio.sleep(RETRY_LIMIT_S)
                continue
            entry = look.answers[0]
            if not isinstance(entry, Entry) or entry.create_revision != term:
                keeper.lose("the leader key was removed")
            after_revision = look.revision

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
        self._upkeep.add(task)
        task.add_done_callback(self._upkeep.discard)
