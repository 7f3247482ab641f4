"""Receivers of formatted lines: files with rotation, our own stdout and stderr, syslog, HTTP.

A file is written at once. Everything else may be slow or away: its lines wait in a bounded queue of their own, are
tried again with growing pauses, and what does not fit is counted and told to the receiver when it takes lines again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import time
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from hsu_agent.logs.segments import segment_files
from hsu_core.model.logging_rules import LogTarget, TargetKind

log = logging.getLogger(__name__)

QUEUE_BYTES = 4_000_000
"""Most that waits for one slow receiver."""

BATCH_LINES = 500
RETRY_BASE_S, RETRY_CEILING_S = 0.2, 10.0
SEND_TIMEOUT_S = 10.0
LAST_SEND_S = 2.0
"""What is still waiting when the agent stops gets this long."""


class Sink(Protocol):
    """Takes formatted lines without line ends."""

    def put(self, lines: list[bytes]) -> None:
        """Take lines; never waits."""

    async def close(self) -> None:
        """Give back what is held, after a last short try to hand over what waits."""


class FileSink:
    """Appends to a file of this host, never through a symbolic link in its own place."""

    def __init__(self, path: Path, target: LogTarget) -> None:
        self._path, self._target = path, target
        self._descriptor = -1
        self._size = 0
        self.dropped = 0

    def put(self, lines: list[bytes]) -> None:
        """Append lines, into a new file when this one is full."""
        try:
            if self._descriptor < 0:
                self._open()
            payload = b"".join(line + b"\n" for line in lines)
            if self._size and self._size + len(payload) > self._target.max_bytes:
                self._rotate()
            if self.dropped:
                payload = b"[hsu: %d lines were lost here]\n" % self.dropped + payload
            os.write(self._descriptor, payload)
            self._size += len(payload)
            self.dropped = 0
        except OSError as error:
            if not self.dropped:
                log.warning("cannot write log target %s: %s; lines are counted until it works", self._path, error)
            self.dropped += len(lines)

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        oldest_at = time.time() - self._target.max_age_s
        for path, number in segment_files(self._path):
            if number >= self._target.max_files - 1 or path.lstat().st_mtime < oldest_at:
                path.unlink()
            else:
                os.replace(path, f"{self._path}.{number + 1}")
        if self._target.max_files > 1:
            os.replace(self._path, f"{self._path}.1")
        else:
            self._path.unlink()
        self._open()

    async def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class QueuedSink:
    """Lines wait here for a receiver that may be slow; `send` raises OSError or TimeoutError to be called again."""

    def __init__(self, name: str, send: Callable[[list[bytes]], Awaitable[None]], end: Callable[[], None]) -> None:
        self._name, self._send, self._end = name, send, end
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._untold = 0
        self.dropped = 0
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"log target {name}")

    def put(self, lines: list[bytes]) -> None:
        """Take lines as long as there is room; count the others."""
        for line in lines:
            if self._bytes + len(line) > QUEUE_BYTES:
                if not self._untold:
                    log.warning("log target %s is too slow or away: lines are dropped and counted", self._name)
                self.dropped += 1
                self._untold += 1
                continue
            self._queue.append(line)
            self._bytes += len(line)
        self._wake.set()

    async def _run(self) -> None:
        pause_s = RETRY_BASE_S
        while True:
            while not self._queue:
                if self._is_closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            batch = [self._queue[number] for number in range(min(BATCH_LINES, len(self._queue)))]
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._send(batch)
            except (OSError, TimeoutError) as error:
                if pause_s == RETRY_BASE_S:
                    log.warning("cannot send to log target %s: %s; it is tried again", self._name, error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_CEILING_S)
                continue
            pause_s = RETRY_BASE_S
            for line in batch:
                self._queue.popleft()
                self._bytes -= len(line)
            if self._untold:
                log.warning("log target %s takes lines again: %d were lost", self._name, self._untold)
                self._untold = 0

    async def close(self) -> None:
        """Hand over what waits, for a short time, then end."""
        self._is_closing = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_S):
                await asyncio.shield(self._task)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._end()


def open_sink(target: LogTarget, path: Path) -> Sink:
    """Return the sink of a target; `path` is the resolved place of a file."""
    if target.kind is TargetKind.FILE:
        return FileSink(path, target)
    if target.kind is TargetKind.HTTP:
        http = _Http(target)
        return QueuedSink(target.place, http.send, lambda: None)
    if target.kind is TargetKind.SYSLOG:
        syslog = _Syslog(target.place)
        return QueuedSink(target.place, syslog.send, syslog.close)
    descriptor = 1 if target.kind is TargetKind.STDOUT else 2

    async def write(batch: list[bytes]) -> None:
        await asyncio.to_thread(_write_all, descriptor, b"".join(line + b"\n" for line in batch))

    return QueuedSink(str(target.kind), write, lambda: None)


def _write_all(descriptor: int, payload: bytes) -> None:
    while payload:
        payload = payload[os.write(descriptor, payload) :]


class _Http:
    """POSTs batches; the client of HTTP is loaded (in a thread) when the first one is sent."""

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._post: Callable[[LogTarget, list[bytes]], Awaitable[None]] | None = None

    async def send(self, batch: list[bytes]) -> None:
        if self._post is None:
            module = await asyncio.to_thread(importlib.import_module, "hsu_agent.logs.http")
            self._post = module.post
        assert self._post is not None
        await self._post(self._target, batch)


class _Syslog:
    """Sends RFC 5424 messages: datagrams over UDP or a unix socket, octet-counted (RFC 6587) over TCP."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._socket: socket.socket | None = None

    async def send(self, batch: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._socket is None:
                self._socket = await self._connect(loop)
            if self._place.startswith("tcp:"):
                await loop.sock_sendall(self._socket, b"".join(b"%d %b" % (len(line), line) for line in batch))
                return
            for line in batch:
                await loop.sock_sendall(self._socket, line[:DATAGRAM_BYTES])
        except BaseException:
            self.close()
            raise

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        if self._place.startswith("unix:"):
            family, kind, address = socket.AF_UNIX, socket.SOCK_DGRAM, self._place.removeprefix("unix:")
            made = socket.socket(family, kind)
            made.setblocking(False)
            try:
                made.connect(address)
            except OSError:
                made.close()
                raise
            return made
        parts = urllib.parse.urlsplit(self._place)
        kind = socket.SOCK_STREAM if parts.scheme == "tcp" else socket.SOCK_DGRAM
        found = await loop.getaddrinfo(parts.hostname, parts.port, type=kind)
        made = socket.socket(found[0][0], kind)
        made.setblocking(False)
        try:
            await loop.sock_connect(made, found[0][4])
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


DATAGRAM_BYTES = 8192
"""Longest syslog datagram: what receivers of RFC 5424 take; the rest of a longer line is cut."""
