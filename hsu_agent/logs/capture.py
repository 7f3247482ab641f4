"""Output of workers: one named pipe per stream, drained into segment files.

The worker holds its pipe open for reading and writing itself, so nobody's death closes it: no SIGPIPE, and
what it wrote while the agent was away is still in there. The agent holds it the same way, so that a worker's
end is no end of file. Bytes go from pipe to file inside the kernel where the file system allows it, so they
are not in our memory when we are killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsu_agent.logs.compress import Compressor
from hsu_agent.logs.segments import CHUNK_BYTES, Segments, grow_pipe
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.model.spec import LogSpec
from hsu_core.runtime.files import private_folder

log = logging.getLogger(__name__)

STREAMS = ("stdout", "stderr")

IDLE_CLOSE_S = 30.0
"""A log file that got nothing for this long is closed until the next output: descriptors are limited."""


TURN_BUDGET_S = 0.005
"""Longest that output is moved in one turn of the loop."""

EXPIRY_S = 60.0
"""Between two looks for output that is too old."""

DRAIN_PORTIONS = 8
"""Most portions taken at once from a worker that has just ended; what a child still writes comes later."""


@dataclass(slots=True)
class _Stream:
    name: str
    path: str
    pipe: int
    segments: Segments
    is_grown: bool = False
    is_queued: bool = False
    is_closed: bool = False
    idle: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Captured:
    streams: dict[str, _Stream] = field(default_factory=dict)
    followers: set[Callable[[], None]] = field(default_factory=set)


class Capture:
    """All pipes of this agent. Calls are made from the event loop's thread."""

    def __init__(self, data_dir: Path) -> None:
        self._run = str(private_folder(data_dir / "run"))
        self._logs = str(data_dir / "logs")
        self._captured: dict[InstanceId, _Captured] = {}
        self._waiting: deque[tuple[_Captured, _Stream]] = deque()
        self._compressor: Compressor | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._written_of_gone = 0
        self._dropped_of_gone = 0

    def log_path(self, instance: InstanceId, stream: str) -> Path:
        """Return the file that holds the newest output of a stream."""
        folder = f"{instance.namespace}/{instance.app}/{instance.worker}.{instance.slot}"
        return Path(f"{self._logs}/{folder}/{stream}.log")

    def attach(self, instance: InstanceId, spec: LogSpec) -> None:
        """Begin (or go on) to drain the pipes of an instance. Raises ProcessError."""
        present = self._captured.get(instance)
        if present is not None:
            for stream in present.streams.values():
                self._use(stream.segments, spec)
            return
        captured = _Captured()
        try:
            folder = self._folder(instance)
            os.makedirs(folder, 0o700, exist_ok=True)
            for name in STREAMS:
                path = f"{folder}/{name}"
                _make_fifo(path)
                pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
                segments = Segments(self.log_path(instance, name), spec.segment_bytes, spec.segments)
                self._use(segments, spec)
                captured.streams[name] = _Stream(name, path, pipe, segments)
        except OSError as error:
            for stream in captured.streams.values():
                os.close(stream.pipe)
            raise ProcessError(
                f"open the output pipes of {instance}",
                str(error),
                "check free space and the limit of open files of the agent (ulimit -n)",
                code="process.output",
            ) from error
        self._captured[instance] = captured
        loop = asyncio.get_running_loop()
        for stream in captured.streams.values():
            loop.add_reader(stream.pipe, self._note_output, captured, stream)

    def _use(self, segments: Segments, spec: LogSpec) -> None:
        segments.limit(spec.segment_bytes, spec.segments, spec.rate_bytes_s, spec.max_age_s)
        if spec.is_compressed and self._compressor is None:
            self._compressor = Compressor()
        add = self._compressor.add if self._compressor is not None and spec.is_compressed else None
        if segments.on_full != add:
            segments.on_full = add
            if add is not None:
                add(segments.path)  # what is full already
        if spec.max_age_s and self._expiry is None:
            self._expire()

    def _expire(self) -> None:
        for stream in self._streams():
            stream.segments.expire(time.time())
        self._expiry = asyncio.get_running_loop().call_later(EXPIRY_S, self._expire)

    def open_for_worker(self, instance: InstanceId) -> tuple[int, int]:
        """Return descriptors for stdout and stderr of a worker; the caller closes them. Raises ProcessError."""
        captured = self._captured[instance]
        opened: list[int] = []
        try:
            for name in STREAMS:
                opened.append(os.open(captured.streams[name].path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            what = f"open the output pipes of {instance}"
            raise ProcessError(what, str(error), "raise ulimit -n of the agent", code="process.output") from error
        return opened[0], opened[1]

    def _folder(self, instance: InstanceId) -> str:
        return f"{self._run}/{instance.namespace}/{instance.app}/{instance.worker}.{instance.slot}"

    def _note_output(self, captured: _Captured, stream: _Stream) -> None:
        """Queue a stream that has output: each gets its turn, however much the others write."""
        if stream.is_queued:
            return
        stream.is_queued = True
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._drain_waiting)
        self._waiting.append((captured, stream))

    def _drain_waiting(self) -> None:
        """Take one portion from each stream in turn, for a few milliseconds."""
        started_s = time.monotonic()
        while self._waiting:
            captured, stream = self._waiting.popleft()
            stream.is_queued = False
            if not stream.is_closed:
                self._drain(captured, stream)
            if self._waiting and time.monotonic() - started_s > TURN_BUDGET_S:
                asyncio.get_running_loop().call_soon(self._drain_waiting)
                return

    def _drain(self, captured: _Captured, stream: _Stream) -> None:
        count = stream.segments.drain(stream.pipe)
        if count >= CHUNK_BYTES and not stream.is_grown:
            stream.is_grown = True
            grow_pipe(stream.pipe)
        for follower in captured.followers:
            follower()
        if stream.idle is None:
            stream.idle = asyncio.get_running_loop().call_later(IDLE_CLOSE_S, self._close_idle, stream)

    def _close_idle(self, stream: _Stream) -> None:
        stream.idle = None
        stream.segments.close_idle()

    def drain_now(self, instance: InstanceId) -> None:
        """Move what an ended worker has left in its pipes, at most what they can hold."""
        captured = self._captured.get(instance)
        if captured is None:
            return
        for stream in captured.streams.values():
            for _ in range(DRAIN_PORTIONS):
                if not stream.segments.drain(stream.pipe):
                    break

    def follow(self, instance: InstanceId, on_output: Callable[[], None]) -> Callable[[], None]:
        """Call `on_output` whenever an instance has written; return what ends that."""
        captured = self._captured.get(instance)
        if captured is None:
            return lambda: None
        captured.followers.add(on_output)
        return lambda: captured.followers.discard(on_output)

    def detach(self, instance: InstanceId) -> None:
        """Stop draining an instance that is forgotten."""
        captured = self._captured.pop(instance, None)
        if captured is not None:
            self._close(captured)

    def remove(self, instance: InstanceId) -> None:
        """Remove the pipes of an instance that is forgotten; its log files stay."""
        if instance not in self._captured:
            shutil.rmtree(self._folder(instance), ignore_errors=True)

    def _close(self, captured: _Captured) -> None:
        loop = asyncio.get_running_loop()
        for stream in captured.streams.values():
            loop.remove_reader(stream.pipe)
            stream.segments.drain(stream.pipe)
            stream.segments.close_idle()
            if stream.idle is not None:
                stream.idle.cancel()
            stream.is_closed = True
            for follower in captured.followers:
                follower()
            os.close(stream.pipe)
            self._written_of_gone += stream.segments.written_bytes
            self._dropped_of_gone += stream.segments.dropped_bytes

    def close(self) -> None:
        """Stop draining; workers keep their pipes, the next agent goes on where this one ended."""
        for captured in self._captured.values():
            self._close(captured)
        self._captured.clear()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._compressor is not None:
            self._compressor.close()

    @property
    def written_bytes(self) -> int:
        """Return how many bytes were written to log files since the start."""
        return self._written_of_gone + sum(stream.segments.written_bytes for stream in self._streams())

    @property
    def dropped_bytes(self) -> int:
        """Return how many bytes the disk refused since the start."""
        return self._dropped_of_gone + sum(stream.segments.dropped_bytes for stream in self._streams())

    def _streams(self) -> list[_Stream]:
        return [stream for captured in self._captured.values() for stream in captured.streams.values()]


def _make_fifo(path: str) -> None:
    """Make the pipe unless it is there; anything else under its name is removed."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
            os.mkfifo(path, 0o600)


def lend_pipes(descriptors: Sequence[int], uid: int) -> None:
    """Give the pipes to the user of a worker, so that its program may open /dev/stdout by name. Raises OSError."""
    for descriptor in descriptors:
        if os.fstat(descriptor).st_uid != uid:
            os.fchown(descriptor, uid, -1)
