"""A worker that shows when it lived: `strict_worker.py FOLDER [tree]`. Standard library only.

Each of its processes keeps a file `INSTANCE@NODE@TOKEN@RUN@PID` with two numbers: CLOCK_BOOTTIME at its start, and the
newest time at which it was alive, written every millisecond; so the file of a killed one tells when that was. With
`tree` there are more of them: one in a session of its own, one that was forked twice, one that ignores SIGTERM.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TIMES = struct.Struct("=dd")
PAUSE_S = 0.001


class Life(NamedTuple):
    """One process of a worker: when it began and when it was last alive, in seconds of CLOCK_BOOTTIME.

    `run` is the same for all processes of one start.
    """

    instance: str
    node: str
    token: int
    run: str
    pid: int
    start_s: float
    last_s: float


def live(folder: Path) -> None:
    """Tell that this process is alive, for as long as it is."""
    which = os.environ["HSU_INSTANCE"].replace("/", "_")
    start = "@".join(os.environ[name] for name in ("HSU_NODE", "HSU_FENCING_TOKEN", "HSU_RUN"))
    name = f"{which}@{start}@{os.getpid()}"
    start_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    temporary = folder / f".{name}"
    temporary.write_bytes(_TIMES.pack(start_s, start_s))
    with temporary.open("r+b") as stream, mmap.mmap(stream.fileno(), _TIMES.size) as shown:
        temporary.rename(folder / name)
        while True:
            _TIMES.pack_into(shown, 0, start_s, time.clock_gettime(time.CLOCK_BOOTTIME))
            time.sleep(PAUSE_S)


def lives(folder: Path) -> Iterator[Life]:
    """Yield the processes that have ever told that they live."""
    for path in sorted(folder.glob("[!.]*@*@*@*@*")):
        instance, node, token, run, pid = path.name.split("@")
        yield Life(instance, node, int(token), run, int(pid), *_TIMES.unpack(path.read_bytes()))


def overlaps(found: list[Life]) -> list[tuple[Life, Life]]:
    """Return the pairs of processes of one slot, but of different starts, that lived at the same time."""
    pairs = []
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            is_together = one.start_s <= other.last_s and other.start_s <= one.last_s
            if one.instance == other.instance and one.run != other.run and is_together:
                pairs.append((one, other))
    return pairs


def main() -> None:
    """Run."""
    folder = Path(sys.argv[1])
    if "tree" in sys.argv[2:]:
        if not os.fork():
            os.setsid()
            live(folder)
        if not os.fork():
            if os.fork():
                os._exit(0)
            live(folder)
        os.wait()
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            live(folder)
    live(folder)


if __name__ == "__main__":
    main()
