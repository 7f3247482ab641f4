"""What workers use: read from the kernel's files, turned into rates, kept for a while.

One reading of a worker takes a few files of its cgroup and one of each of its processes, so that a thousand workers
are read in some tens of milliseconds; only the workers that somebody asks about are read.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from hsu_agent.host.cgroup import group_name
from hsu_agent.host.controllers import ControllerGroups
from hsu_agent.host.procfs import read_stat
from hsu_agent.planning.limits import Usage
from hsu_agent.planning.observed import Observed, Process
from hsu_core.model.ids import InstanceId

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

SHORTEST_RATE_S = 0.05
"""Rates over less than this say nothing: the kernel counts processor time of processes in steps of 10 ms."""

HISTORY_POINTS = 360
"""Samples kept of one worker: four minutes apart over a day, and 9 kB."""


@dataclass(frozen=True, slots=True)
class Point:
    """One sample that is kept. `at_s` is monotonic."""

    at_s: float
    cpu_percent: float
    memory_bytes: int


@dataclass(slots=True)
class _Counted:
    """Figures that only grow, of one look."""

    at_s: float
    process: Process
    cpu_s: float = 0.0
    read_bytes: int = 0
    write_bytes: int = 0
    read_ops: int = 0
    write_ops: int = 0
    largest_bytes: int = 0
    """Resident memory of the process that has the most: the group may not count what it had before it joined."""


class History:
    """Samples of one worker over its retention, thinned so that their number is bounded."""

    def __init__(self, retention_s: float) -> None:
        self.retention_s = retention_s
        self._numbers = array("d")

    def add(self, usage: Usage) -> None:
        """Keep a sample; between two that are kept lies at least a fixed part of the retention."""
        kept = self._numbers
        if not self.retention_s or (kept and usage.at_s - kept[-3] < self.retention_s / HISTORY_POINTS):
            return
        kept.extend((usage.at_s, usage.cpu_percent, usage.memory_bytes))
        while usage.at_s - kept[0] > self.retention_s or len(kept) > 3 * HISTORY_POINTS:
            del kept[:3]

    def points(self) -> tuple[Point, ...]:
        """Return what is kept, oldest first."""
        kept = self._numbers
        return tuple(Point(kept[at], kept[at + 1], int(kept[at + 2])) for at in range(0, len(kept), 3))


@dataclass(frozen=True, slots=True)
class UsageOf:
    """One worker's use: the latest sample (None: not sampled yet), and the kept ones, oldest first.

    `at_s` of samples is monotonic time.
    """

    instance: InstanceId
    latest: Usage | None
    history: tuple[Point, ...] = ()


class UsageBook:
    """Reads and remembers what the workers of this agent use. All calls are made from the event loop's thread."""

    def __init__(
        self, agent: str, groups: ControllerGroups, observed: Callable[[], Mapping[InstanceId, Observed]]
    ) -> None:
        self._groups = groups
        self._observed = observed
        unified = groups.layout.unified_folder
        self._unified = f"{unified}/hsu-{agent}" if unified else ""
        self._counted: dict[InstanceId, _Counted] = {}
        self._latest: dict[InstanceId, Usage] = {}
        self._history: dict[InstanceId, History] = {}

    def snapshot(self) -> Mapping[InstanceId, Usage]:
        """Return what every running worker uses now. Reads a thousand workers in some tens of milliseconds."""
        running = {
            instance: found.process
            for instance, found in self._observed().items()
            if found.is_alive and found.process is not None
        }
        members = self.members_of(running)
        return {
            instance: self.sample(instance, process, members[instance], is_counting_files=True)
            for instance, process in running.items()
        }

    def of(self, instance: InstanceId) -> UsageOf:
        """Return the latest sample and the history of a worker."""
        history = self._history.get(instance)
        return UsageOf(instance, self._latest.get(instance), history.points() if history is not None else ())

    def latest(self) -> Mapping[InstanceId, Usage]:
        """Return the latest sample of every worker that is sampled, without reading anything."""
        return self._latest

    def keep(self, instance: InstanceId, retention_s: float) -> None:
        """Keep a history of a worker from now on, for this long."""
        history = self._history.setdefault(instance, History(retention_s))
        history.retention_s = retention_s

    def forget(self, instance: InstanceId) -> None:
        """Drop what is known of a worker."""
        for book in (self._counted, self._latest, self._history):
            book.pop(instance, None)

    def members_of(self, processes: Mapping[InstanceId, Process]) -> dict[InstanceId, list[int]]:
        """Return the processes of each worker: of its cgroup, else of its session by one look through /proc."""
        found = {instance: self._members(instance, process) for instance, process in processes.items()}
        if all(pids is not None for pids in found.values()):
            return {instance: pids for instance, pids in found.items() if pids is not None}
        sessions = _sessions()
        return {
            instance: sessions.get(processes[instance].pid, [processes[instance].pid]) if pids is None else pids
            for instance, pids in found.items()
        }

    def _members(self, instance: InstanceId, process: Process) -> list[int] | None:
        if not self._unified or not process.is_enrolled:
            return None  # its first children may be outside of its group
        try:
            pids = [int(pid) for pid in _read(f"{self._unified}/{group_name(instance)}/cgroup.procs").split()]
        except (OSError, ValueError):
            return None
        return pids if process.pid in pids else None

    def sample(
        self,
        instance: InstanceId,
        process: Process,
        pids: Iterable[int],
        *,
        is_counting_files: bool = False,
        is_counting_sockets: bool = False,
    ) -> Usage:
        """Read what a worker uses now, remember it, and return it."""
        now_s = time.monotonic()
        before = self._counted.get(instance)
        if before is not None and before.process != process:
            before = None
        if before is not None and now_s - before.at_s < SHORTEST_RATE_S and instance in self._latest:
            return self._latest[instance]
        counted, usage = _Counted(now_s, process), Usage(now_s)
        for pid in pids:
            usage = _add_process(usage, counted, pid)
            if is_counting_files or is_counting_sockets:
                usage = _add_files(usage, pid, is_counting_sockets)
        figures = self._groups.figures(instance)
        cpu_s = counted.cpu_s
        counted.cpu_s = self._group_cpu_s(instance, figures.cpu_s) or cpu_s
        usage = replace(
            usage,
            cpu_s=cpu_s,
            memory_bytes=max(figures.memory_bytes, counted.largest_bytes)
            if figures.memory_bytes is not None
            else usage.memory_bytes,
            threads=usage.threads if figures.processes is None else figures.processes,
            read_bytes=counted.read_bytes,
            write_bytes=counted.write_bytes,
        )
        usage = _with_rates(usage, counted, before)
        if before is None and process.started_at:
            usage = replace(usage, cpu_percent=100 * cpu_s / max(0.5, time.time() - process.started_at))
        self._counted[instance], self._latest[instance] = counted, usage
        if (history := self._history.get(instance)) is not None:
            history.add(usage)
        return usage

    def _group_cpu_s(self, instance: InstanceId, seconds: float | None) -> float | None:
        """Return the processor time that a group has counted: exact, and with processes that have ended."""
        if seconds is not None or not self._unified:
            return seconds
        with contextlib.suppress(OSError, ValueError, IndexError):
            first = _read(f"{self._unified}/{group_name(instance)}/cpu.stat").split(maxsplit=2)
            return int(first[1]) / 1e6 if first[0] == b"usage_usec" else None
        return None


