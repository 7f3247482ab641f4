"""The kernel's order of whom to kill for memory: the agent may be protected, what it starts is not.

`OOMScoreAdjust=` of a unit holds for the agent and would be inherited by workers; a host short of memory would then
kill everybody else for a worker that eats it.
"""

from __future__ import annotations

import contextlib
import functools


@functools.cache
def own_score() -> int:
    """Return the adjustment of this process, -1000 (never killed) to 1000; 0 where the system has none."""
    try:
        with open("/proc/self/oom_score_adj", "rb") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0


def unprotect(pid: int, protection: int | None = None) -> None:
    """Give a process that we have just started the usual score (0) if it inherited protection (by default: ours)."""
    if (own_score() if protection is None else protection) < 0:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as stream:
            stream.write(b"0")
