"""Full segments become `stdout.log.N.gz`: one thread of low priority for all streams of this agent.

A crash at any line loses nothing: the raw segment is removed only after the compressed one is whole, synced and in its
place, and while both are there the raw one counts. The header of the compressed file names the inode of the raw one,
so that a reader who stood in that goes on behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import queue
import threading
import zlib
from pathlib import Path
from typing import IO, NamedTuple

from hsu_agent.logs.index import index_path
from hsu_agent.logs.segments import segment_files

log = logging.getLogger(__name__)

BLOCK_BYTES = 256 * 1024
LEVEL = 6
"""zlib's own default: text shrinks to a fifth or less."""

NICENESS = 10
"""Of the thread: workers go first."""

PUBLISH_S = 30.0
"""Longest wait of the thread for the loop."""

SEGMENT_LIMIT_BYTES = 1024**3
"""Most that one compressed segment may hold when it is read."""

_HEADER = 64
"""Bytes that hold the header with the name: a number of at most twenty digits."""


class Compressor:
    """Compresses segments in the order in which they were handed over. Close it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, stream: Path) -> None:
        """Compress the full segments of a stream that are not compressed yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compresses logs", daemon=True)
            self._thread.start()
        self._jobs.put(stream)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (stream := self._jobs.get()) is not None and not self._is_closed:
            try:
                self._compress_all(stream)
            except (OSError, RuntimeError, TimeoutError, zlib.error) as error:
                log.warning("segments of %s stay as they are: %s", stream, error)

    def _compress_all(self, stream: Path) -> None:
        temporary = stream.with_name(f"{stream.name}.compressing")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of an agent that died
        for path, _ in segment_files(stream):
            if self._is_closed or path.suffix == ".gz":
                continue
            inode = compress(path, temporary)
            done = asyncio.run_coroutine_threadsafe(_publish(stream, inode, temporary), self._loop)
            done.result(PUBLISH_S)  # renames are made by the loop, which also rotates

    def close(self) -> None:
        """Begin nothing more; what is half done is done anew by the next agent."""
        self._is_closed = True
        self._jobs.put(None)


def compress(path: Path, target: Path) -> int:
    """Write the compressed copy of a file, synced; return the inode of what was read. Raises OSError."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(source, "rb", buffering=0) as raw:
        about = os.fstat(source)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(target, flags, 0o600), "wb") as written:
            name = str(about.st_ino)
            with gzip.GzipFile(name, "wb", LEVEL, fileobj=written, mtime=about.st_mtime) as packed:
                while block := raw.read(BLOCK_BYTES):
                    packed.write(block)
            written.flush()
            os.fsync(written.fileno())
        os.utime(target, (about.st_atime, about.st_mtime))
        return about.st_ino


async def _publish(stream: Path, inode: int, temporary: Path) -> None:
    """Put the compressed copy into the place that the raw segment has now; called by the loop, as rotations are."""
    for path, _ in segment_files(stream):
        if path.suffix == ".gz" or os.lstat(path).st_ino != inode:
            continue
        packed = path.with_name(f"{path.name}.gz")
        os.replace(temporary, packed)
        with contextlib.suppress(OSError):
            index = _index(stream, os.lstat(packed).st_ino, is_packed=True)
            os.replace(_index(stream, inode, is_packed=False), index)
        path.unlink()
        return
    temporary.unlink()  # it was removed meanwhile


def _index(stream: Path, inode: int, *, is_packed: bool) -> str:
    return index_path(str(stream), inode) + (".gz" if is_packed else "")


def origin_of(path: Path) -> int:
    """Return the inode of a segment; of a compressed one that which it had before. 0 if it cannot be read."""
    try:
        if path.suffix != ".gz":
            return os.lstat(path).st_ino
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0) as packed:
            return _origin(packed.read(_HEADER))
    except (OSError, ValueError):
        return 0


def _origin(head: bytes) -> int:
    return int(head[10 : head.index(b"\0", 10)])  # RFC 1952: ten bytes, then the name that ends with NUL


class OpenSegment(NamedTuple):
    """A segment as the worker wrote it: descriptor, inode of its file and of the raw one, index, end."""

    descriptor: int
    inode: int
    origin: int
    index_file: str
    changed_at: float


def open_segment(stream: Path, path: Path) -> OpenSegment:
    """Open a segment of a stream for reading, never through a link. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    about = os.fstat(opened)
    if path.suffix != ".gz":
        index = _index(stream, about.st_ino, is_packed=False)
        return OpenSegment(opened, about.st_ino, about.st_ino, index, about.st_mtime)
    index = _index(stream, about.st_ino, is_packed=True)
    with os.fdopen(opened, "rb") as packed:
        try:
            origin = _origin(packed.peek(_HEADER)[:_HEADER])
        except ValueError as error:
            raise OSError(f"{path} is no segment that was compressed here") from error
        return OpenSegment(_unpacked(path, packed), about.st_ino, origin, index, about.st_mtime)


def _unpacked(path: Path, packed: IO[bytes]) -> int:
    """Return a descriptor of a file in memory with the content."""
    plain = os.memfd_create(path.name, os.MFD_CLOEXEC)
    try:
        with gzip.GzipFile(fileobj=packed) as source, os.fdopen(plain, "wb", closefd=False) as target:
            left = SEGMENT_LIMIT_BYTES
            while left > 0 and (block := source.read(min(BLOCK_BYTES, left))):
                target.write(block)
                left -= len(block)
    except (EOFError, zlib.error) as error:
        os.close(plain)
        raise OSError(f"{path} is damaged: {error}") from error
    except BaseException:
        os.close(plain)
        raise
    return plain
