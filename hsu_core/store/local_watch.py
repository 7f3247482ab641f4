"""Watches on a local store: a cursor into its history and a flag that there is something to read.

Nothing is queued per watch, so a slow reader costs no memory; if the history moves on without it,
it gets a Resync, as on etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from hsu_core.model.errors import StoreUnavailable
from hsu_core.store.base import Resync, Watch, WatchBatch
from hsu_core.store.mvcc import Commit, Mvcc


class LocalWatch:
    """The iterator of one watch; made by `WatchHub.open`."""

    def __init__(self, state: Mvcc, prefix: str, after_revision: int) -> None:
        self._state = state
        self._prefix = prefix
        self._cursor = after_revision
        self._is_ended = False
        self._closed: StoreUnavailable | None = None
        self._ready = asyncio.Event()
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch | Resync:
        if self._is_ended:
            raise StopAsyncIteration
        while True:
            await self._ready.wait()
            if self._closed is not None:
                raise self._closed
            if self._cursor < self._state.compacted:
                self._is_ended = True
                return Resync(self._state.compacted)
            batch = self._state.changes(self._prefix, self._cursor)
            self._cursor = batch.revision
            if self._cursor >= self._state.revision:
                self._ready.clear()
            if batch.events:
                return batch

    def notice(self, commits: Sequence[Commit]) -> None:
        """Wake the reader if one of the commits, just published, is in the prefix; else move on."""
        if self._ready.is_set():
            return
        if any(event.entry.key.startswith(self._prefix) for commit in commits for event in commit.events):
            self._ready.set()
        else:
            self._cursor = max(self._cursor, self._state.revision)

    def close(self, error: StoreUnavailable) -> None:
        """Let the reader fail with `error`."""
        self._closed = error
        self._ready.set()


class WatchHub:
    """All open watches of one store."""

    def __init__(self, state: Mvcc) -> None:
        self._state = state
        self._watches: dict[LocalWatch, None] = {}  # in the order they were opened

    @asynccontextmanager
    async def open(self, prefix: str, after_revision: int, check_open: Callable[[], None]) -> AsyncIterator[Watch]:
        """Give a watch for the time of the context; `check_open` raises if the store is closed."""
        check_open()
        watch = LocalWatch(self._state, prefix, after_revision)
        self._watches[watch] = None
        try:
            yield watch
        finally:
            self._watches.pop(watch, None)

    def notice(self, commits: Sequence[Commit]) -> None:
        """Tell every watch about commits that have just been published."""
        for watch in self._watches:
            watch.notice(commits)

    def close(self, error: StoreUnavailable) -> None:
        """Let every watch fail with `error`."""
        for watch in self._watches:
            watch.close(error)
