"""Finding a process that somebody else started: by pid file, name, port or systemd unit. Blocks: call it in a thread.

A number that is found is never taken on trust: a pid file is believed only if its process is older than the file and
the file's owner may speak for it, and an ambiguous answer is none.
"""

from __future__ import annotations

import os
import shutil
import stat as modes
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from hsu_agent.host.procfs import Stat, read_mark, read_stat
from hsu_agent.planning.observed import Process
from hsu_core.model.unmanaged import Discovery, UnmanagedSpec

PID_FILE_LIMIT_BYTES = 64
CLOCK_MARGIN_S = 1.0
"""Start times of processes are known to a hundredth of a second, times of files to less, and clocks are set."""

SYSTEMCTL_S = 5.0
"""Longest wait for an answer of systemd."""

NAME_LIMIT = 15
"""Longest name of a process that the kernel keeps (TASK_COMM_LEN without its NUL)."""


class NotFoundHere(Exception):
    """There is no such process, or not just one; the text says why."""


@dataclass(frozen=True, slots=True)
class Finder:
    """Looks for processes on this host. `agent` is the mark of our own workers, which are never taken."""

    boot_id: str
    agent: str

    def find(self, spec: UnmanagedSpec) -> Process:
        """Return the one process that the discovery means. Raises NotFoundHere."""
        if spec.method is Discovery.PID_FILE:
            pid = self._of_pid_file(Path(spec.pid_file), spec.process_name)
        elif spec.method is Discovery.PROCESS_NAME:
            pid = self._single(_with_name(spec.process_name, spec.process_args), spec)
        elif spec.method is Discovery.PORT:
            pid = self._single(_with_port(spec.port, spec.protocol), spec)
        else:
            pid = _of_service(spec.service_name)
        return self._process(pid, spec)

    def _process(self, pid: int, spec: UnmanagedSpec) -> Process:
        found = read_stat(pid)
        if found is None or found.is_dead:
            raise NotFoundHere(f"{spec.described} names process {pid}, which is not there")
        if pid in (1, os.getpid(), os.getppid()):
            raise NotFoundHere(f"{spec.described} names process {pid}, which is the agent's own or init")
        mark = self._owner_among_us(pid)
        if mark:
            raise NotFoundHere(f"{spec.described} names process {pid}, which belongs to our worker {mark}")
        started_at = _started_at(found)
        run = f"found-{pid:x}-{found.start_time:x}"
        return Process(pid, found.start_time, self.boot_id, run, started_at, is_foreign=True)

    def _owner_among_us(self, pid: int) -> str:
        try:
            mark = read_mark(pid, self.agent)
        except OSError as error:
            raise NotFoundHere(f"whose process {pid} is cannot be read: {error}") from error
        return mark.instance if mark is not None else ""

    def _of_pid_file(self, path: Path, name: str) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundHere(f"pid file {path}: {(error.strerror or str(error)).lower()}") from error
        try:
            about = os.fstat(descriptor)
            if not modes.S_ISREG(about.st_mode):
                raise NotFoundHere(f"pid file {path} is no plain file")
            text = os.read(descriptor, PID_FILE_LIMIT_BYTES).split()
        finally:
            os.close(descriptor)
        if not text or not text[0].isdigit():
            raise NotFoundHere(f"pid file {path} holds no number")
        pid = int(text[0])
        found = read_stat(pid)
        if found is None or found.is_dead:
            raise NotFoundHere(f"pid file {path} is stale: there is no process {pid}")
        if _started_at(found) > about.st_mtime + CLOCK_MARGIN_S:
            raise NotFoundHere(f"pid file {path} is stale: process {pid} is younger than the file, so it is a stranger")
        _check_owner(path, about, pid)
        if name and not _has_name(pid, name):
            raise NotFoundHere(f"pid file {path} names process {pid}, which is not {name}")
        return pid

    def _single(self, pids: Iterable[int], spec: UnmanagedSpec) -> int:
        """Return the only process that is not a child of another one of these."""
        stats = {pid: found for pid in pids if (found := read_stat(pid)) is not None and not found.is_dead}
        own = {1, os.getpid(), os.getppid()}
        heads = [
            pid
            for pid, found in stats.items()
            if found.ppid not in stats and pid not in own and not self._owner_among_us(pid)
        ]
        if not heads:
            raise NotFoundHere(f"no process is found by {spec.described}")
        if len(heads) > 1:
            shown = ", ".join(map(str, sorted(heads)[:8]))
            raise NotFoundHere(f"{len(heads)} processes are found by {spec.described} ({shown}): say which is meant")
        return heads[0]


def _started_at(found: Stat) -> float:
    boot_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_at + found.start_time / os.sysconf("SC_CLK_TCK")


def _check_owner(path: Path, about: os.stat_result, pid: int) -> None:
    """Raise NotFoundHere if the file's owner could not end the process himself: he must not have us do it."""
    try:
        process_owner = os.stat(f"/proc/{pid}").st_uid
    except OSError as error:
        raise NotFoundHere(f"pid file {path} is stale: there is no process {pid}") from error
    if about.st_uid not in (0, os.geteuid(), process_owner):
        raise NotFoundHere(f"pid file {path} belongs to user {about.st_uid}, who is not the owner of process {pid}")
    if about.st_mode & modes.S_IWOTH:
        raise NotFoundHere(f"pid file {path} can be written by everybody: it is not believed")


def _command(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in text.rstrip(b"\0").split(b"\0")] if text else []


def _has_name(pid: int, name: str) -> bool:
    """Return whether a process is called so: by the kernel, by its file, or by the first word of its command."""
    try:
        if Path(f"/proc/{pid}/comm").read_text(errors="replace").strip() == name[:NAME_LIMIT]:
            return True
        if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == os.path.basename(name):
            return True
    except OSError:
        pass  # it ended, or is another user's
    command = _command(pid)
    return bool(command) and os.path.basename(command[0]) == os.path.basename(name)


def _with_name(name: str, arguments: Iterable[str]) -> list[int]:
    wanted = list(arguments)
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    named = [pid for pid in pids if _has_name(pid, name)]
    return [pid for pid in named if not wanted or all(each in _command(pid)[1:] for each in wanted)]


def _with_port(port: int, protocol: str) -> set[int]:
    """Return who listens on a port. Sockets of other users are seen by root alone."""
    try:
        found = psutil.net_connections(kind=protocol)
    except (psutil.Error, OSError) as error:
        raise NotFoundHere(f"who listens on {protocol} port {port} cannot be read: {error}") from error
    is_open = (psutil.CONN_LISTEN, psutil.CONN_NONE)
    mine = [each for each in found if each.laddr and each.laddr.port == port and each.status in is_open]
    if mine and not any(each.pid for each in mine):
        raise NotFoundHere(f"{protocol} port {port} is open, but whose it is only root can see")
    return {each.pid for each in mine if each.pid}


def _of_service(name: str) -> int:
    program = shutil.which("systemctl")
    if program is None:
        raise NotFoundHere(f"service {name}: this host has no systemctl")
    command = [program, "show", "--property=MainPID", "--value", "--", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFoundHere(f"service {name}: systemctl gives no answer: {error}") from error
    text = done.stdout.strip()
    if done.returncode != 0 or not text.isdigit():
        raise NotFoundHere(f"service {name}: {(done.stderr.strip() or text or 'systemctl says nothing')[:200]}")
    if text == "0":
        raise NotFoundHere(f"service {name} has no process")
    return int(text)
