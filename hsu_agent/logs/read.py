"""Reading the log files of an instance: the last N lines, and what is added, over rotations."""

from __future__ import annotations

import os
from pathlib import Path

from hsu_agent.logs.segments import segment_files

BLOCK_BYTES = 64 * 1024
"""Unit in which files are read."""

TAIL_LIMIT_BYTES = 8 * 1024 * 1024
"""Most that the last N lines of one stream may hold; longer tails begin in the middle."""


def _open(path: Path) -> int | None:
    """Open a log file, never through a symbolic link."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


def _files(path: Path) -> list[Path]:
    """Return the segments of a stream, oldest first."""
    return [*(found for found, _ in segment_files(path)), path]


def _tail_of_file(descriptor: int, lines: int, limit_bytes: int) -> bytes:
    """Return the last bytes of a file, at least `lines` lines of it if it has so many."""
    size = position = os.fstat(descriptor).st_size
    blocks: list[bytes] = []
    found = 0
    while position > 0 and found <= lines and size - position < limit_bytes:
        start = max(0, position - BLOCK_BYTES)
        block = os.pread(descriptor, position - start, start)
        blocks.insert(0, block)
        found += block.count(b"\n")
        position = start
    return b"".join(blocks)


def last_lines(text: bytes, lines: int) -> bytes:
    """Return the last `lines` lines of `text`; an unfinished last line counts as one."""
    if lines <= 0:
        return b""
    end = len(text) - 1 if text.endswith(b"\n") else len(text)
    for _ in range(lines):
        end = text.rfind(b"\n", 0, end)
        if end < 0:
            return text
    return text[end + 1 :]


class StreamReader:
    """Reads one stream: `tail` once, then `more` whenever something was written. Close it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._offset = 0

    def tail(self, lines: int) -> bytes:
        """Return the last `lines` lines (None of them: 0) and stand at the end."""
        self._reopen(self._path, at_end=True)
        parts: list[bytes] = []
        wanted, left_bytes = lines, TAIL_LIMIT_BYTES
        for path in reversed(_files(self._path)):
            if wanted <= 0 or left_bytes <= 0:
                break
            is_ours = path == self._path and self._descriptor is not None
            descriptor = os.dup(self._descriptor or 0) if is_ours else _open(path)
            if descriptor is None:
                continue
            try:
                text = _tail_of_file(descriptor, wanted, left_bytes)
            finally:
                os.close(descriptor)
            if path == self._path:
                text = text[: len(text) - max(0, self._surplus(text))]
            text = last_lines(text, wanted)
            parts.insert(0, text)
            wanted -= text.count(b"\n") + (1 if text and not text.endswith(b"\n") else 0)
            left_bytes -= len(text)
        return b"".join(parts)

    def _surplus(self, text: bytes) -> int:
        """Return how much of `text` was written after we took our place at the end: `more` will return it."""
        if self._descriptor is None:
            return 0
        return min(len(text), os.fstat(self._descriptor).st_size - self._offset)

    def more(self) -> bytes:
        """Return what was added since, at most one block; empty when there is nothing more now."""
        if self._descriptor is None and not self._reopen(self._path, at_end=False):
            return b""
        while True:
            assert self._descriptor is not None
            text = os.pread(self._descriptor, BLOCK_BYTES, self._offset)
            if text:
                self._offset += len(text)
                return text
            following = self._following()
            if following is None or not self._reopen(following, at_end=False):
                return b""

    def _following(self) -> Path | None:
        """Return the segment after the one that is open, or None if that is still the newest."""
        assert self._descriptor is not None
        identity = _identity(os.fstat(self._descriptor))
        files = _files(self._path)
        for index, path in enumerate(files):
            try:
                if _identity(os.lstat(path)) == identity:
                    return files[index + 1] if index + 1 < len(files) else None
            except FileNotFoundError:
                continue
        return next((path for path in files if path.exists()), None)  # ours was removed: on with the oldest

    def _reopen(self, path: Path, *, at_end: bool) -> bool:
        descriptor = _open(path)
        if descriptor is None:
            return False
        self.close()
        self._descriptor = descriptor
        self._offset = os.fstat(descriptor).st_size if at_end else 0
        return True

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
