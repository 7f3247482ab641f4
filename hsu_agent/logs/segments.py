"""The files of one log stream: `stdout.log` is written, `stdout.log.1` (newest) .. `stdout.log.N` are full.

Full ones may be compressed (`stdout.log.2.gz`, see `hsu_agent.logs.compress`).

A segment ends at the end of a line. What the disk refuses is counted and told by a marker line as soon as
it takes bytes again: a gap is never silent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from hsu_agent.logs.index import IndexWriter, index_path

LINE_LIMIT_BYTES = 1024 * 1024
"""A segment that has grown this much beyond its size with no line end is cut in the middle of the line."""

CHUNK_BYTES = 64 * 1024
"""Most that is read into memory at once: what a pipe holds by default."""

SPLICE_BYTES = 1024 * 1024
"""Most that is moved from pipe to file in one go: a large pipe in one call."""

OVERSHOOT_BYTES = 256 * 1024
"""A full segment takes this much more in whole portions of the pipe, in the hope that one of them ends a line.

Only after that output goes through our memory, where the end of the line is looked for and our death would lose it.
"""

RETRY_S = 0.5
"""Pause before a disk that refused is asked again."""


class Segments:
    """Moves bytes from a pipe into the segments of one stream. No call blocks longer than the disk does."""

    def __init__(self, path: Path, segment_bytes: int, segments: int, rate_bytes_s: int = 0) -> None:
        self.path = path
        self._segment_bytes = max(1, segment_bytes)
        self._segments = max(1, segments)
        self._descriptor = -1
        self._size = 0
        self._rate_bytes_s = rate_bytes_s
        self._allowed = float(rate_bytes_s)
        self._refilled_s = time.monotonic()
        self._can_splice = True
        self._retry_at_s = 0.0
        self._why = ""
        self.written_bytes = 0
        self.dropped_bytes = 0
        self._untold_bytes = 0
        self._index = IndexWriter(str(path))
        self._max_age_s = 0.0
        self._begun_at = 0.0
        self.on_full: Callable[[Path], None] | None = None
        """Called with the path of the stream when a segment is full."""

    def limit(self, segment_bytes: int, segments: int, rate_bytes_s: int = 0, max_age_s: float = 0.0) -> None:
        """Use other sizes from now on, another limit of bytes per second and another age (0: none)."""
        self._rate_bytes_s, self._max_age_s = rate_bytes_s, max_age_s
        self._segment_bytes, self._segments = max(1, segment_bytes), max(1, segments)

    def drain(self, pipe: int) -> int:
        """Move what is in the pipe now, one portion of it; return how many bytes were taken from it."""
        if not _available(pipe):
            return 0  # splice on old kernels would wait
        if self._untold_bytes and time.monotonic() < self._retry_at_s:
            return self._drop(_read(pipe))
        if self._rate_bytes_s and self._is_over_rate():
            return self._drop(_read(pipe))
        before = self.written_bytes
        count = self._keep(pipe)
        self._allowed -= self.written_bytes - before
        return count

    def _is_over_rate(self) -> bool:
        """Return whether this second's share of output is used up; what was saved is at most one second's."""
        now_s = time.monotonic()
        gained = (now_s - self._refilled_s) * self._rate_bytes_s
        self._allowed, self._refilled_s = min(self._allowed + gained, float(self._rate_bytes_s)), now_s
        if self._allowed > 0:
            return False
        self._why = f"more than {self._rate_bytes_s} bytes per second (logs.rate_limit)"
        self._retry_at_s = now_s + RETRY_S
        return True

    def _keep(self, pipe: int) -> int:
        """Move a portion from the pipe into the newest segment."""
        try:
            if self._descriptor < 0:
                self._open()
            if self._untold_bytes:
                self._tell_gap()
            if self._size >= self._segment_bytes and self._ends_line():
                self._rotate()  # before anything is in our memory, where our death would lose it
            self._index.note(self._size)
            if self._can_splice and self._size < self._segment_bytes + OVERSHOOT_BYTES:
                return self._splice(pipe)
        except OSError as error:
            return self._refused(error, _read(pipe))
        payload = _read(pipe)
        if payload:
            self._write(payload)
        return len(payload)

    def _splice(self, pipe: int) -> int:
        limit = self._segment_bytes if self._size < self._segment_bytes else self._segment_bytes + OVERSHOOT_BYTES
        room = min(SPLICE_BYTES, limit - self._size)
        try:
            moved = os.splice(pipe, self._descriptor, room)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != 22:  # EINVAL: this file system cannot
                raise
            self._can_splice = False
            return 0
        self._size += moved
        self.written_bytes += moved
        return moved

    def _write(self, payload: bytes) -> None:
        """Write bytes, beginning a new segment at the first line end after its size is reached."""
        try:
            if self._size >= self._segment_bytes:
                end = 0 if self._ends_line() else payload.find(b"\n") + 1
                if end or self._ends_line():
                    self._write_all(payload[:end])
                    payload = payload[end:]
                    self._rotate()
                elif self._size > self._segment_bytes + LINE_LIMIT_BYTES:
                    self._rotate()
            self._write_all(payload)
        except OSError as error:
            self._refused(error, payload)

    def _write_all(self, payload: bytes) -> None:
        view = memoryview(payload)
        while view:
            count = os.write(self._descriptor, view)
            self._size += count
            self.written_bytes += count
            view = view[count:]

    def _ends_line(self) -> bool:
        return self._size == 0 or os.pread(self._descriptor, 1, self._size - 1) == b"\n"

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        found = os.fstat(self._descriptor)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        self._index.begin(found.st_ino, is_new=not self._size)
        self._begun_at = self._index.first_at(found.st_mtime) if self._size else time.time()

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        oldest = self._segments - 1
        for path, number in segment_files(self.path):
            if number >= max(oldest, 1):
                self._remove(path)
            else:  # the oldest comes first, so the next place is free
                self._move(path, number + 1)
        if oldest:
            os.replace(self.path, f"{self.path}.1")
        else:
            self._remove(self.path)
        self._open()
        if self.on_full is not None:
            self.on_full(self.path)

    def expire(self, now_at: float) -> None:
        """Remove what is older than the greatest age; a segment in which there is such output is ended."""
        if not self._max_age_s:
            return
        limit_at = now_at - self._max_age_s
        for path, _ in segment_files(self.path):
            if _changed_at(path) < limit_at:
                self._remove(path)
        try:
            if self._descriptor < 0 and os.lstat(self.path).st_size:
                self._open()
            if self._size and self._descriptor >= 0 and self._begun_at < limit_at and self._ends_line():
                self._rotate()
        except OSError:
            return  # there is no output yet, or the disk refuses: the next look is soon enough

    def _move(self, path: Path, number: int) -> None:
        suffix = ".gz" if path.suffix == ".gz" else ""
        if not suffix:  # both are there if we died while one took the place of the other: the raw one counts
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.gz")
        os.replace(path, f"{self.path}.{number}{suffix}")

    def _remove(self, path: Path) -> None:
        """Remove a segment and its index."""
        with contextlib.suppress(FileNotFoundError):
            inode = os.lstat(path).st_ino
            path.unlink()
            if path.suffix != ".gz":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}.gz")  # we died while it took the place of the raw one
            os.unlink(index_path(str(self.path), inode) + (".gz" if path.suffix == ".gz" else ""))

    def _refused(self, error: OSError, payload: bytes) -> int:
        self._why = error.strerror or str(error)
        self._retry_at_s = time.monotonic() + RETRY_S
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return self._drop(payload)

    def _drop(self, payload: bytes) -> int:
        self.dropped_bytes += len(payload)
        self._untold_bytes += len(payload)
        return len(payload)

    def _tell_gap(self) -> None:
        start = "" if self._ends_line() else "\n"
        text = f"{start}[hsu: {self._untold_bytes} bytes of output were lost here: {self._why}]\n"
        before = self._size
        try:
            self._write_all(text.encode())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise
        self._untold_bytes = 0

    def close_idle(self) -> None:
        """Give the descriptor back; the next output opens the file again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def segment_files(path: Path) -> list[tuple[Path, int]]:
    """Return the full segments of a stream as (path, number), oldest (highest number) first.

    Of a raw and a compressed one with the same number the raw one counts.
    """
    found: dict[int, Path] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            tail = name.removeprefix(f"{path.name}.")
            number = tail.removesuffix(".gz")
            if tail != name and number.isdigit() and (number == tail or int(number) not in found):
                found[int(number)] = path.parent / name
    return [(found[number], number) for number in sorted(found, reverse=True)]


def _changed_at(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def grow_pipe(pipe: int) -> None:
    """Let a busy pipe hold more, so that its writer and we take fewer turns. A refusal does not matter."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, SPLICE_BYTES)


def _available(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, CHUNK_BYTES)
    except BlockingIOError:
        return b""
