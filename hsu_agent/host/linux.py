"""Processes on Linux: vfork + exec, pidfd for every exit and signal, whole trees by cgroup and /proc.

A pid is never trusted alone: identity is (boot id, pid, start time), verified after the pidfd is open, and
every signal goes through that pidfd. That a tree is empty is proven in one of two ways:
 - its cgroup is unpopulated, and its first process had no child yet when it was put into the cgroup (so
   nothing can have slipped out before);
 - or a look through /proc that began after the last kill shows no process with its mark, session or cgroup,
   nor a descendant of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from hsu_agent.host import exits
from hsu_agent.host.base import Found, Launch, OnExit, instance_of, marker
from hsu_agent.host.cgroup import CgroupTree
from hsu_agent.host.procfs import Scanner, Snapshot, Stat, read_boot_id, read_stat
from hsu_agent.host.starting import start_process
from hsu_agent.host.unsupported import refuse_host
from hsu_agent.planning.observed import Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import Capacity

log = logging.getLogger(__name__)

_PROCESS_GROUP = 1 << 2
"""PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9: the group of the process behind the pidfd, with no race."""

_NEWER_LIMIT = 64
"""Most processes made elsewhere meanwhile that are looked at one by one; above that the tree is looked for."""

_REAP_BUDGET_S = 0.005
"""Longest that ended processes are reaped in one go."""

_EXIT_RETRIES_S = (0.005, 0.02, 0.05, 0.1, 0.2)
"""Waits for the exit code of a process that somebody else reaps (the keeper does within a millisecond)."""

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.5
"""Waits between looks at a tree that has been killed; a process in the kernel's `D` state can take long."""

_STUBBORN_S = 10.0
"""After this long a tree that does not end is worth a warning."""


@dataclass(slots=True)
class _Watched:
    instance: InstanceId
    process: Process
    pidfd: int
    on_exit: OnExit


