"""Fenced writes: every write of the leader compares the leader key, so a deposed leader commits nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from hsu_core.model.errors import LeaseLost
from hsu_core.model.records import EventRecord
from hsu_core.store.base import TXN_OPERATIONS_LIMIT, Compare, Operation, Put, Store
from hsu_core.wire import keys
from hsu_core.wire.codec import encode

BATCH_LIMIT = TXN_OPERATIONS_LIMIT - 8
"""Operations per transaction: below etcd's limit of 128, with room for an event or two."""


class FencedWriter:
    """Writes of one leadership, in order, one transaction at a time."""

    def __init__(self, store: Store, fence: Compare, clock: Callable[[], float]) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._turn = asyncio.Lock()

    async def write(self, operations: Sequence[Operation]) -> int:
        """Write all operations, in batches; return the store revision after the last.

        Raises LeaseLost if this master no longer leads (nothing of that batch was written), StoreError
        if the store does not answer.
        """
        revision = 0
        async with self._turn:
            for start in range(0, len(operations), BATCH_LIMIT):
                answer = await self._store.txn([self._fence], operations[start : start + BATCH_LIMIT])
                if not answer.succeeded:
                    raise LeaseLost("write as leader", "another master leads now")
                revision = answer.revision
        return revision

    def event(self, code: str, subject: str, text: str, *, namespace: str = "", app: str = "", node: str = "") -> Put:
        """Return the operation that records an event."""
        at_s = self._clock()
        record = EventRecord(at_s, code, subject, text, namespace, app, node, actor="leader")
        return Put(keys.event(at_s, secrets.token_hex(4)), encode(record))
