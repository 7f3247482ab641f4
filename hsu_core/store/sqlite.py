"""The store in one SQLite file: for one machine; every acknowledged write survives a kill -9.

Requests are decided in memory and made durable in groups: while one group is being synced, the
next one gathers, so many callers share one sync. The file itself is `journal`; all state and all
reads are `local`. Nothing polls: the writer waits for requests, leases for a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from hsu_core.model.errors import OutcomeUnknown, StoreError, StoreUnavailable
from hsu_core.store.journal import Change, Contents, Journal, JournalError, JournalUndecided
from hsu_core.store.local import HISTORY_REVISIONS, LocalStore, Staged
from hsu_core.store.mvcc import Mvcc, Stage, Version

GROUP_REQUESTS = 512
GROUP_BYTES = 4 * 1024 * 1024
"""A group ends at either limit: it keeps one sync, and what waits behind it, in milliseconds."""

SWEEP_VERSIONS = 500
SWEEP_BYTES = 4 * 1024 * 1024
"""Old versions deleted along with one group; a slice of this size takes a few milliseconds."""

CLOSE_TIMEOUT_S = 10.0
"""How long `close` waits for a group that the disk does not finish."""

WHAT = "write to the store"
FIX = "make room on the disk or check it; the store goes on by itself when it can write again"

T = TypeVar("T")


@dataclass(slots=True)
class _Request:
    apply: Callable[[Staged], Any]
    answer: asyncio.Future[Any]
    is_taken: bool = False


class SqliteStore(LocalStore):
    """A store in a file; make it with `await SqliteStore.open(path)`."""

    backend = "sqlite"

    def __init__(
        self,
        journal: Journal,
        contents: Contents,
        executor: ThreadPoolExecutor,
        monotonic: Callable[[], float],
        history_revisions: int,
    ) -> None:
        """Take over an open journal; use `open` instead."""
        state, superseded = Mvcc.load(contents.events, contents.revision, contents.compacted)
        super().__init__(
            state,
            monotonic=monotonic,
            history_revisions=history_revisions,
            cluster_id=contents.cluster_id,
            version=sqlite3.sqlite_version,
        )
        self._journal = journal
        self._executor = executor
        self._requests: deque[_Request] = deque()
        self._garbage: deque[Version] = deque(superseded)
        self._undecided: Staged | None = None
        self._wake = asyncio.Event()
        self._lessor.load(contents.leases, monotonic())
        self._arm_expiry()
        self._writer = asyncio.create_task(self._write_groups(), name=f"sqlite store {journal.path}")

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        history_revisions: int = HISTORY_REVISIONS,
    ) -> Self:
        """Open or create the file and return the store; leases in it get their full TTL anew.

        Raises StoreInUse if another process has it open, StoreUnavailable if it cannot be used.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-writer")
        loop = asyncio.get_running_loop()
        try:
            journal = await loop.run_in_executor(executor, Journal, Path(path))
            try:
                contents = await loop.run_in_executor(executor, journal.read)
            except sqlite3.Error as error:
                journal.close()
                raise StoreUnavailable(
                    f"read the store {path}", str(error), "restore the file from a backup"
                ) from error
            return cls(journal, contents, executor, monotonic, history_revisions)
        except BaseException:
            executor.shutdown(wait=False)
            raise

    async def compact(self, revision: int, *, timeout_s: float = 5.0) -> None:
        """Forget history before `revision`; the file follows in small slices."""
        await super().compact(revision, timeout_s=timeout_s)
        self._wake.set()

    async def close(self) -> None:
        """Finish the group being written, fail what waits, close the file and free the lock."""
        if self._is_closed:
            return
        await super().close()
        self._wake.set()
        await asyncio.wait({self._writer}, timeout=CLOSE_TIMEOUT_S)
        self._writer.cancel()
        for request in self._requests:
            _fail(request, self._closed_error())
        self._requests.clear()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._journal.close)
        self._executor.shutdown(wait=False)

    async def _submit(self, apply: Callable[[Staged], T], timeout_s: float) -> T:
        self._check_open()
        request = _Request(apply, asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                answer: T = await request.answer
                return answer
        except TimeoutError as error:
            why = f"the disk took longer than {timeout_s:g} s"
            if request.is_taken:
                raise OutcomeUnknown(WHAT, why, "read before another try") from error
            raise StoreUnavailable(WHAT, why, "try again; check the disk") from error

    def _expire(self, lease: int) -> None:
        answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_swallow_store_error)
        self._requests.append(_Request(lambda staged: self._end_lease(staged, lease), answer))
        self._wake.set()

    def _forget(self, versions: Sequence[Version]) -> None:
        self._garbage.extend(versions)

    async def _write_groups(self) -> None:
        while not self._is_closed:
            if not self._requests and len(self._garbage) < SWEEP_VERSIONS:
                self._wake.clear()
                await self._wake.wait()
                if self._is_closed:
                    return
            staged = Staged(Stage(self._state))
            decided = self._decide(staged)
            forgotten = self._take_garbage()
            try:
                if forgotten or not staged.is_empty:
                    await self._write(staged, forgotten)
                self._publish(staged)
            except StoreError as error:
                self._garbage.extendleft(reversed(forgotten))
                for request, _ in decided:
                    _fail(request, type(error)(error.what, error.why, error.fix))
                if not self._requests:
                    self._wake.clear()
                    await self._wake.wait()
                continue
            for request, answer in decided:
                if not request.answer.done():
                    request.answer.set_result(answer)

    def _decide(self, staged: Staged) -> list[tuple[_Request, Any]]:
        decided: list[tuple[_Request, Any]] = []
        size_bytes, counted = 0, 0
        while self._requests and len(decided) < GROUP_REQUESTS and size_bytes < GROUP_BYTES:
            request = self._requests.popleft()
            if request.answer.done():
                continue
            request.is_taken = True
            try:
                decided.append((request, request.apply(staged)))
            except Exception as error:
                _fail(request, error)
            for commit in staged.stage.commits[counted:]:
                size_bytes += sum(len(event.entry.value) for event in commit.events)
            counted = len(staged.stage.commits)
        return decided

    def _take_garbage(self) -> list[Version]:
        forgotten: list[Version] = []
        size_bytes = 0
        while self._garbage and len(forgotten) < SWEEP_VERSIONS and size_bytes < SWEEP_BYTES:
            version = self._garbage.popleft()
            forgotten.append(version)
            size_bytes += version.size_bytes
        return forgotten

    async def _write(self, staged: Staged, forgotten: Sequence[Version]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._undecided is not None and await self._settle(self._undecided):
                raise StoreUnavailable(WHAT, "an earlier write came to light only now", "try again")
            change = Change(
                staged.stage.commits,
                staged.stage.revision,
                self._state.compacted,
                staged.granted,
                sorted(staged.ended),
                forgotten,
            )
            await loop.run_in_executor(self._executor, self._journal.write, change)
        except JournalError as error:
            raise StoreUnavailable(WHAT, f"{self._journal.path}: {error}", FIX) from error
        except JournalUndecided as error:
            self._undecided = staged
            raise OutcomeUnknown(WHAT, f"{self._journal.path}: {error}", f"read before another try; {FIX}") from error

    async def _settle(self, undecided: Staged) -> bool:
        is_written = await asyncio.get_running_loop().run_in_executor(self._executor, self._journal.settle)
        self._undecided = None
        if is_written:
            self._journal.accept()
            self._publish(undecided)
        return is_written


def _fail(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)


def _swallow_store_error(answer: asyncio.Future[None]) -> None:
    """Leave a failed expiry to the next timer; anything else is reported by the event loop."""
    with contextlib.suppress(StoreError, asyncio.CancelledError):
        answer.result()
