"""`hsu-agent run --local FILE --watch`: has changed files read again, once they have been quiet for a moment.

Looks at stamps once a second (no file system has to tell of changes, and network ones do not), and decides nothing
else: the files are read by the reload that `SIGHUP` asks for too, which refuses broken ones while everything runs on.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hsu_agent.local.sources import Stamps, look

log = logging.getLogger(__name__)

POLL_S = 1.0

QUIET_S = 0.3
"""An editor or a deploy writes several files, or one in parts; this long nothing may have changed."""

NAMES_S = 60.0
"""Longest that a child may take to find out which files are named."""

NAMES_SHOWN = 5


async def watch(
    files: Sequence[Path],
    known: Stamps,
    changed: Callable[[], None],
    *,
    poll_s: float = POLL_S,
    quiet_s: float = QUIET_S,
) -> None:
    """Call `changed` after every change of the files, or of what they name. `known`: as they were read last."""
    while True:
        await asyncio.sleep(poll_s)
        now = await asyncio.to_thread(look, known)
        if now == known:
            continue
        differing = [path for path in now if now[path] != known[path]]
        now = await _quiet(now, quiet_s)
        more = f" and {len(differing) - NAMES_SHOWN} more" if len(differing) > NAMES_SHOWN else ""
        log.info("changed: %s%s", ", ".join(differing[:NAMES_SHOWN]), more)
        known = await _named(files, now)
        changed()


async def _quiet(now: Stamps, quiet_s: float) -> Stamps:
    """Return the stamps as soon as they stay the same."""
    while True:
        await asyncio.sleep(quiet_s)
        after = await asyncio.to_thread(look, now)
        if after == now:
            return after
        now = after


async def _named(files: Sequence[Path], now: Stamps) -> Stamps:
    """Return the stamps of the files and of what they name now, found out by a child: we have no YAML in memory.

    Of files that are broken the former ones are kept: they are to be seen when they are mended.
    """
    command = [sys.executable, "-P", "-m", "hsu_agent.local.reader", *map(str, files)]
    quiet = asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=quiet, stdout=asyncio.subprocess.PIPE, stderr=quiet
        )
    except OSError as error:
        log.warning("which files are named now is not known: %s", error)
        return now
    try:
        async with asyncio.timeout(NAMES_S):
            output, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return now
    if not output:
        return now
    stamps: Stamps
    _, _, stamps = pickle.loads(output)
    return stamps if child.returncode == 0 else {**now, **stamps}
