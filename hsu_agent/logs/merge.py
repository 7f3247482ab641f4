"""Streams of an instance read line by line and merged in time order: the tail, since a time, and what is added.

Each line has the time at which its first byte came in (`hsu_agent.logs.index`), so lines of different streams that
came within the same twentieth of a second may change places; those of one stream never do.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

from hsu_agent.logs.compress import open_segment, origin_of
from hsu_agent.logs.index import IndexReader
from hsu_agent.logs.segments import segment_files

Line = tuple[float, str, bytes]
"""When it came in (seconds since 1970), its stream, its bytes without the line end."""

BLOCK_BYTES = 64 * 1024
"""Unit in which files are read."""

TAIL_LIMIT_BYTES = 8 * 1024 * 1024
"""Most that the last N lines of one stream may hold; longer tails begin in the middle."""

LINE_LIMIT_BYTES = 1024 * 1024
"""A longer line is handed out in pieces of this size."""

TURN_LINES = 10_000
"""Most lines that one call of `more` returns."""

ALL_LINES = -1


class LineCursor:
    """Stands in one stream and hands out its lines. Close it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.name.removesuffix(".log")
        self._descriptor = -1
        self._origin = self._inode = 0
        self._index: IndexReader | None = None
        self._offset = 0
        self._text = b""
        self._begin = 0
        self._base = 0

    def place(self, lines: int, since_at: float | None) -> None:
        """Stand `lines` lines before the end (ALL_LINES: at the start), and not before `since_at`."""
        files = _files(self._path)
        if not files:
            return
        left, start = lines, (0, 0)
        if lines >= 0:
            start = (len(files) - 1, 0)
            budget = TAIL_LIMIT_BYTES
            for number in range(len(files) - 1, -1, -1):
                offset, left, budget = _back(self._path, files[number], left, budget)
                start = (number, offset)
                if left <= 0 or budget <= 0:
                    break
        number, offset = start
        if since_at is not None:
            while number < len(files) - 1 and _changed_at(files[number]) < since_at:
                number, offset = number + 1, 0
        opened = self._open_first(files[number:])
        if opened is not None:
            self._offset = offset if opened == files[number] else 0
            if since_at is not None and self._index is not None:
                self._skip_to(max(offset, self._index.offset_of(since_at)))

    def _skip_to(self, offset: int) -> None:
        """Stand at the first line that starts at `offset` or later."""
        if offset > self._offset:
            self._offset = offset - 1
            while block := os.pread(self._descriptor, BLOCK_BYTES, self._offset):
                end = block.find(b"\n")
                self._offset += end + 1 if end >= 0 else len(block)
                if end >= 0:
                    return

    def seek(self, inode: int, offset: int, begun_at: float = 0.0) -> bool:
        """Stand where an earlier cursor stood; return False if that segment is gone.

        The system gives the inode of a compressed segment to another file, so `begun_at` tells them apart.
        """
        for path in reversed(_files(self._path)):
            if origin_of(path) != inode or not self._open(path):
                continue
            if not begun_at or self._begun_at == begun_at:
                self._offset = offset
                return True
        self.close()
        return False

    @property
    def position(self) -> tuple[int, int, float]:
        """Return what `seek` takes: (inode of the raw segment, offset behind the last whole line, time of its begin).

        All of it is 0 before the first output.
        """
        if self._descriptor < 0:
            return 0, 0, 0.0
        return self._origin, max(0, self._offset - len(self._text) + self._begin), self._begun_at

    @property
    def _begun_at(self) -> float:
        return self._index.begun_at if self._index is not None else 0.0

    def lines(self) -> Iterator[Line]:
        """Yield the whole lines that are there now. It may be left at any line and called again later."""
        while True:
            end = self._text.find(b"\n", self._begin)
            if end >= 0:
                at, line = self._at(self._base + self._begin), self._text[self._begin : end]
                self._begin = end + 1
                yield at, self._stream, line
                continue
            if len(self._text) - self._begin >= LINE_LIMIT_BYTES:
                yield from self.rest()
            block = self._block()
            if not block:
                return
            left = self._text[self._begin :]
            self._text, self._begin = left + block, 0
            self._base = self._offset - len(self._text)

    def rest(self) -> Iterator[Line]:
        """Yield the line that has not ended yet, if there is one."""
        begin, self._begin = self._begin, len(self._text)
        if begin < self._begin:
            yield self._at(self._base + begin), self._stream, self._text[begin:]

    def _at(self, offset: int) -> float:
        return self._index.at(max(0, offset)) if self._index is not None else 0.0

    def _block(self) -> bytes:
        if self._descriptor < 0 and self._open_first(_files(self._path)) is None:
            return b""
        while True:
            if self._index is not None:
                self._index.refresh()
            block = os.pread(self._descriptor, BLOCK_BYTES, self._offset)
            if block:
                self._offset += len(block)
                return block
            if self._open_first(self._following()) is None:
                return b""

    def _following(self) -> list[Path]:
        """Return the segments after ours, oldest first."""
        files = _files(self._path)
        own = [number for number, path in enumerate(files) if _inode_of(path) == self._inode]
        if not own:  # ours may be compressed now: then the newest that was in its place is ours
            own = [number for number, path in enumerate(files) if origin_of(path) == self._origin][-1:]
        return files[own[0] + 1 :] if own else files  # ours was removed: on with the oldest

    def _open_first(self, files: Sequence[Path]) -> Path | None:
        """Open the first of these that can be read, and return it."""
        return next((path for path in files if self._open(path)), None)

    def _open(self, path: Path) -> bool:
        try:
            found = open_segment(self._path, path)
        except OSError:
            return False
        index = IndexReader(found.index_file, found.changed_at)
        self.close()
        index.refresh()
        self._descriptor, self._index, self._offset = found.descriptor, index, 0
        self._inode, self._origin = found.inode, found.origin
        return True

    def close(self) -> None:
        """Close the files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._index is not None:
            self._index.close()
            self._index = None


class MergedFollower:
    """First the tail, then what is added: call `more` again and again. Close it."""

    def __init__(self, log_folder: Path, streams: Sequence[str], lines: int = 0, since_at: float | None = None) -> None:
        self._lines, self._since_at, self._is_first = lines, since_at, True
        self._cursors = [LineCursor(log_folder / f"{stream}.log") for stream in streams]
        for cursor in self._cursors:
            cursor.place(lines, since_at)

    def more(self) -> list[Line]:
        """Return whole lines not returned before, in time order; empty when there is nothing more now.

        The first call returns the tail: at most `lines` lines (ALL_LINES: up to TURN_LINES at once).
        """
        merged = heapq.merge(*(cursor.lines() for cursor in self._cursors), key=_time)
        chosen = (line for line in merged if self._since_at is None or line[0] >= self._since_at)
        if self._is_first and self._lines >= 0:
            self._is_first = False
            return list(deque(chosen, maxlen=self._lines))
        self._is_first = False
        return sorted(
            (line for cursor in self._cursors for line in islice(self._chosen(cursor), TURN_LINES)), key=_time
        )

    def rest(self) -> list[Line]:
        """Return the lines that have not ended, for when nothing is added any more."""
        return [line for cursor in self._cursors for line in cursor.rest()]

    def _chosen(self, cursor: LineCursor) -> Iterator[Line]:
        return (line for line in cursor.lines() if self._since_at is None or line[0] >= self._since_at)

    def close(self) -> None:
        """Close the files."""
        for cursor in self._cursors:
            cursor.close()


def merged_tail(
    log_folder: Path,
    streams: Sequence[str],
    lines: int,
    since_at: float | None = None,
    until_at: float | None = None,
) -> Iterator[Line]:
    """Yield the last `lines` lines (ALL_LINES: all) of these streams of an instance, in time order.

    `log_folder` holds `stdout.log` and `stderr.log`; `since_at` (seconds since 1970) leaves out what is older, and
    `until_at` what came then or later: the last lines are those before it. A last line without an end counts as a line.
    """
    cursors = [LineCursor(log_folder / f"{stream}.log") for stream in streams]
    try:
        for cursor in cursors:
            cursor.place(lines if until_at is None else ALL_LINES, since_at)
        merged: Iterator[Line] = heapq.merge(*(_to_the_end(cursor) for cursor in cursors), key=_time)
        if until_at is not None:
            merged = takewhile(lambda line: line[0] < until_at, merged)
        chosen = (line for line in merged if since_at is None or line[0] >= since_at)
        yield from chosen if lines < 0 else deque(chosen, maxlen=lines)
    finally:
        for cursor in cursors:
            cursor.close()


def _to_the_end(cursor: LineCursor) -> Iterator[Line]:
    yield from cursor.lines()
    yield from cursor.rest()


def stamp(at: float) -> str:
    """Return a time in seconds since 1970 as `2026-01-31T12:00:00.123Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}Z"


def _time(line: Line) -> float:
    return line[0]


def _files(path: Path) -> list[Path]:
    files = [found for found, _ in segment_files(path)]
    return [*files, path] if os.path.lexists(path) else files


def _inode_of(path: Path) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0


def _changed_at(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _back(stream: Path, path: Path, lines: int, budget: int) -> tuple[int, int, int]:
    """Return (offset of the line `lines` before the end, lines still missing, bytes of the budget left)."""
    try:
        descriptor = open_segment(stream, path).descriptor
    except OSError:
        return 0, lines, budget
    try:
        size = position = os.fstat(descriptor).st_size
        if lines <= 0:
            return size, 0, budget
        is_last = True
        while position > 0 and budget > 0:
            start = max(0, position - BLOCK_BYTES)
            block = os.pread(descriptor, position - start, start)
            if not block:
                break
            end = len(block) - 1 if is_last and block.endswith(b"\n") else len(block)
            is_last = False
            while (end := block.rfind(b"\n", 0, end)) >= 0:
                lines -= 1
                if lines == 0:
                    return start + end + 1, 0, budget
            position = start
            budget -= len(block)
        return position, lines - (1 if size and position == 0 else 0), budget
    finally:
        os.close(descriptor)
