"""Lines of logs: whole lines out of chunks, their times, and where a followed log goes on after a cut. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from datetime import datetime

LINE_LIMIT = 64 * 1024
"""A longer line is written in pieces: a worker that prints no line end must not fill our memory."""

OVERLAP_S = 1.0
"""How far before its last line a log is asked for again: lines of two streams may change places within 0.05 s."""

OVERLAP_LINES = 20_000
"""Most lines remembered to be left out the second time; of a faster log some come twice."""


async def whole_lines(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the lines in a stream of chunks, without their ends; the last one may be unfinished."""
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
        while len(rest) > LINE_LIMIT:
            yield rest[:LINE_LIMIT]
            rest = rest[LINE_LIMIT:]
    if rest:
        yield rest


def time_of(line: str) -> float | None:
    """Return the time at which a line begins (`2026-01-31T12:00:00.123Z text`) in seconds since 1970, None without."""
    stamp, space, _ = line.partition(" ")
    if not space or not stamp.endswith("Z"):
        return None
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None


class Resumption:
    """Remembers the last second of a followed log, so that it goes on without a gap and without a line twice.

    Lines begin with their times. A line without one (the later pieces of a long line) is always new.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[float, str]] = deque(maxlen=OVERLAP_LINES)
        self._known: Counter[str] = Counter()

    def begin(self) -> float | None:
        """Begin the log again; return the time from which to ask for it, None if nothing of it was seen."""
        if not self._last:
            return None
        self._known = Counter(line for _, line in self._last)
        return max(0.0, self._last[-1][0] - OVERLAP_S)

    def is_new(self, line: str) -> bool:
        """Take the next line; return whether it was not among those before the cut."""
        at = time_of(line)
        if at is None:
            return True
        if self._known[line] > 0:
            self._known[line] -= 1
            return False
        self._last.append((at, line))
        while self._last[0][0] < at - OVERLAP_S:
            self._last.popleft()
        return True
