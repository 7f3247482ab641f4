"""The kernel's controllers of this host: where each is, and a group for every worker that has limits.

Each controller is looked for by itself, for hosts mix both versions: a v2 tree that has it and lets us hand it
down, else a v1 mount. Every worker's group is below `hsu-<agent>` in the agent's own group, so all that holds for
the agent holds for its workers. Which text goes where is in `controllers_v1` and `controllers_v2`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hsu_agent.host import controllers_v1 as v1
from hsu_agent.host import controllers_v2 as v2
from hsu_agent.host.cgroup import SUPERVISOR, find_mount, group_name, own_path
from hsu_core.model.enforcement import Controller, HostLayout, needed_controllers
from hsu_core.model.ids import InstanceId
from hsu_core.model.limits import LimitsSpec

log = logging.getLogger(__name__)

NAMES = ("memory", "cpu", "cpuacct", "io", "pids")


def describe_host(data_dir: Path) -> HostLayout:
    """Return what this host can hold limits with. Reads only; `data_dir` tells which disk is meant."""
    try:
        mountinfo, cgroup = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    except OSError as error:
        why = f"/proc cannot be read: {error.strerror}"
        return HostLayout(missing=tuple((name, why) for name in NAMES), disk_reason=why)
    found, missing = dict[str, Controller](), dict[str, str]()
    unified = find_mount(mountinfo)
    base = unified / own_path(cgroup).strip("/") if unified is not None else None
    if base is not None:
        _look_v2(base, found, missing)
    _look_v1(mountinfo, cgroup, found, missing)
    disk, disk_reason = disk_of(data_dir)
    return HostLayout(
        controllers=tuple(sorted(found.items())),
        missing=tuple(sorted((name, why) for name, why in missing.items() if name not in found)),
        unified_folder=str(base) if base is not None else "",
        disk=disk,
        disk_reason=disk_reason,
        is_privileged=os.geteuid() == 0,
    )


def _look_v2(base: Path, found: dict[str, Controller], missing: dict[str, str]) -> None:
    try:
        present = (base / "cgroup.controllers").read_text().split()
    except OSError:
        return
    is_writable = os.access(base / "cgroup.subtree_control", os.W_OK) and os.access(base, os.W_OK)
    for name in present:
        if name not in NAMES:
            continue
        if is_writable:
            features = {"swap"} if Path("/proc/swaps").exists() else set()
            features |= {"weight"} if list(base.parent.glob("*/io.weight")) or (base / "io.weight").exists() else set()
            found[name] = Controller(2, str(base), frozenset(features))
        else:
            missing[name] = f"{base} is not delegated to this user (systemd: Delegate=yes)"


def _look_v1(mountinfo: str, cgroup: str, found: dict[str, Controller], missing: dict[str, str]) -> None:
    own = dict[str, str]()
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        own |= dict.fromkeys(names.split(","), path)
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = [*right.split(" ", 2), "", "", ""][:3]
        if kind != "cgroup":
            continue
        root, mount = left.split()[3:5]
        for theirs in options.split(","):
            name = v1.MOUNTS.get(theirs)
            if name is None or name in found:
                continue
            inside = own.get(theirs, "/")
            folder = Path(mount, (inside.removeprefix(root) if root != "/" else inside).strip("/"))
            if not os.access(folder, os.W_OK):
                missing[name] = f"{folder} cannot be written by this user"
                continue
            features = {"swap"} if (folder / "memory.memsw.limit_in_bytes").exists() else set()
            features |= {"weight"} if (folder / "blkio.bfq.weight").exists() else set()
            found[name] = Controller(1, str(folder), frozenset(features))


def disk_of(path: Path) -> tuple[str, str]:
    """Return the number of the disk (not the partition) that holds a folder, or empty and the reason."""
    try:
        device = path.stat().st_dev
    except OSError as error:
        return "", f"{path}: {error.strerror}"
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = Path("/sys/dev/block", number)
    if not os.major(device) or not entry.exists():
        return "", f"{path} is not on a disk of its own number (a network, memory or layered file system)"
    if (entry / "partition").exists():
        number = (entry.resolve().parent / "dev").read_text().strip()
    return number, ""


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What the groups of a worker say; None where there is no such group. Bytes, seconds, counts."""

    memory_bytes: int | None = None
    cpu_s: float | None = None
    processes: int | None = None