def _add_process(usage: Usage, counted: _Counted, pid: int) -> Usage:
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
        cpu_ticks = sum(int(number) for number in fields[11:15])  # its own and those of children it has waited for
    except (OSError, ValueError):
        return usage  # it has ended
    counted.cpu_s += cpu_ticks / TICKS_PER_S
    with contextlib.suppress(OSError, ValueError):  # another user's: needs more rights than to see it
        numbers = dict(line.split(b": ") for line in _read(f"/proc/{pid}/io").splitlines())
        counted.read_bytes += int(numbers[b"read_bytes"])
        counted.write_bytes += int(numbers[b"write_bytes"])
        counted.read_ops += int(numbers[b"syscr"])
        counted.write_ops += int(numbers[b"syscw"])
    resident_bytes = int(fields[21]) * PAGE_BYTES
    counted.largest_bytes = max(counted.largest_bytes, resident_bytes)
    return replace(
        usage,
        processes=usage.processes + 1,
        threads=usage.threads + int(fields[17]),
        virtual_bytes=max(usage.virtual_bytes, int(fields[20])),
        memory_bytes=usage.memory_bytes + resident_bytes,
    )


def _add_files(usage: Usage, pid: int, is_counting_sockets: bool) -> Usage:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return usage
    usage = replace(usage, descriptors=max(usage.descriptors or 0, len(names)))
    if not is_counting_sockets:
        return usage
    sockets = 0
    for name in names:
        with contextlib.suppress(OSError):
            sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
    return replace(usage, connections=(usage.connections or 0) + sockets)


def _with_rates(usage: Usage, now: _Counted, before: _Counted | None) -> Usage:
    """Return the sample with rates since the one before; a counter that fell back (a process ended) counts 0."""
    if before is None:
        return usage
    passed_s = max(now.at_s - before.at_s, SHORTEST_RATE_S)
    return replace(
        usage,
        cpu_percent=100 * max(0.0, now.cpu_s - before.cpu_s) / passed_s,
        read_bps=max(0, now.read_bytes - before.read_bytes) / passed_s,
        write_bps=max(0, now.write_bytes - before.write_bytes) / passed_s,
        read_ops=max(0, now.read_ops - before.read_ops) / passed_s,
        write_ops=max(0, now.write_ops - before.write_ops) / passed_s,
    )


def _sessions() -> dict[int, list[int]]:
    """Return the processes of the machine by session."""
    found: dict[int, list[int]] = {}
    names: list[str] = []
    with contextlib.suppress(OSError):  # short of descriptors: the first process of each worker has to do
        names = os.listdir("/proc")
    for name in names:
        if name.isdigit() and (stat := read_stat(int(name))) is not None and not stat.is_dead:
            found.setdefault(stat.session, []).append(stat.pid)
    return found


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
