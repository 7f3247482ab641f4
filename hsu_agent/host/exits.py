"""How processes ended that were not our children: the keeper's record, or the kernel's (Linux 6.15 and newer)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
from pathlib import Path

from hsu_core.model.assignment import LastExit

EXITS_FILE = "exits.jsonl"
"""Written by the keeper into the agent's data folder, one line a reaped process."""

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes), include/uapi/linux/pidfd.h
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_OFFSET = 60  # __s32 exit_code after mask, cgroupid and eleven 32-bit identities
_TAIL_BYTES = 256 * 1024
"""Part of the record that is read: about two thousand exits, more than one keeper sees between two agents."""


def exit_of_status(status: int, at: float, cpu_s: float | None = None, max_rss_bytes: int | None = None) -> LastExit:
    """Return the exit that a wait status stands for."""
    if os.WIFSIGNALED(status):
        name = signal_name(os.WTERMSIG(status))
        return LastExit(signal=name, at=at, cpu_s=cpu_s, max_rss_bytes=max_rss_bytes)
    return LastExit(os.WEXITSTATUS(status), at=at, cpu_s=cpu_s, max_rss_bytes=max_rss_bytes)


def reap_child(pid: int, at: float) -> LastExit | None:
    """Return how our child ended, None if it is not ours. It has ended: its pidfd has said so."""
    try:
        found, status, used = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if not found:
        return None
    return exit_of_status(status, at, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def signal_name(number: int) -> str:
    """Return SIGKILL for 9; real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_keeper(data_dir: Path, pid: int, start_time: int) -> LastExit | None:
    """Return what the keeper wrote about a process, or None."""
    try:
        with open(data_dir / EXITS_FILE, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return None
    mark = b'"pid": %d,' % pid
    for line in reversed(lines):
        if mark in line:
            try:
                record = json.loads(line)
                if record["start"] == start_time:
                    used = record.get("cpu"), record.get("rss")  # an older keeper has not written them
                    return exit_of_status(int(record["status"]), float(record["at"]), *used)
            except (ValueError, KeyError, TypeError):
                continue
    return None


def read_kernel(pidfd: int, at: float) -> LastExit | None:
    """Return what the kernel keeps of a reaped process behind `pidfd`, or None (not reaped yet, older kernel)."""
    buffer = bytearray(64)
    struct.pack_into("=Q", buffer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    if not struct.unpack_from("=Q", buffer, 0)[0] & _PIDFD_INFO_EXIT:
        return None
    return exit_of_status(struct.unpack_from("=i", buffer, _EXIT_OFFSET)[0], at)
