"""The store protocol: a small strict-serializable key-value store with watches and leases.

Backends: `memory` (tests, simulation), `sqlite` (one machine), `etcd` (high availability).
One contract suite runs on all of them. Keys are text (UTF-8), values are bytes.
Every call has a deadline (`timeout_s`); none waits for ever. What a call raises:

    StoreUnavailable  nothing was written; another try is safe
    OutcomeUnknown    a write got no answer; read before another try
    Compacted         a range or watch at a revision that is gone
    LeaseLost         the lease does not exist (any more)

This module does no I/O and knows no backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

PAGE_LIMIT = 500
"""Entries per page of a range: etcd starves watches on bigger reads (etcd #15402)."""

TXN_OPERATIONS_LIMIT = 128
"""Operations (and compares) in one transaction: etcd's default `--max-txn-ops`."""

VALUE_LIMIT_BYTES = 256 * 1024
"""Largest value accepted: one transaction has to stay below etcd's 1.5 MB request limit."""

TXN_LIMIT_BYTES = 1024 * 1024
"""Keys and values of one transaction together: stays clear of etcd's 1.5 MB request limit."""

CALL_TIMEOUT_S = 5.0
"""Default deadline of one call, all endpoints together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stands at a revision. `version` counts the writes since its creation, from 1."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a range, all read at `revision`; `next_key` is where the next page starts (None: the end)."""

    entries: tuple[Entry, ...]
    revision: int
    next_key: str | None = None


class Target(Enum):
    """What a compare looks at. For an absent key every number is 0, and no VALUE compare holds (as in etcd)."""

    VALUE = "value"
    VERSION = "version"
    CREATE = "create_revision"
    MOD = "mod_revision"


class Relation(Enum):
    """How a compare relates the stored (left) to the given (right)."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    GREATER = ">"


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. `operand` is bytes for VALUE and int for the others."""

    key: str
    target: Target
    operand: int | bytes
    relation: Relation = Relation.EQUAL


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; `lease` 0 means no lease. Clears an earlier lease of the key."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key, or with `is_prefix` every key that begins with it."""

    key: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key inside a transaction."""

    key: str


Operation = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction did. `revision` is the store's after it (unchanged if nothing was written).

    `answers` has one item per operation of the branch taken: for Get the Entry or None,
    for Put None, for Delete the number of keys deleted.
    """

    succeeded: bool
    revision: int
    answers: tuple[Entry | int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. `ttl_s` is what the store granted (etcd may raise it)."""

    id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `entry` as written, or for a deletion the key with its deleting `mod_revision`
    (value b"", version 0)."""

    entry: Entry
    is_delete: bool = False


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes in revision order; a revision is never split over two batches.

    `revision`: the view is complete up to here. `events` may be empty (progress).
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Resync:
    """The history was compacted before it was delivered: list again and watch from there.

    It is the last item of a watch.
    """

    compacted_revision: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Who answers: backend, server version, cluster identity, revision, and warnings for people."""

    backend: str
    version: str
    cluster_id: str
    revision: int
    warnings: tuple[str, ...] = ()


Watch = AsyncIterator[WatchBatch | Resync]


class Store(Protocol):
    """The protocol itself; see the module text for deadlines and errors."""

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        """Return the key as of now (linearizable), or None."""
        ...

    async def range(
        self,
        prefix: str,
        *,
        start_key: str | None = None,
        limit: int = PAGE_LIMIT,
        revision: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Page:
        """Return a page of the keys that begin with `prefix`, sorted, from `start_key` (inclusive) on.

        Without `revision` it reads the present; pass the first page's `revision` and `next_key`
        to go on at the same revision. Raises Compacted if that revision is gone.
        """
        ...

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Write one key and return the revision of the write. Raises LeaseLost if `lease` is gone."""
        ...

    async def delete(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Delete one key; return whether it was there."""
        ...

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Apply `success` if every compare holds, else `failure`; atomically, at one revision.

        No key may be written twice in a branch; more than TXN_OPERATIONS_LIMIT is refused (InvalidInput),
        and so are a value above VALUE_LIMIT_BYTES and a whole above TXN_LIMIT_BYTES (TooLarge).
        """
        ...

    async def grant(self, ttl_s: float, *, timeout_s: float = CALL_TIMEOUT_S) -> Lease:
        """Grant a lease; its keys vanish together when it ends."""
        ...

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Renew and return the TTL in seconds (> 0). Count deadlines from when you SENT it."""
        ...

    async def revoke(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """End the lease now; its keys are deleted. No error if it is gone already."""
        ...

    def watch(self, prefix: str, *, after_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Watch a prefix for every change later than `after_revision`: none missed, none twice.

        The iterator reconnects by itself. It ends after a Resync. Leaving the context frees
        everything, on the server too.
        """
        ...

    async def compact(self, revision: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Forget history before `revision`; the present state stays."""
        ...

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        """Say who answers."""
        ...

    async def close(self) -> None:
        """Free every task, connection and file; pending calls fail with StoreUnavailable."""
        ...


async def range_all(
    store: Store, prefix: str, *, revision: int | None = None, timeout_s: float = CALL_TIMEOUT_S
) -> Page:
    """Return the whole range of `prefix` at one revision, read page by page.

    Raises Compacted when the revision is compacted between two pages: start again.
    """
    entries: list[Entry] = []
    page = await store.range(prefix, revision=revision, timeout_s=timeout_s)
    entries += page.entries
    while page.next_key is not None:
        page = await store.range(prefix, start_key=page.next_key, revision=page.revision, timeout_s=timeout_s)
        entries += page.entries
    return Page(tuple(entries), page.revision)
