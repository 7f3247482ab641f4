"""What the memory and the SQLite backend share: requests, staging, leases, watches, retention.

Both hold the whole present and the recent history in memory and decide every request there, one
after the other. They differ in `_submit`: memory publishes at once, SQLite first makes a group of
requests durable. Neighbours: `mvcc` (state), `lessor` (leases), `local_watch` (watches).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from hsu_core.model.errors import StoreUnavailable
from hsu_core.store.base import (
    CALL_TIMEOUT_S,
    PAGE_LIMIT,
    Compare,
    Delete,
    Entry,
    Lease,
    Operation,
    Page,
    Put,
    StoreStatus,
    TxnResult,
    Watch,
)
from hsu_core.store.lessor import Lessor
from hsu_core.store.local_watch import WatchHub
from hsu_core.store.mvcc import Mvcc, Stage, Version, lease_lost_error
from hsu_core.store.rules import check_key, check_prefix, check_range, check_revision_exists, check_ttl, check_txn

HISTORY_REVISIONS = 10_000
"""Revisions kept for watches and paged reads: 100 s of history at 100 writes a second."""

EXPIRY_RETRY_S = 0.5
"""Pause before the keys of an expired lease are deleted again, when that could not be written."""

T = TypeVar("T")


@dataclass(slots=True)
class Staged:
    """A group of requests decided but not published: commits and changes of the lease table."""

    stage: Stage
    granted: dict[int, float] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        """Return whether nothing has to be made durable."""
        return not (self.stage.commits or self.granted or self.ended)


class LocalStore(ABC):
    """A store in this process; see `hsu_core.store.base.Store` for the calls."""

    backend = "local"

    def __init__(
        self,
        state: Mvcc,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        history_revisions: int = HISTORY_REVISIONS,
        cluster_id: str = "",
        version: str = "",
        randbits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._state = state
        self._lessor = Lessor(randbits)
        self._hub = WatchHub(state)
        self._monotonic = monotonic
        self._history_revisions = history_revisions
        self._cluster_id = cluster_id or secrets.token_hex(8)
        self._version = version
        self._is_closed = False
        self._expiry: asyncio.TimerHandle | None = None

    # reads --------------------------------------------------------------------------------

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        """Return the key as of now, or None."""
        self._check_open()
        check_key(key)
        return self._state.entry(key)

    async def range(
        self,
        prefix: str,
        *,
        start_key: str | None = None,
        limit: int = PAGE_LIMIT,
        revision: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Page:
        """Return a page of keys. Raises Compacted if `revision` is gone."""
        self._check_open()
        check_range(prefix, start_key, limit, revision)
        return self._state.range(prefix, start_key, limit, revision)

    def watch(self, prefix: str, *, after_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Watch a prefix for every change later than `after_revision`."""
        check_prefix(prefix)
        return self._hub.open(prefix, after_revision, self._check_open)

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        """Say who answers."""
        self._check_open()
        return StoreStatus(self.backend, self._version, self._cluster_id, self._state.revision)

    # writes -------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Write one key and return the revision of the write."""
        result = await self.txn([], [Put(key, value, lease)], timeout_s=timeout_s)
        return result.revision

    async def delete(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Delete one key; return whether it was there."""
        result = await self.txn([], [Delete(key)], timeout_s=timeout_s)
        return result.answers[0] == 1

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Apply `success` if every compare holds, else `failure`; atomically, at one revision."""
        check_txn(compares, success, failure)

        def apply(staged: Staged) -> TxnResult:
            now_s = self._monotonic()

            def is_lease_alive(lease: int) -> bool:
                is_known = lease in staged.granted or self._lessor.is_alive(lease, now_s)
                return is_known and lease not in staged.ended

            return staged.stage.txn(compares, success, failure, is_lease_alive)

        return await self._submit(apply, timeout_s)

    async def grant(self, ttl_s: float, *, timeout_s: float = CALL_TIMEOUT_S) -> Lease:
        """Grant a lease; its keys vanish together when it ends."""
        check_ttl(ttl_s)

        def apply(staged: Staged) -> Lease:
            lease = self._lessor.new_id(staged.granted)
            staged.granted[lease] = ttl_s
            return Lease(lease, ttl_s)

        return await self._submit(apply, timeout_s)

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Renew and return the TTL in seconds."""
        self._check_open()
        ttl_s = self._lessor.renew(lease, self._monotonic())
        if ttl_s is None:
            raise lease_lost_error("renew the lease", lease)
        return ttl_s

    async def revoke(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """End the lease now; its keys are deleted."""
        await self._submit(lambda staged: self._end_lease(staged, lease), timeout_s)

    async def compact(self, revision: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Forget history before `revision`; the present state stays."""
        self._check_open()
        check_revision_exists(f"compact to revision {revision}", revision, self._state.revision)
        self._forget(self._state.compact(revision))

    async def close(self) -> None:
        """Free everything; pending calls and watches fail with StoreUnavailable."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        self._hub.close(self._closed_error())

    def expire_leases(self) -> None:
        """Delete the keys of every lease whose deadline has passed.

        Called by a timer; a simulation calls it after it has moved its clock.
        """
        for lease in self._lessor.expired(self._monotonic()):
            self._expire(lease)
        self._arm_expiry()

    # the seam -----------------------------------------------------------------------------

    @abstractmethod
    async def _submit(self, apply: Callable[[Staged], T], timeout_s: float) -> T:
        """Run `apply` on a stage in its turn, make the result durable, publish it, return the answer."""

    @abstractmethod
    def _expire(self, lease: int) -> None:
        """Begin to end a lease that has expired."""

    def _forget(self, versions: Sequence[Version]) -> None:  # noqa: B027 - memory has nothing to do
        """Remove versions that are no longer needed from wherever they are kept durably."""

    def _end_lease(self, staged: Staged, lease: int) -> None:
        staged.stage.end_lease(lease)
        staged.granted.pop(lease, None)
        staged.ended.add(lease)

    def _publish(self, staged: Staged) -> None:
        now_s = self._monotonic()
        for lease, ttl_s in staged.granted.items():
            self._lessor.add(lease, ttl_s, now_s)
        for lease in staged.ended:
            self._lessor.remove(lease)
        if staged.granted or staged.ended:
            self._arm_expiry()
        if staged.stage.commits:
            self._state.publish(staged.stage.commits)
            self._hub.notice(staged.stage.commits)
            self._forget(self._state.compact(self._state.revision - self._history_revisions))

    def _arm_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        deadline_s = self._lessor.next_deadline_s()
        if deadline_s is None or self._is_closed:
            return
        wait_s = deadline_s - self._monotonic()
        self._expiry = asyncio.get_running_loop().call_later(
            wait_s if wait_s > 0 else EXPIRY_RETRY_S, self.expire_leases
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()

    def _closed_error(self) -> StoreUnavailable:
        return StoreUnavailable("use the store", "it was closed", "open it again")
