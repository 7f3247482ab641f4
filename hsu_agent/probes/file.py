"""A check that a file is there and fresh. Asked in a thread: a network file system may hang for minutes."""

from __future__ import annotations

import asyncio
import os
import time

from hsu_agent.planning.health import Outcome


class FileChecks:
    """Asks for files; a path whose earlier answer is still outstanding is not asked for again."""

    def __init__(self) -> None:
        self._outstanding: dict[str, asyncio.Future[os.stat_result]] = {}

    async def check(self, path: str, max_age_s: float) -> Outcome:
        """Return whether the file is there and not older than `max_age_s` (0: any age). The caller limits the time."""
        asked = self._outstanding.get(path)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(None, os.stat, path)
            self._outstanding[path] = asked
            asked.add_done_callback(lambda done: self._answered(path, done))
        try:
            found = await asyncio.shield(asked)
        except OSError as error:
            return Outcome(False, f"file {path}: {error.strerror or error}")
        age_s = time.time() - found.st_mtime
        if max_age_s and age_s > max_age_s:
            return Outcome(False, f"file {path}: was written {age_s:.1f} s ago, may be {max_age_s:g} s old")
        return Outcome(True, f"file {path}: is there")

    def _answered(self, path: str, done: asyncio.Future[os.stat_result]) -> None:
        self._outstanding.pop(path, None)
        if not done.cancelled():
            done.exception()  # seen, though the check that asked may be gone
