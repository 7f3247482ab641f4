"""The store as the API sees it: while it does not answer, reads are answered from what was last known.

Every master follows the store by one watch (`notices`) and keeps the entries as they are (`Mirror`): a dictionary,
nothing is decoded. A read that may be stale (`may_be_stale`, for GET requests) falls back on it when the store does
not answer within READ_LIMIT_S, all of one request at the same revision. Anything else is told that the store is
away, at once while that is known. Writes are never kept for later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

from hsu_core.model.errors import Compacted, StoreError, StoreUnavailable
from hsu_core.store.base import (
    CALL_TIMEOUT_S,
    PAGE_LIMIT,
    Compare,
    Entry,
    Event,
    Lease,
    Operation,
    Page,
    Store,
    StoreStatus,
    TxnResult,
    Watch,
)
from hsu_core.wire import keys

log = logging.getLogger(__name__)

READ_LIMIT_S = 2.0
"""A read of a request waits this long at most for the store; an election of etcd's leader takes about as long."""

WRITE_LIMIT_S = 4.0
"""A write of a request waits this long at most: with the read before it, it is refused within 5 s (promised)."""

PULSE_S = 1.0
"""How often a quiet store is asked whether it answers, so that the first request of an outage need not wait."""

NOT_MIRRORED = (keys.IDEMPOTENCY, keys.REMOVED)
"""Families that only writes read."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frozen:
    """The mirrored entries at one revision; `order` has their keys sorted."""

    revision: int
    entries: Mapping[str, Entry]
    order: Sequence[str]

    def range(self, prefix: str, start_key: str | None, limit: int) -> Page:
        """Return a page as `Store.range` does."""
        start = bisect_left(self.order, max(prefix, start_key or ""))
        found = [key for key in self.order[start : start + limit + 1] if key.startswith(prefix)]
        shown = tuple(self.entries[key] for key in found[:limit])
        return Page(shown, self.revision, found[limit - 1] + "\0" if len(found) > limit else None)


class Mirror:
    """Everything under the root as the watch has shown it last. Fed by who follows the store."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._frozen: Frozen | None = None
        self.revision = 0
        """Store revision of the entries; 0: nothing is known yet."""

    def load(self, entries: Iterable[Entry], revision: int) -> None:
        """Begin anew with a list of everything."""
        self._entries = {entry.key: entry for entry in entries if not entry.key.startswith(NOT_MIRRORED)}
        self.revision, self._frozen = revision, None

    def apply(self, events: Sequence[Event], revision: int) -> None:
        """Take in what has changed, up to `revision`."""
        for event in events:
            if event.is_delete:
                self._entries.pop(event.entry.key, None)
            elif not event.entry.key.startswith(NOT_MIRRORED):
                self._entries[event.entry.key] = event.entry
        self.revision, self._frozen = max(self.revision, revision), None

    def freeze(self) -> Frozen | None:
        """Return the entries as they are now, None while nothing is known; cheap while nothing changes."""
        if self._frozen is None and self.revision:
            self._frozen = Frozen(self.revision, dict(self._entries), sorted(self._entries))
        return self._frozen


@dataclass(slots=True)
class Staleness:
    """What one request was answered from: `frozen` None for the store itself, else as it was `age_s` ago."""

    frozen: Frozen | None = None
    age_s: float = 0.0


_staleness: ContextVar[Staleness | None] = ContextVar("staleness", default=None)


@contextmanager
def may_be_stale() -> Iterator[Staleness]:
    """Let the reads of this context (and of tasks started in it) be answered from the mirror, and tell if they were."""
    found = Staleness()
    token = _staleness.set(found)
    try:
        yield found
    finally:
        _staleness.reset(token)


