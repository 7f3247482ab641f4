"""Leader election on the store protocol alone: one key, its lease, and a fence for every write.

The leader is who created the key; the term is the key's create revision, which grows with every
leadership. A lease alone does not fence (its owner may be asleep while it ends), so every write of
a leader carries `Leadership.fence()`.

A leadership that was ended by `depose` leaves a mark beside its key: who leads next knows by it that the
deposed one, should it live after all, may believe for another TTL that it leads (`Leadership.took_by_force`).

    async with Campaign(store, "/hsu/leader", advert, ttl_s=5) as campaign:
        leadership = await campaign.acquire()
        while not leadership.is_presumed_lost(time.monotonic()):
            leadership.progress()
            await store.txn([leadership.fence()], [...])
        # leaving the context resigns
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from hsu_core.model.errors import Compacted, HsuError, OutcomeUnknown
from hsu_core.store.base import Compare, Delete, Entry, Get, Lease, Operation, Put, Resync, Store, Target
from hsu_core.store.lease import MARGIN_S, LeaseKeeper

RETRY_S = 0.2
RETRY_LIMIT_S = 1.0
"""Pause before the next try when the store is away, doubling, with jitter."""

UNKNOWN_TTL_S = 30.0
"""Taken for the TTL of a deposed leader whose mark cannot be read: more than anybody configures."""

RESIGN_TIMEOUT_S = 2.0
"""How long a resignation may take; if the store is away the lease ends by itself."""

_LOG = logging.getLogger(__name__)


class Leadership:
    """One term as leader; made by `Campaign.acquire`."""

    def __init__(self, store: Store, key: str, term: int, keeper: LeaseKeeper, deposed_ttl_s: float = 0.0) -> None:
        self.key = key
        self.term = term
        self.deposed_ttl_s = deposed_ttl_s
        """How long after this leadership began a deposed predecessor may believe that it leads; 0: there is none."""

        self._store = store
        self._keeper = keeper

    @property
    def took_by_force(self) -> bool:
        """Return whether a predecessor was deposed, so that its lease is no proof that it has stopped acting."""
        return self.deposed_ttl_s > 0

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
            await self._store.txn([self.fence()], [Delete(self.key)], timeout_s=RESIGN_TIMEOUT_S)
        await self._keeper.end(RESIGN_TIMEOUT_S)

    async def settle(self) -> None:
        """Wait until a deposed predecessor cannot believe any more that it leads, and take its mark away."""
        if self.took_by_force:
            await asyncio.sleep(self.deposed_ttl_s)
            with contextlib.suppress(HsuError):  # the mark stays: the next leader waits once more
                await self._store.txn([self.fence()], [Delete(deposed_key(self.key))])


def deposed_key(key: str) -> str:
    """Return the key of the mark that a deposed leadership leaves; it is not below `key`."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/deposed-{name}"


async def depose(store: Store, key: str, term: int, ttl_s: float, *, timeout_s: float = RESIGN_TIMEOUT_S) -> bool:
    """End the leadership `term`, whose lease has `ttl_s`; return whether it was still the present one.

    For a successor that believes the leader's process to be gone. A wrong guess is harmless: the writes of the
    deposed one are fenced off from then on, and the mark tells the next leader for how long it may still believe
    that it leads. The mark is written first: who dies between the two leaves a leadership in force and a mark
    that makes the next leader wait for nothing. The lease is revoked, not only the key deleted: a renewal after
    that fails, so that the belief ends within `ttl_s`.
    """
    mark = json.dumps({"term": term, "ttl_s": ttl_s}).encode()
    of_term = Compare(key, Target.CREATE, term)
    result = await store.txn([of_term], [Get(key), Put(deposed_key(key), mark)], timeout_s=timeout_s)
    entry = result.answers[0] if result.succeeded else None
    if not isinstance(entry, Entry):
        return False
    if entry.lease:
        await store.revoke(entry.lease, timeout_s=timeout_s)
        return True
    return (await store.txn([of_term], [Delete(key)], timeout_s=timeout_s)).succeeded


def _deposed_ttl_s(entry: Entry | None) -> float:
    """Return the TTL that a mark names, 0.0 without a mark. One that cannot be read counts as a long one."""
    if entry is None:
        return 0.0
    try:
        return max(0.0, float(json.loads(entry.value)["ttl_s"]))
    except (ValueError, KeyError, TypeError):
        return UNKNOWN_TTL_S


class Campaign:
    """Runs for leader again and again; a context manager that owns the renewals.

    `value` is what others read to find the leader (a function of the lease, where it tells of it).
    `margin_s` (at most ttl_s / 4) is how long
    before the lease may end the leadership counts as lost. With `progress_limit_s` the lease is
    not renewed while `Leadership.progress` was not called for that long.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        value: bytes | Callable[[Lease], bytes],
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
        found = look.answers[0]
        if isinstance(found, Entry):
            if self._leadership is not None and found.create_revision == self._leadership.term:
                await self._leadership.resign()  # our own former term: the store was away when we resigned
            else:
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
            term, deposed_ttl_s = await self._create_key(keeper.lease)
        except BaseException:
            await keeper.end(RESIGN_TIMEOUT_S)
            raise
        if not term or keeper.is_presumed_lost(self._monotonic()):
            await keeper.end(RESIGN_TIMEOUT_S)
            return None
        keeper.progress()
        self._own(keeper.run(), f"renew leadership {self.key}")
        self._own(self._watch_own_key(keeper, term), f"watch leadership {self.key}")
        leadership = Leadership(self._store, self.key, term, keeper, deposed_ttl_s)
        self._own(leadership.settle(), f"settle {self.key}")
        return leadership

    async def _create_key(self, lease: Lease) -> tuple[int, float]:
        """Return the create revision (0: another candidate created the key) and the TTL of who was deposed."""
        value = self.value(lease) if callable(self.value) else self.value
        mark = deposed_key(self.key)
        operations: list[Operation] = [Put(self.key, value, lease.id), Get(mark)]
        try:
            result = await self._store.txn([Compare(self.key, Target.CREATE, 0)], operations)
        except OutcomeUnknown:
            entry = await self._store.get(self.key)
            if entry is None or entry.lease != lease.id:
                return 0, 0.0
            return entry.create_revision, _deposed_ttl_s(await self._store.get(mark))
        if not result.succeeded:
            return 0, 0.0
        found = result.answers[1]
        return result.revision, _deposed_ttl_s(found if isinstance(found, Entry) else None)

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
