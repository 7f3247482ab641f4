"""What the tests with examples/shop.yaml share: one at a time on a machine, and nothing left behind.

Ports of instances are picked from the slot's name, so two clusters on one machine that both run the shop get
in each other's way.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def alone_with_the_shop() -> Iterator[None]:
    """Wait until no other test of this machine runs the shop."""
    with (Path(tempfile.gettempdir()) / "hsu-test-shop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the living processes that work in `folder` or were started with a path below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.cwd().startswith(str(folder)) or any(str(folder) in part for part in process.cmdline()):
                found.append(process)
    return found