class OutageStore:
    """A store that answers reads from a mirror while it is away (see the module's text); `monotonic` in seconds."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._answered_s = monotonic()
        self._failure: StoreError | None = None
        self._status = StoreStatus("unknown", "unknown", "", 0)
        self.mirror = Mirror()

    @property
    def is_away(self) -> bool:
        """Return whether the store did not answer the last question; `pulse` goes on asking."""
        return self._failure is not None

    @property
    def age_s(self) -> float:
        """Return how long ago the store answered last, in seconds."""
        return max(0.0, self._monotonic() - self._answered_s)

    async def check(self) -> None:
        """Raise StoreUnavailable if the store is away: a write then fails before anything was sent."""
        if self._failure is not None:
            raise _away(self._failure)
        if self.age_s >= PULSE_S:
            await self._ask(self._store.range(keys.CLUSTER, limit=1, timeout_s=READ_LIMIT_S))

    async def pulse(self) -> None:
        """Ask the store whether it answers whenever nobody else has, until cancelled."""
        while True:
            await asyncio.sleep(PULSE_S)
            if self.age_s < PULSE_S:
                continue
            was_away = self.is_away
            try:
                await self._ask(self._store.range(keys.CLUSTER, limit=1, timeout_s=READ_LIMIT_S))
            except StoreError as error:
                if not was_away:
                    log.warning("reads are answered from revision %d: %s", self.mirror.revision, error)
                continue
            if was_away:
                log.info("the store answers again")

    # Reads

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        """Return the key, or None."""
        staleness = _staleness.get()
        if staleness is None:
            return await self._ask(self._store.get(key, timeout_s=min(timeout_s, READ_LIMIT_S)))
        frozen = staleness.frozen or self._frozen_if_away(staleness)
        if frozen is None:
            try:
                return await self._ask(self._store.get(key, timeout_s=min(timeout_s, READ_LIMIT_S)))
            except StoreError as error:
                frozen = self._fall_back(staleness, error)
        return frozen.entries.get(key)

    async def range(
        self,
        prefix: str,
        *,
        start_key: str | None = None,
        limit: int = PAGE_LIMIT,
        revision: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Page:
        """Return a page of keys. Raises Compacted if `revision` is gone, StoreUnavailable if it is not mirrored."""
        staleness = _staleness.get()
        frozen = None if staleness is None else staleness.frozen or self._frozen_if_away(staleness)
        if staleness is None or frozen is None:
            timeout_s = min(timeout_s, READ_LIMIT_S)
            asked = self._store.range(prefix, start_key=start_key, limit=limit, revision=revision, timeout_s=timeout_s)
            try:
                return await self._ask(asked)
            except Compacted:
                raise
            except StoreError as error:
                if staleness is None:
                    raise
                frozen = self._fall_back(staleness, error)
        if revision is not None and revision != frozen.revision:
            raise StoreUnavailable(
                f"read revision {revision}",
                f"the store does not answer, and revision {frozen.revision} is what is known here",
                "ask for the first page again, or wait for the store",
            )
        return frozen.range(prefix, start_key, limit)

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        """Say who answers; while nobody does, who did, with a warning."""
        staleness = _staleness.get()
        frozen = None if staleness is None else staleness.frozen or self._frozen_if_away(staleness)
        if staleness is None or frozen is None:
            try:
                self._status = await self._ask(self._store.status(timeout_s=min(timeout_s, READ_LIMIT_S)))
            except StoreError as error:
                if staleness is None:
                    raise
                self._fall_back(staleness, error)
            else:
                return self._status
        away = f"it does not answer: {self._failure}"
        return replace(self._status, warnings=(*self._status.warnings, away))

    def _frozen_if_away(self, staleness: Staleness) -> Frozen | None:
        """Return what is known if the store is known to be away, else None: then it is asked."""
        return None if self._failure is None else self._fall_back(staleness, _away(self._failure))

    def _fall_back(self, staleness: Staleness, error: StoreError) -> Frozen:
        frozen = self.mirror.freeze()
        if frozen is None:
            raise error
        staleness.frozen, staleness.age_s = frozen, self.age_s
        return frozen

    # Everything else goes to the store: a refused write (a full disk) says nothing about reads

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Write one key and return the revision of the write."""
        return await self._store.put(key, value, lease=lease, timeout_s=timeout_s)

    async def delete(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Delete one key; return whether it was there."""
        return await self._store.delete(key, timeout_s=timeout_s)

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Apply `success` if every compare holds, else `failure`."""
        return await self._store.txn(compares, success, failure, timeout_s=min(timeout_s, WRITE_LIMIT_S))

    async def grant(self, ttl_s: float, *, timeout_s: float = CALL_TIMEOUT_S) -> Lease:
        """Grant a lease."""
        return await self._store.grant(ttl_s, timeout_s=timeout_s)

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Renew and return the TTL."""
        return await self._store.renew(lease, timeout_s=timeout_s)

    async def revoke(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """End the lease now."""
        await self._store.revoke(lease, timeout_s=timeout_s)

    def watch(self, prefix: str, *, after_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Watch a prefix; a watch waits through an outage."""
        return self._store.watch(prefix, after_revision=after_revision)

    async def compact(self, revision: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Forget history before `revision`."""
        await self._store.compact(revision, timeout_s=timeout_s)

    async def close(self) -> None:
        """Leave the store open: who opened it closes it."""

    async def _ask(self, read: Awaitable[T]) -> T:
        """Return what a read answers, and note whether the store answers."""
        try:
            answer = await read
        except Compacted:
            raise
        except StoreError as error:
            self._failure = error
            raise
        self._answered_s, self._failure = self._monotonic(), None
        return answer


def _away(failure: StoreError) -> StoreUnavailable:
    return StoreUnavailable("ask the store", failure.why or "it does not answer", "ask again when it does")
