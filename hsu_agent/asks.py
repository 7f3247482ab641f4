"""Requests of the leader that reach one instance: its logs, and signals to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from pathlib import Path

from hsu_agent.logs.capture import STREAMS, Capture
from hsu_agent.logs.merge import Line, MergedFollower, merged_tail, stamp
from hsu_agent.loop import Supervisor
from hsu_core.model.errors import HsuError, InvalidInput, NotFound, TooMany
from hsu_core.runtime.tasks import Wake
from hsu_core.wire.frames import Answer, Ask, Chunk, Frame

CHUNK_BYTES = 256 * 1024
"""Most bytes of one chunk: far below the limit of a frame, so that beats get between them."""

TAIL_LIMIT = 100_000
"""Most lines of one request."""

ASKS_LIMIT = 64
"""Requests under way at once in one session."""

Send = Callable[[Frame], Awaitable[None]]


class Asks:
    """The requests of one session; their tasks live in `tasks`."""

    def __init__(self, supervisor: Supervisor, capture: Capture, tasks: asyncio.TaskGroup, send: Send) -> None:
        self._supervisor = supervisor
        self._capture = capture
        self._tasks = tasks
        self._send = send
        self._running: dict[int, asyncio.Task[None]] = {}

    def begin(self, ask: Ask) -> None:
        """Answer a request in a task of its own."""
        self._running[ask.id] = self._tasks.create_task(self._answer(ask), name=f"{ask.verb} {ask.instance}")

    def cancel(self, ask_id: int) -> None:
        """End a request that nobody waits for any more."""
        task = self._running.pop(ask_id, None)
        if task is not None:
            task.cancel()

    async def _answer(self, ask: Ask) -> None:
        answer = Answer(ask.id)
        try:
            if len(self._running) > ASKS_LIMIT:
                raise TooMany(f"answer {ask.verb}", f"{ASKS_LIMIT} requests are under way", "try again")
            if ask.verb == "logs":
                await self._logs(ask)
            elif ask.verb == "signal":
                self._supervisor.send_signal(ask.instance, str(ask.arguments.get("name", "")))
            else:
                raise InvalidInput(f"answer {ask.verb!r}", "this agent does not know it", "upgrade the agent")
        except HsuError as error:
            answer = Answer(ask.id, error.code, error.sentence)
        except OSError as error:
            answer = Answer(ask.id, "internal", f"cannot answer {ask.verb}: {error}")
        finally:
            self._running.pop(ask.id, None)
        await self._send(answer)

    async def _logs(self, ask: Ask) -> None:
        arguments = ask.arguments
        tail, only = arguments.get("tail", 100), str(arguments.get("stream") or "")
        if not isinstance(tail, int) or not 0 <= tail <= TAIL_LIMIT:
            raise InvalidInput(f"read logs of {ask.instance}", f"tail is {tail!r}", f"write 0 to {TAIL_LIMIT}")
        if only and only not in STREAMS:
            raise InvalidInput(f"read logs of {ask.instance}", f"there is no stream {only!r}", "write stdout or stderr")
        since_at, until_at = (_time(ask, name) for name in ("since_at", "until_at"))
        is_timed = bool(arguments.get("is_timed"))
        streams = (only,) if only else STREAMS
        paths = {name: self._capture.log_path(ask.instance, name) for name in streams}
        if self._supervisor.status(ask.instance) is None and not any(path.exists() for path in paths.values()):
            raise NotFound(f"read logs of {ask.instance}", "it has never run on this node")
        folder = next(iter(paths.values())).parent
        if not arguments.get("follow"):  # what was there when asked: a fast writer would never let it end
            lines = await asyncio.to_thread(_tail, folder, streams, tail, since_at, until_at)
            await self._chunks(ask.id, lines, is_timed)
            return
        wake = Wake()
        unfollow = self._capture.follow(ask.instance, wake.wake)
        follower = MergedFollower(folder, streams, tail, since_at)
        try:
            is_there = True
            while is_there:
                is_there = self._supervisor.status(ask.instance) is not None
                while lines := await asyncio.to_thread(follower.more):
                    await self._chunks(ask.id, lines, is_timed)
                if is_there:
                    await wake.wait()
            await self._chunks(ask.id, follower.rest(), is_timed)
        finally:
            unfollow()
            follower.close()

    async def _chunks(self, ask_id: int, lines: Sequence[Line], is_timed: bool) -> None:
        """Send lines in their order; a chunk has those of one stream."""
        for stream, group in groupby(lines, key=lambda line: line[1]):
            if is_timed:
                text = b"".join(stamp(at).encode() + b" " + line + b"\n" for at, _, line in group)
            else:
                text = b"".join(line + b"\n" for _, _, line in group)
            for start in range(0, len(text), CHUNK_BYTES):
                await self._send(Chunk(ask_id, text[start : start + CHUNK_BYTES], stream))


def _tail(
    folder: Path, streams: Sequence[str], lines: int, since_at: float | None, until_at: float | None
) -> list[Line]:
    return list(merged_tail(folder, streams, lines, since_at, until_at))


def _time(ask: Ask, name: str) -> float | None:
    """Return an argument that is a time, None without it. Raises InvalidInput."""
    found = ask.arguments.get(name)
    if found is not None and not isinstance(found, int | float):
        raise InvalidInput(f"read logs of {ask.instance}", f"{name} is {found!r}", "write seconds since 1970")
    return found
