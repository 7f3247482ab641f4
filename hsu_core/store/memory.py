"""The store in memory: for tests and simulation; nothing outlives the process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from hsu_core.store.local import HISTORY_REVISIONS, LocalStore, Staged
from hsu_core.store.mvcc import Mvcc, Stage

T = TypeVar("T")


class MemoryStore(LocalStore):
    """A store whose every call takes effect at once.

    `monotonic` is the clock of its leases, in seconds. `history_revisions` is how many revisions
    are kept before old ones are compacted by themselves. `randbits` gives the ids of leases.
    """

    backend = "memory"

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        history_revisions: int = HISTORY_REVISIONS,
        randbits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        super().__init__(Mvcc(), monotonic=monotonic, history_revisions=history_revisions, randbits=randbits)

    async def _submit(self, apply: Callable[[Staged], T], timeout_s: float) -> T:
        self._check_open()
        answer = self._apply(apply)
        await asyncio.sleep(0)  # a write takes a turn of the event loop, as it does on every other backend
        return answer

    def _expire(self, lease: int) -> None:
        self._apply(lambda staged: self._end_lease(staged, lease))

    def _apply(self, apply: Callable[[Staged], T]) -> T:
        staged = Staged(Stage(self._state))
        answer = apply(staged)
        self._publish(staged)
        return answer
