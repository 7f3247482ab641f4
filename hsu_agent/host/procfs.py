"""One look through /proc: which processes exist, whose they are, and which carry our mark. Linux only.

A look over a thousand processes takes tens of milliseconds, so it runs in a thread and is shared by
all that wait for one (`Scanner`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from hsu_agent.host.base import AGENT_VARIABLE, INSTANCE_VARIABLE, RUN_VARIABLE

SETTLED_S = 5.0
"""Age after which a process without our mark never gets it: marks are given at birth, before exec."""

ENVIRON_LIMIT_BYTES = 2 * 1024 * 1024
"""Most that is read of a process' environment (the kernel's own limit for it is a quarter of the stack)."""


_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing about the process: taken for its end they would prove a tree empty that is not."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that tell who a process is. `start_time` is in ticks since boot."""

    pid: int
    ppid: int
    pgrp: int
    session: int
    start_time: int
    is_dead: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What our variables in a process' environment say."""

    instance: str
    run: str


def read_stat(pid: int, *, is_proof: bool = False) -> Stat | None:
    """Return who the process is, or None if there is none. A zombie counts as dead unless it has live threads.

    With `is_proof` None says that there is none: raises OSError where it could only not be read.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if is_proof and error.errno in _SHORT_OF:
            raise
        return None
    try:
        text = os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    is_dead = fields[0] in (b"X", b"x") or (fields[0] == b"Z" and int(fields[17]) <= 1)
    return Stat(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), is_dead)


def read_boot_id() -> str:
    """Return the identity of this boot: processes of another one are gone."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def read_mark(pid: int, agent: str) -> Mark | None:
    """Return the mark of this agent in the environment of a process, or None. Raises OSError if short of files."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as stream:
            text = b"".join(iter(lambda: stream.read(65536), b""))[:ENVIRON_LIMIT_BYTES]
    except OSError as error:
        if error.errno in _SHORT_OF:
            raise
        return None
    if f"{AGENT_VARIABLE}={agent}".encode() not in text:
        return None
    found = dict(item.partition(b"=")[::2] for item in text.split(b"\0") if item.startswith(b"HSU_"))
    if found.get(AGENT_VARIABLE.encode(), b"") != agent.encode():
        return None
    return Mark(
        found.get(INSTANCE_VARIABLE.encode(), b"").decode("utf-8", "replace"),
        found.get(RUN_VARIABLE.encode(), b"").decode("utf-8", "replace"),
    )


@dataclass(slots=True)
class Snapshot:
    """All living processes at one look, with indexes."""

    stats: dict[int, Stat] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    by_instance: dict[str, list[int]] = field(default_factory=dict)
    by_session: dict[int, list[int]] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)

    def tree(self, instance: str, leader: tuple[int, int] | None, others: Iterable[int] = ()) -> dict[int, Stat]:
        """Return the processes of an instance: marked, of the leader's session, `others`, and their descendants.

        `leader` is (pid, start time). Its session counts unless its pid has been given to somebody else.
        """
        roots = {*self.by_instance.get(instance, ()), *(pid for pid in others if pid in self.stats)}
        if leader is not None:
            present = self.stats.get(leader[0])
            if present is None or present.start_time == leader[1]:
                roots.update(self.by_session.get(leader[0], ()))
        found: dict[int, Stat] = {}
        waiting = list(roots)
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found[pid] = self.stats[pid]
                waiting += self.children.get(pid, ())
        return {pid: stat for pid, stat in found.items() if not stat.is_dead}


class Scanner:
    """Looks through /proc; remembers what it has read of processes that cannot change any more."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._known: dict[tuple[int, int], Mark | None] = {}
        self._lock = asyncio.Lock()
        self._started = 0
        self._latest = Snapshot()
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")

    def look(self) -> Snapshot:
        """Return the processes of now. Blocks for some tens of milliseconds at a thousand of them."""
        snapshot = Snapshot()
        known: dict[tuple[int, int], Mark | None] = {}
        settled_ticks = (time.clock_gettime(time.CLOCK_BOOTTIME) - SETTLED_S) * self._ticks_per_s
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            stat = read_stat(int(name), is_proof=True)
            if stat is None:
                continue
            snapshot.stats[stat.pid] = stat
            snapshot.by_session.setdefault(stat.session, []).append(stat.pid)
            snapshot.children.setdefault(stat.ppid, []).append(stat.pid)
            key = (stat.pid, stat.start_time)
            mark = self._known.get(key)
            if mark is None and key not in self._known and not stat.is_dead:
                mark = read_mark(stat.pid, self._agent)
            if mark is not None or stat.start_time < settled_ticks:
                known[key] = mark
            if mark is not None:
                snapshot.marks[stat.pid] = mark
                snapshot.by_instance.setdefault(mark.instance, []).append(stat.pid)
        self._known = known
        return snapshot

    async def fresh(self) -> Snapshot:
        """Return a look that began after this call; one look serves all that wait for it."""
        wanted = self._started + 1
        async with self._lock:
            if self._started < wanted:
                self._started += 1
                self._latest = await asyncio.to_thread(self.look)
            return self._latest
