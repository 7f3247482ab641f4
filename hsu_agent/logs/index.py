"""The time index of a segment: a text file beside it, each line a time (seconds since 1970) and the offset then.

It is named by the inode of the segment (`stdout.log.1234.idx`), so that it stays with it over rotations. The
segment itself stays what the worker wrote, so that ordinary tools can read it. The index only says when the bytes
from an offset on came in; without it, lines have the time of the file.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import time

ENTRY_PAUSE_S = 0.05
"""Least time between two entries of a stream: how exact the order of merged streams is."""


LAST_AT = 253_402_300_000.0
"""The end of the year 9999: a later time is a torn entry."""


def index_path(stream: str, inode: int) -> str:
    """Return the path of the index of a segment of the stream whose newest segment is the file `stream`."""
    return f"{stream}.{inode}.idx"


class IndexWriter:
    """Appends to the index of the newest segment. It never fails: an index is worth less than the output."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._path = ""
        self._due_s = 0.0
        self._is_new = False

    def begin(self, inode: int, *, is_new: bool) -> None:
        """Go on with the index of the segment that was opened; that of a new one starts empty."""
        self._path, self._is_new, self._due_s = index_path(self._stream, inode), is_new, 0.0

    def first_at(self, default_at: float) -> float:
        """Return when the first bytes of the segment came in."""
        reader = IndexReader(self._path, default_at)
        reader.refresh()
        reader.close()
        return reader.at(0)

    def note(self, offset: int) -> None:
        """Note that bytes from `offset` on come in now, if the last entry is old enough."""
        now_s = time.monotonic()
        if now_s < self._due_s or not self._path:
            return
        self._due_s = now_s + ENTRY_PAUSE_S
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        if self._is_new:
            flags |= os.O_TRUNC
            self._is_new = False
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.write(descriptor, b"%.6f %d\n" % (time.time(), offset))
            finally:
                os.close(descriptor)


class IndexReader:
    """Tells the time of an offset; reads on when the index has grown. Close it."""

    def __init__(self, path: str, default_at: float) -> None:
        self._default_at = default_at
        self._offsets: list[int] = []
        self._times: list[float] = []
        self._read = 0
        self._descriptor = -1
        with contextlib.suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def refresh(self) -> None:
        """Read the entries that were added; a torn or senseless entry is passed over."""
        while self._descriptor >= 0:
            text = os.pread(self._descriptor, 65536, self._read)
            end = text.rfind(b"\n") + 1
            if not end:
                return
            self._read += end
            for line in text[:end].splitlines():
                at, _, offset = line.partition(b" ")
                with contextlib.suppress(ValueError):
                    seconds = float(at)
                    is_sane = 0 <= seconds < LAST_AT and int(offset) >= (self._offsets[-1] if self._offsets else 0)
                    if is_sane:
                        self._times.append(seconds)
                        self._offsets.append(int(offset))

    def at(self, offset: int) -> float:
        """Return when the byte at `offset` came in, in seconds since 1970."""
        found = bisect.bisect_right(self._offsets, offset) - 1
        if found >= 0:
            return self._times[found]
        return min(self._default_at, self._times[0]) if self._times else self._default_at

    @property
    def begun_at(self) -> float:
        """Return when the first bytes came in, 0 if the index does not know."""
        return self._times[0] if self._times else 0.0

    def offset_of(self, since_at: float) -> int:
        """Return an offset before which everything is older than `since_at`."""
        found = next((place for place, at in enumerate(self._times) if at >= since_at), len(self._times))
        return self._offsets[found - 1] if found else 0

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
