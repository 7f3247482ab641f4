"""A cgroup v2 for each instance, where the host lets us: kill and proof of emptiness in one file each.

Only the core files (`cgroup.procs`, `cgroup.kill`, `cgroup.events`) are used, so the hybrid layout with a
controller-less `unified` mount serves as well. Where there is none, `/proc` alone has to do.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hsu_core.model.ids import InstanceId

SUPERVISOR = "hsu-supervisor"
"""Where keeper and agent stand on cgroup v2 when their own cgroup has to hand controllers to those below it."""


def find_mount(mountinfo: str) -> Path | None:
    """Return where cgroup2 is mounted, from the text of /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        if dash and right.split()[:1] == ["cgroup2"]:
            return Path(left.split()[4])
    return None


def own_path(cgroup: str) -> str:
    """Return the path of a process in the unified tree, from the text of /proc/PID/cgroup."""
    for line in cgroup.splitlines():
        if line.startswith("0::"):
            return line[3:].removesuffix(f"/{SUPERVISOR}")
    return ""


def group_name(instance: InstanceId) -> str:
    """Return the name of the cgroup of an instance, the same in every tree."""
    return f"{instance.namespace}:{instance.app}:{instance.worker}.{instance.slot}"


class CgroupTree:
    """One folder per instance below the agent's own cgroup. All calls cost microseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[InstanceId] = set()

    @classmethod
    def open(cls, agent: str) -> CgroupTree | None:
        """Return the tree of this agent, or None where no cgroup can be made or killed."""
        try:
            mount = find_mount(Path("/proc/self/mountinfo").read_text())
            if mount is None:
                return None
            own = own_path(Path("/proc/self/cgroup").read_text())
            # the keeper and a former agent may stand in a sibling of ours: always start at the same place
            folder = mount / own.strip("/") / f"hsu-{agent}"
            folder.mkdir(exist_ok=True)
            if not (folder / "cgroup.kill").exists():
                folder.rmdir()
                return None
            return cls(folder)
        except OSError:
            return None

    def _path(self, instance: InstanceId) -> str:
        return f"{self._folder}/{group_name(instance)}"

    def make(self, instance: InstanceId) -> str:
        """Make the cgroup of an instance, if it is not there, and return its path. Raises OSError."""
        path = self._path(instance)
        if instance not in self._made:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            self._made.add(instance)
        return path

    def enrol(self, instance: InstanceId, pid: int) -> bool:
        """Put a process into the cgroup of its instance; return whether it is in."""
        try:
            path = self.make(instance)
            _write(f"{path}/cgroup.procs", str(pid).encode())
            return True
        except OSError:
            return False

    def is_populated(self, instance: InstanceId) -> bool:
        """Return whether a process is in the cgroup (True also when that cannot be read)."""
        try:
            return b"populated 0" not in _read(f"{self._path(instance)}/cgroup.events")
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def is_proven_empty(self, instance: InstanceId) -> bool:
        """Return True only if the cgroup of the instance is there and says that it holds no process."""
        try:
            return b"populated 0" in _read(f"{self._path(instance)}/cgroup.events")
        except OSError:
            return False

    def members(self, instance: InstanceId) -> list[int]:
        """Return the processes in the cgroup."""
        try:
            return [int(pid) for pid in _read(f"{self._path(instance)}/cgroup.procs").split()]
        except OSError:
            return []

    def kill(self, instance: InstanceId) -> None:
        """Kill all processes of the cgroup at once, forks under way included."""
        with contextlib.suppress(OSError):
            _write(f"{self._path(instance)}/cgroup.kill", b"1")

    def remove(self, instance: InstanceId) -> None:
        """Remove the cgroup of an instance that has no process."""
        self._made.discard(instance)
        with contextlib.suppress(OSError):
            os.rmdir(self._path(instance))

    def close(self) -> None:
        """Remove the agent's folder if nothing is left below it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _write(path: str, payload: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, payload)
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
