"""Fenced writes: every write of the leader compares the leader key, so a deposed leader commits nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence

from hsu_core.model.errors import LeaseLost, StoreError, StoreUnavailable
from hsu_core.model.records import EventRecord
from hsu_core.store.base import TXN_OPERATIONS_LIMIT, Compare, Entry, Get, Operation, Put, Store, Target
from hsu_core.wire import keys
from hsu_core.wire.codec import encode

BATCH_LIMIT = TXN_OPERATIONS_LIMIT - 8
"""Operations per transaction: below etcd's limit of 128, with room for an event or two."""

BATCH_LIMIT_BYTES = 512 * 1024
"""Values per transaction, well below etcd's 1.5 MB for a request."""


class FencedWriter:
    """Writes of one leadership, one transaction at a time."""

    def __init__(
        self, store: Store, fence: Compare, clock: Callable[[], float], token: Callable[[int], str] = secrets.token_hex
    ) -> None:
        self._token = token
        self._store = store
        self._fence = fence
        self._clock = clock
        self._turn = asyncio.Lock()
        self.runs = asyncio.Lock()
        """Held by planner and measurer from looking at analysis runs until the snapshot shows what they wrote."""

    async def write(
        self,
        operations: Sequence[Operation],
        progress: Callable[[], None] | None = None,
        *,
        after_plan: int | None = None,
    ) -> int:
        """Write all operations in order, in batches; return the store revision after the last that changed something.

        `progress` is called after each batch: a long list that is being written is no wedged loop. With `after_plan`
        the operations are a plan, made of a view that holds all plans up to that store revision. If there is a later
        one (its answer was lost, say) nothing is written: two plans of one view would give one epoch two meanings.

        Raises LeaseLost if this master no longer leads (nothing of that batch was written), StoreError
        if the store does not answer.
        """
        revision = 0
        for batch in _batches(operations):
            async with self._turn:  # let go between batches: a long list does not keep others waiting
                compares, mark = [self._fence], list[Operation]()
                if after_plan is not None:
                    compares.append(Compare(keys.PLAN, Target.MOD, after_plan))
                    mark.append(Put(keys.PLAN, b""))
                answer = await self._store.txn(compares, [*batch, *mark], [Get(self._fence.key)])
            if not answer.succeeded:
                raise self._refusal(answer.answers[0])
            if after_plan is not None:
                after_plan = answer.revision
            if progress is not None:
                progress()
            if mark or any(isinstance(operation, Put) for operation in batch) or any(answer.answers):
                revision = answer.revision
        return revision

    def _refusal(self, leader: Entry | int | None) -> StoreError:
        if isinstance(leader, Entry) and leader.create_revision == self._fence.operand:
            return StoreUnavailable("write the plan", "the view lacks an earlier plan of this leader", "plan it anew")
        return LeaseLost("write as leader", "another master leads now")

    def event(self, code: str, subject: str, text: str, *, namespace: str = "", app: str = "", node: str = "") -> Put:
        """Return the operation that records an event."""
        at_s = self._clock()
        record = EventRecord(at_s, code, subject, text, namespace, app, node, actor="leader")
        return Put(keys.event(at_s, self._token(4)), encode(record))


def _batches(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    batch: list[Operation] = []
    size_bytes = 0
    for operation in operations:
        weight = len(operation.value) if isinstance(operation, Put) else 0
        if batch and (len(batch) >= BATCH_LIMIT or size_bytes + weight > BATCH_LIMIT_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(operation)
        size_bytes += weight
    if batch:
        yield batch