class LinuxHost:
    """The `Host` of Linux. `agent` is the identity that marks our processes; `data_dir` has the keeper's record."""

    def __init__(self, *, agent: str, data_dir: Path, worker_files_limit: tuple[int, int] | None = None) -> None:
        if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
            raise refuse_host()
        self.boot_id = read_boot_id()
        self.os = "linux"
        self.arch = platform.machine()
        self._data_dir = data_dir
        self._files_limit = worker_files_limit
        self._cgroups = CgroupTree.open(agent)
        self._scanner = Scanner(agent)
        self._watched: dict[int, _Watched] = {}
        self._born: dict[int, int] = {}
        self._ended_pids: deque[int] = deque()
        self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._is_closed = False

    def group_of(self, instance: InstanceId) -> str:
        """Make the cgroup of an instance and return its path. Raises OSError."""
        if self._cgroups is None:
            raise OSError("this host has no cgroup.kill for the agent")
        return self._cgroups.make(instance)

    @property
    def has_cgroups(self) -> bool:
        """Return whether each instance gets a cgroup."""
        return self._cgroups is not None

    def capacity(self) -> Capacity:
        """Return processors and memory of the machine."""
        return Capacity((psutil.cpu_count() or 1) * 1000, int(psutil.virtual_memory().total))

    def spawn(self, launch: Launch) -> Process:
        """Start a process in a session of its own. Raises ProcessError."""
        at = time.time()
        try:
            started = start_process(
                launch.argv,
                executable=launch.executable,
                environment=launch.environment,
                directory=launch.working_directory,
                stdout=launch.stdout,
                stderr=launch.stderr,
                attributes=launch.attributes,
                identity=launch.identity,
                guarded_by=None if launch.guarded_by is None else (launch.guarded_by.group, launch.guarded_by.until_s),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise _spawn_error(launch, error) from error
        try:
            self._born[started.pid] = os.pidfd_open(started.pid)
        except OSError as error:
            os.kill(started.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
            os.waitpid(started.pid, 0)
            raise _spawn_error(launch, error) from error
        stat = read_stat(started.pid)
        process = Process(started.pid, stat.start_time if stat else 0, self.boot_id, launch.run, at)
        is_in = self._cgroups is not None and self._cgroups.enrol(launch.instance, process.pid)
        if is_in and (launch.guarded_by is not None or self._was_first_in(process.pid)):
            process = replace(process, is_enrolled=True)
        if self._files_limit is not None:
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, self._files_limit)
        return process

    def _was_first_in(self, pid: int) -> bool:
        """Return whether it is proven that a process made no child before now.

        Numbers are given in order, so a child would have one between `pid` and the newest. Whoever has one of
        these and is a child of the process, or of those to whom its orphans fall, may be its descendant.
        """
        newest = self._last_pid()
        if not pid <= newest <= pid + _NEWER_LIMIT:
            return False
        parents = {pid, os.getpid(), os.getppid(), 1}
        try:
            newer = [read_stat(number, is_proof=True) for number in range(pid + 1, newest + 1)]
        except OSError:
            return False
        return not any(stat is not None and (stat.ppid in parents or stat.session == pid) for stat in newer)

    def _last_pid(self) -> int:
        """Return the number given to the newest process or thread of the machine."""
        with contextlib.suppress(OSError, ValueError):
            return int(os.pread(self._load, 128, 0).split()[-1])
        return 0

    def watch(self, instance: InstanceId, process: Process, on_exit: OnExit) -> bool:
        """Call `on_exit` once when the process ends; False if it is not there any more."""
        if process.boot_id != self.boot_id:
            return False
        try:
            pidfd = self._born.pop(process.pid, -1)
            pidfd = pidfd if pidfd >= 0 else os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise ProcessError(
                f"watch process {process.pid} of {instance}",
                str(error),
                "raise the limit of open files of the agent (ulimit -n, LimitNOFILE=)",
                code="process.watch",
            ) from error
        stat = read_stat(process.pid)
        if stat is None or stat.start_time != process.start_time:
            os.close(pidfd)
            return False
        self._watched[process.pid] = _Watched(instance, process, pidfd, on_exit)
        asyncio.get_running_loop().add_reader(pidfd, self._note_end, process.pid)
        return True

    def _note_end(self, pid: int) -> None:
        """Queue an ended process: a thousand at once must not keep the loop for a tenth of a second."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._watched[pid].pidfd)
        if not self._ended_pids:
            loop.call_soon(self._reap_ended)
        self._ended_pids.append(pid)

    def _reap_ended(self) -> None:
        started_s = time.monotonic()
        try:
            while self._ended_pids and not self._is_closed and time.monotonic() - started_s <= _REAP_BUDGET_S:
                watched = self._watched.get(self._ended_pids.popleft())
                if watched is not None:
                    self._reap(watched)
        finally:  # also when what is told of one end fails: the others are told
            if self._ended_pids and not self._is_closed:
                asyncio.get_running_loop().call_soon(self._reap_ended)

    def _reap(self, watched: _Watched) -> None:
        at = time.time()
        if watched.process.is_foreign:
            self._deliver(watched, LastExit(at=at, reason="ended: how, only its parent knows"))
            return
        last_exit = exits.reap_child(watched.process.pid, at)
        if last_exit is not None:
            self._deliver(watched, last_exit)
        else:
            self._ask_exit(watched, at, 0)

    def _ask_exit(self, watched: _Watched, at: float, attempt: int) -> None:
        """Find out how a process ended that the keeper (or init) reaps."""
        if self._is_closed:
            return
        process = watched.process
        last_exit = exits.read_kernel(watched.pidfd, at) or self.exit_of(process)
        if last_exit is None and attempt < len(_EXIT_RETRIES_S):
            loop = asyncio.get_running_loop()
            loop.call_later(_EXIT_RETRIES_S[attempt], self._ask_exit, watched, at, attempt + 1)
            return
        unknown = LastExit(at=at, reason="ended while it was nobody's child: its exit code is not known")
        self._deliver(watched, last_exit or unknown)

    def _deliver(self, watched: _Watched, last_exit: LastExit) -> None:
        os.close(watched.pidfd)
        if self._watched.get(watched.process.pid) is watched:  # its number may be another process by now
            del self._watched[watched.process.pid]
        watched.on_exit(last_exit)

    def unwatch(self, process: Process) -> None:
        """Tell nobody of the end of this process any more."""
        watched = self._watched.get(process.pid)
        if watched is not None and watched.process == process:
            asyncio.get_running_loop().remove_reader(watched.pidfd)
            os.close(watched.pidfd)
            del self._watched[process.pid]

    def exit_of(self, process: Process) -> LastExit | None:
        """Return how an earlier process ended, from the keeper's record."""
        return exits.read_keeper(self._data_dir, process.pid, process.start_time)

    def signal(self, process: Process, name: str) -> bool:
        """Send a signal to the process group of a watched process; False if it has ended."""
        try:
            number = signal.Signals[name]
        except KeyError:
            raise ProcessError(
                f"send {name!r} to process {process.pid}", "there is no such signal", "write for example SIGTERM"
            ) from None
        watched = self._watched.get(process.pid)
        if watched is None or watched.process.start_time != process.start_time:
            return False
        try:
            if process.is_foreign:
                signal.pidfd_send_signal(watched.pidfd, number)
            else:
                _signal_group(watched.pidfd, process.pid, number)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise ProcessError(f"send {name} to process {process.pid}", str(error), code="process.signal") from error
        return True

    def is_tree_empty(self, instance: InstanceId, process: Process) -> bool:
        """Return True only if it is proven at once that no process of the instance is left."""
        if process.is_foreign:
            return process.pid not in self._watched
        if self._cgroups is None or not process.is_enrolled or process.pid in self._watched:
            return False
        return self._cgroups.is_proven_empty(instance)

    async def end_tree(self, instance: InstanceId, process: Process | None) -> None:
        """Kill every process of the instance; return when none is left."""
        pause_s, started_s, is_told = _FIRST_PAUSE_S, time.monotonic(), False
        if process is not None and process.is_foreign:
            await _end_single(process, self.boot_id)
            return
        while True:
            if self._cgroups is not None:
                self._cgroups.kill(instance)
            members = self._members(await self._scanner.fresh(), instance, process)
            for stat in members.values():
                _kill(stat)
            if not members and not (self._cgroups is not None and self._cgroups.is_populated(instance)):
                return
            if not is_told and time.monotonic() - started_s > _STUBBORN_S:
                is_told = True
                log.warning("processes of %s do not end although killed: %s", instance, sorted(members))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _members(self, snapshot: Snapshot, instance: InstanceId, process: Process | None) -> dict[int, Stat]:
        leader = (process.pid, process.start_time) if process and process.boot_id == self.boot_id else None
        others = self._cgroups.members(instance) if self._cgroups is not None else ()
        members = snapshot.tree(marker(instance), leader, others)
        members.pop(os.getpid(), None)
        return members

    def find_marked(self) -> list[Found]:
        """Return all processes that carry this agent's mark."""
        snapshot = self._scanner.look()
        found: list[Found] = []
        for pid, mark in snapshot.marks.items():
            stat, instance = snapshot.stats[pid], instance_of(mark.instance)
            if instance is not None and not stat.is_dead and pid != os.getpid():
                process = Process(pid, stat.start_time, self.boot_id, mark.run, _wall_time(stat.start_time))
                found.append(Found(instance, process, stat.session == pid))
        return sorted(found, key=lambda item: (item.process.start_time, item.process.pid))

    def release(self, instance: InstanceId) -> None:
        """Remove the cgroup of an instance that is forgotten."""
        if self._cgroups is not None:
            self._cgroups.remove(instance)

    def close(self) -> None:
        """Stop watching; processes run on."""
        self._is_closed = True
        loop = asyncio.get_running_loop()
        for watched in self._watched.values():
            loop.remove_reader(watched.pidfd)
            os.close(watched.pidfd)
        self._watched.clear()
        os.close(self._load)
        if self._cgroups is not None:
            self._cgroups.close()


async def _end_single(process: Process, boot_id: str) -> None:
    """Kill one process and nothing else; return when it is gone."""
    pause_s = _FIRST_PAUSE_S
    while process.boot_id == boot_id:
        found = read_stat(process.pid)
        if found is None or found.is_dead or found.start_time != process.start_time:
            return
        _kill(found)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _wall_time(start_time: int) -> float:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start_time / ticks_per_s


def _signal_group(pidfd: int, pid: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number, None, _PROCESS_GROUP)
    except ProcessLookupError:
        raise
    except OSError:
        # older kernel: the process is still there (signal 0 through the pidfd), so its group is still its own
        signal.pidfd_send_signal(pidfd, 0)
        os.killpg(pid, number)


def _kill(stat: Stat) -> None:
    """Kill a process, if it is still the one that was seen."""
    try:
        pidfd = os.pidfd_open(stat.pid)
    except OSError:
        return
    try:
        present = read_stat(stat.pid)
        if present is not None and present.start_time == stat.start_time:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _spawn_error(launch: Launch, error: Exception) -> ProcessError:
    fixes: dict[type[Exception], str] = {
        PermissionError: "make it executable for the agent's user (chmod +x)",
        FileNotFoundError: "check the path and, for a script, its first line (#!)",
        BlockingIOError: "raise the limit of processes (ulimit -u, TasksMax=, pids.max)",
    }
    fix = fixes.get(type(error), "check that it is a program for this machine")
    why = getattr(error, "strerror", None) or str(error)
    return ProcessError(f"start {launch.executable}", why, fix, code="process.spawn")