class ControllerGroups:
    """Makes, sets, reads and removes the groups of this agent's workers. All calls cost microseconds."""

    def __init__(self, agent: str, layout: HostLayout) -> None:
        self._agent = agent
        self.layout = layout
        self._made: dict[InstanceId, frozenset[str]] = {}
        self._refused: set[str] = set()
        self._left = self._names_left()

    def path(self, name: str, instance: InstanceId) -> str | None:
        """Return the folder of a worker's group under a controller, or None if there is no such controller."""
        controller = self.layout.controller(name)
        if controller is None or name in self._refused:
            return None
        return f"{controller.folder}/hsu-{self._agent}/{group_name(instance)}"

    def apply(self, instance: InstanceId, limits: LimitsSpec, factor: float = 1.0, disk: str = "") -> list[str]:
        """Set the limits of a worker; return what could not be set, as sentences.

        Groups are made where they are needed and missing; limits that are gone are set free.
        """
        needed = frozenset(name for name in needed_controllers(limits) if self._make(name, instance))
        names = needed | self._made.get(instance, frozenset())
        if not names:
            return []
        self._made[instance] = names
        disk = disk or self.layout.disk
        faults: list[str] = []
        for name, file, text in self._settings(limits, disk, factor):
            path = self.path(name, instance)
            if name not in names or path is None:
                continue
            try:
                _write(f"{path}/{file}", text)
            except FileNotFoundError:
                continue  # this kernel has no such setting, which `enforcement` tells of
            except OSError as error:
                if not _is_harmless(file, text, error):
                    faults.append(f"{file} is not set to {text}: {error.strerror}")
        return faults

    def _settings(self, limits: LimitsSpec, disk: str, factor: float) -> Iterable[v1.Setting]:
        for version, words in ((1, v1.settings), (2, v2.settings)):
            for setting in words(limits, disk, factor):
                controller = self.layout.controller(setting[0])
                if controller is not None and controller.version == version:
                    yield setting

    def _names_left(self) -> set[str]:
        """Return the names of groups on v1 that an earlier agent left."""
        found: set[str] = set()
        for _, controller in self.layout.controllers:
            if controller.version == 1:
                with contextlib.suppress(OSError), os.scandir(f"{controller.folder}/hsu-{self._agent}") as entries:
                    found |= {entry.name for entry in entries if entry.is_dir()}
        return found

    def is_left(self, instance: InstanceId) -> bool:
        """Return whether an earlier agent has left groups of this worker on v1."""
        return bool(self._left) and group_name(instance) in self._left

    def find(self, instance: InstanceId) -> None:
        """Take over the groups that an earlier agent made for a worker."""
        paths = {name: self.path(name, instance) for name, _ in self.layout.controllers}
        found = frozenset(name for name, path in paths.items() if path is not None and self._has(name, path))
        if found:
            self._made[instance] = found | self._made.get(instance, frozenset())

    def _has(self, name: str, path: str) -> bool:
        """Return whether a group is there and under this controller (every worker has a v2 group)."""
        controller = self.layout.controller(name)
        if controller is None or controller.version == 1:
            return os.path.exists(path)
        with contextlib.suppress(OSError):
            return name in _read(f"{path}/cgroup.controllers").split()
        return False

    def limit_cpu(self, instance: InstanceId, milli: int | None) -> bool:
        """Hold a worker to a share of processors from now on (None: no limit); False if that cannot be done."""
        path, controller = self.path("cpu", instance), self.layout.controller("cpu")
        if path is None or controller is None or "cpu" not in self._made.get(instance, ()):
            return False
        try:
            for _, file, text in (v1 if controller.version == 1 else v2).cpu_settings(milli):
                _write(f"{path}/{file}", text)
        except OSError:
            return False
        return True

    def files(self, instance: InstanceId) -> tuple[str, ...]:
        """Return the files that a process writes itself into to be under the limits."""
        paths = dict.fromkeys(self.path(name, instance) for name in sorted(self._made.get(instance, ())))
        return tuple(f"{path}/cgroup.procs" for path in paths if path is not None)

    def join(self, instance: InstanceId, pids: Iterable[int]) -> None:
        """Put processes that run already under the limits."""
        for file in self.files(instance):
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended
                    _write(file, str(pid))

    def figures(self, instance: InstanceId) -> GroupFigures:
        """Return what the groups of a worker say."""
        made, found = self._made.get(instance, frozenset()), GroupFigures()
        for name in made:
            path, controller = self.path(name, instance), self.layout.controller(name)
            if path is None or controller is None:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError):
                if name == "memory":
                    pairs = _pairs(_read(f"{path}/memory.stat"))
                    resident = (
                        ("anon", "file_mapped") if controller.version == 2 else ("total_rss", "total_mapped_file")
                    )
                    found = replace(found, memory_bytes=sum(pairs[key] for key in resident))
                elif name == "cpuacct":
                    found = replace(found, cpu_s=int(_read(f"{path}/cpuacct.usage")) / 1e9)
                elif name == "cpu" and controller.version == 2:
                    found = replace(found, cpu_s=_pairs(_read(f"{path}/cpu.stat"))["usage_usec"] / 1e6)
                elif name == "pids":
                    found = replace(found, processes=int(_read(f"{path}/pids.current")))
        return found

    def oom_kills(self, instance: InstanceId) -> int:
        """Return how many processes of a worker the kernel has killed for lack of memory, over all its starts."""
        path, controller = self.path("memory", instance), self.layout.controller("memory")
        if path is None or controller is None or "memory" not in self._made.get(instance, ()):
            return 0
        try:
            text = _read(f"{path}/{'memory.events' if controller.version == 2 else 'memory.oom_control'}")
        except OSError:
            return 0
        return _pairs(text).get("oom_kill", 0)

    def remove(self, instance: InstanceId) -> bool:
        """Remove the groups of a worker; False if one holds a process still."""
        left = set[str]()
        for name in self._made.get(instance, frozenset()):
            path, controller = self.path(name, instance), self.layout.controller(name)
            if (
                path is None
                or controller is None
                or (controller.version == 2 and os.path.exists(f"{path}/cgroup.kill"))
            ):
                continue  # it is the group by which the worker is ended (`CgroupTree`), and is removed there
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                left.add(name)
        if left:
            self._made[instance] = frozenset(left)
            return False
        self._made.pop(instance, None)
        return True

    def close(self) -> None:
        """Remove the agent's folders if nothing is left below them."""
        for _, controller in self.layout.controllers:
            with contextlib.suppress(OSError):
                os.rmdir(f"{controller.folder}/hsu-{self._agent}")

    def _make(self, name: str, instance: InstanceId) -> bool:
        """Make the group of a worker under a controller; return whether it is there."""
        path, controller = self.path(name, instance), self.layout.controller(name)
        if path is None or controller is None:
            return False
        if name in self._made.get(instance, ()):
            return True
        try:
            parent = os.path.dirname(path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent)
            if controller.version == 2:
                _hand_down(Path(controller.folder), name)
                _hand_down(Path(parent), name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            return True
        except OSError as error:
            log.warning("no limits by the %s controller: %s", name, error)
            self._refused.add(name)
            return False


def _hand_down(folder: Path, name: str) -> None:
    """Let the groups below a folder use a controller; processes that stand in its way move into a group of their own.

    cgroup v2 wants no process in a group that hands a controller down, except in the root of the tree. Raises OSError.
    """
    file = folder / "cgroup.subtree_control"
    if name in file.read_text().split():
        return
    try:
        _write(str(file), f"+{name}")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        present = {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
        if not present <= {os.getpid(), os.getppid()}:
            raise OSError(
                errno.EBUSY, f"{folder} holds other processes (give the agent a group: Delegate=yes)"
            ) from None
        leaf = folder / SUPERVISOR
        leaf.mkdir(exist_ok=True)
        for pid in present:
            _write(str(leaf / "cgroup.procs"), str(pid))
        _write(str(file), f"+{name}")


def _is_harmless(file: str, text: str, error: OSError) -> bool:
    """Return whether a refusal only says that what is to be set free was never limited."""
    return error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV) and (
        text in ("-1", "max") or (file.startswith("blkio.throttle") and text.endswith(" 0"))
    )


def _pairs(text: str) -> Mapping[str, int]:
    """Return the numbers of a file of lines `name number`."""
    return {name: int(number) for name, _, number in (line.partition(" ") for line in text.splitlines())}


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16).decode()
    finally:
        os.close(descriptor)
