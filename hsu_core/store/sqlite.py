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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from hsu_core.model.errors import OutcomeUnknown, StoreError, StoreUnavailable
from hsu_core.store.journal import (
    Change,
    Contents,
    EarlierWriteFound,
    Journal,
    JournalError,
    JournalUndecided,
    JournalUnsettled,
)
from hsu_core.store.local import HISTORY_REVISIONS, LocalStore, Staged
from hsu_core.store.mvcc import Mvcc, Stage, Version

GROUP_REQUESTS = 512
GROUP_BYTES = 4 * 1024 * 1024
"""A group ends at either limit: it keeps one sync, and what waits behind it, in milliseconds."""

SWEEP_VERSIONS = 200
SWEEP_BYTES = 1024 * 1024
"""Old versions deleted along with one group, or as many as it adds: 15 ms on a busy machine, so that
no writer waits 50 ms for a sweep."""

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


@dataclass(slots=True)
class _Group:
    """Requests that become durable together, their answers, and old versions deleted along with them."""

    staged: Staged
    decided: list[tuple[_Request, Any]] = field(default_factory=list)
    forgotten: list[Version] = field(default_factory=list)


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
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._is_failing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._lessor.load(contents.leases, monotonic())
        self._arm_expiry()
        self._schedule()

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
        self._schedule()

    async def close(self) -> None:
        """Finish the group being written, fail what waits, close the file and free the lock."""
        if self._is_closed:
            return
        await super().close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._idle.wait()
        for request in self._requests:
            _fail(request, self._closed_error())
        self._requests.clear()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._journal.close)
        self._executor.shutdown(wait=False)

    async def _submit(self, apply: Callable[[Staged], T], timeout_s: float) -> T:
        self._check_open()
        request = _Request(apply, asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self._schedule()
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
        self._schedule()

    def _forget(self, versions: Sequence[Version]) -> None:
        self._garbage.extend(versions)

    def _schedule(self) -> None:
        """Begin a group in the next turn of the event loop, so that all calls of this turn are in it."""
        has_work = bool(self._requests) or (len(self._garbage) >= SWEEP_VERSIONS and not self._is_failing)
        if has_work and self._idle.is_set() and not self._is_scheduled and not self._is_closed:
            self._is_scheduled = True
            self._loop.call_soon(self._begin_group)

    def _begin_group(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        group = _Group(Staged(Stage(self._state)))
        self._decide(group)
        self._take_garbage(group)
        if group.staged.is_empty and not group.forgotten:
            self._finish_group(group, None)
            return
        self._idle.clear()
        change = Change(
            group.staged.stage.commits,
            group.staged.stage.revision,
            self._state.compacted,
            group.staged.granted,
            sorted(group.staged.ended),
            group.forgotten,
        )
        written = self._executor.submit(self._journal.write, change, must_settle=self._undecided is not None)
        written.add_done_callback(lambda _: self._call_back(group, written))

    def _call_back(self, group: _Group, written: Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._finish_group, group, written)

    def _finish_group(self, group: _Group, written: Future[None] | None) -> None:
        error = None if written is None else self._failure(group, written.exception())
        self._is_failing = error is not None
        if error is None:
            self._publish(group.staged)
            for request, answer in group.decided:
                if not request.answer.done():
                    request.answer.set_result(answer)
        else:
            self._garbage.extendleft(reversed(group.forgotten))
            for request, _ in group.decided:
                _fail(request, type(error)(error.what, error.why, error.fix))
        self._idle.set()
        self._schedule()

    def _failure(self, group: _Group, error: BaseException | None) -> StoreError | None:
        """Return what the callers of a group are told, None if it is durable."""
        place = f"{self._journal.path}: {error}"
        if isinstance(error, EarlierWriteFound) and self._undecided is not None:
            self._publish(self._undecided)
            self._undecided = None
            return StoreUnavailable(WHAT, "an earlier write, until now undecided, is in the file", "try again")
        if isinstance(error, JournalUndecided):
            self._undecided = group.staged
            return OutcomeUnknown(WHAT, place, f"read before another try; {FIX}")
        if isinstance(error, JournalUnsettled):
            return StoreUnavailable(WHAT, place, FIX)
        self._undecided = None
        if error is None:
            return None
        if isinstance(error, JournalError):
            return StoreUnavailable(WHAT, place, FIX)
        return StoreError(WHAT, place, "please report it")

    def _decide(self, group: _Group) -> None:
        size_bytes, counted = 0, 0
        commits = group.staged.stage.commits
        while self._requests and len(group.decided) < GROUP_REQUESTS and size_bytes < GROUP_BYTES:
            request = self._requests.popleft()
            if request.answer.done():
                continue
            request.is_taken = True
            try:
                group.decided.append((request, request.apply(group.staged)))
            except Exception as error:
                _fail(request, error)
            size_bytes += sum(len(event.entry.value) for commit in commits[counted:] for event in commit.events)
            counted = len(commits)

    def _take_garbage(self, group: _Group) -> None:
        limit = max(SWEEP_VERSIONS, 2 * len(group.staged.stage.commits))
        size_bytes = 0
        while self._garbage and len(group.forgotten) < limit and size_bytes < SWEEP_BYTES:
            version = self._garbage.popleft()
            group.forgotten.append(version)
            size_bytes += version.size_bytes


def _fail(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)


def _swallow_store_error(answer: asyncio.Future[None]) -> None:
    """Leave a failed expiry to the next timer; anything else is reported by the event loop."""
    with contextlib.suppress(StoreError, asyncio.CancelledError):
        answer.result()
