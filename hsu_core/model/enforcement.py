"""Who holds each limit on a given host: a controller of the kernel, an rlimit, the agent's samples, or nobody. Pure.

A host is given as data (`HostLayout`), so that the answer is the same at validation, in reports, where the limits
are set, and at the master, to which every agent tells its layout. `hsu_agent.host.controllers` finds that of this host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from hsu_core.model.limits import (
    CpuLimits,
    IoLimits,
    LimitPolicy,
    LimitsSpec,
    MemoryLimits,
    NetworkLimits,
    ProcessLimits,
    StorageLimits,
)


class Enforcement(StrEnum):
    """How a limit is held."""

    CGROUP_V2 = "cgroup-v2"
    CGROUP_V1 = "cgroup-v1"
    RLIMIT = "rlimit"
    SCHEDULER = "scheduler"
    SAMPLING = "sampling"
    NONE = "none"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller that we may use: `folder` is where our groups are made, `features` are files it has more."""

    version: int
    folder: str
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HostLayout:
    """What a host has to hold limits with.

    `controllers`: memory, cpu, cpuacct, io, pids. `missing`: why one of them is not usable. `disk`: number of the
    disk of the data folder (`254:0`), or empty with the reason in `disk_reason`.
    """

    controllers: tuple[tuple[str, Controller], ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    unified_folder: str = ""
    disk: str = ""
    disk_reason: str = ""
    is_privileged: bool = False

    def controller(self, name: str) -> Controller | None:
        """Return a controller, or None if it cannot be used."""
        return dict(self.controllers).get(name)

    def without_folders(self) -> HostLayout:
        """Return the same without places, which are of no interest to others and may differ between starts."""
        bare = tuple((name, replace(controller, folder="")) for name, controller in self.controllers)
        return replace(self, controllers=bare, unified_folder="")

    def why_missing(self, name: str) -> str:
        """Return why a controller cannot be used."""
        return dict(self.missing).get(name, f"this host has no {name} controller")


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """One stated limit on one host. `reason` says why it is not held better; `limit` is what the manifest states."""

    name: str
    how: Enforcement
    reason: str = ""
    limit: float = 0.0

    @property
    def is_short(self) -> bool:
        """Return whether the host cannot hold it, or only by samples although it is to be held."""
        return self.how is Enforcement.UNSUPPORTED or (self.how is Enforcement.SAMPLING and bool(self.reason))

    def __str__(self) -> str:
        return f"{self.name}: {self.how}" + (f" ({self.reason})" if self.reason else "")


_CONTROLLER_OF: Mapping[str, str] = {
    "memory.max_rss": "memory",
    "memory.max_swap": "memory",
    "cpu.max_cores": "cpu",
    "cpu.max_percent": "cpu",
    "io.weight": "io",
    "io.max_read_bps": "io",
    "io.max_write_bps": "io",
    "io.max_read_ops": "io",
    "io.max_write_ops": "io",
    "process.max_processes": "pids",
    "cpu_shares": "cpu",
}
_RLIMITS = ("memory.max_virtual", "cpu.max_time", "process.max_file_descriptors")
_UNSAMPLED = ("io.weight", "cpu_shares", "memory.max_swap")
"""Limits that only a controller can hold: what they mean cannot be seen in a sample."""

_HOLDING = (None, LimitPolicy.IMMEDIATE_KILL)
_SLOWING = (None, LimitPolicy.THROTTLE)
_HELD_WITH: Mapping[str, tuple[LimitPolicy | None, ...]] = {
    "memory": _HOLDING,
    "cpu": _SLOWING,
    "io": _SLOWING,
    "process": (None, LimitPolicy.THROTTLE),
}
"""Policies with which the kernel holds the limit itself: another policy needs to see it exceeded."""


def is_held(name: str, policy: LimitPolicy | None) -> bool:
    """Return whether the kernel is to hold this limit under this policy."""
    if name == "cpu.max_time":
        return policy in _HOLDING
    return policy in _HELD_WITH.get(name.partition(".")[0], ())


def enforcement(limits: LimitsSpec, host: HostLayout) -> tuple[FieldSupport, ...]:
    """Return how each stated limit is held on a host, in the order of the manifest."""
    found = []
    for name, value in limits.stated():
        support = _support(name, value, limits.policy_of(name), host)
        found.append(replace(_swap_alone(support, limits), limit=float(value)))
    return tuple(found)


_EVERY_LIMIT = LimitsSpec(
    memory=MemoryLimits(1, 1, 1),
    cpu=CpuLimits(1, 1.0, 1.0),
    io=IoLimits(1, 1, 1, 1, 1),
    process=ProcessLimits(1, 1, 1),
    network=NetworkLimits(1),
    storage=StorageLimits(1, 1),
    priority=-1,
    cpu_shares=2,
)


def host_support(host: HostLayout) -> tuple[FieldSupport, ...]:
    """Return how a host holds each limit that there is, under the policy that is the default: to hold it."""
    return enforcement(_EVERY_LIMIT, host)


def shortfalls(supports: tuple[FieldSupport, ...], where: str = "this host") -> tuple[str, ...]:
    """Return a sentence for each limit that a host cannot hold, or only by samples although it is to be held."""
    return tuple(
        f"limits.{each.name} is {HOW_SHORT[each.how]} on {where}: {each.reason}" for each in supports if each.is_short
    )


HOW_SHORT: Mapping[Enforcement, str] = {Enforcement.UNSUPPORTED: "not held", Enforcement.SAMPLING: "only sampled"}
"""How it is said that a limit is not held."""


def needed_controllers(limits: LimitsSpec) -> frozenset[str]:
    """Return the controllers that a worker with these limits is put under, as far as the host has them."""
    parts = {name.partition(".")[0] for name, _ in limits.stated()}
    policies = {limits.policy_of(name) for name, _ in limits.stated()}
    found: set[str] = parts & {"memory", "io"}
    if "process" in parts:
        found.add("pids")
    if "cpu" in parts or "cpu_shares" in parts or policies & {LimitPolicy.THROTTLE, LimitPolicy.ESCALATE}:
        found |= {"cpu", "cpuacct"}
    return frozenset(found)


def _swap_alone(support: FieldSupport, limits: LimitsSpec) -> FieldSupport:
    """Return the support; version 1 counts swap together with memory, so it needs that limit too."""
    is_v1_swap = support.name == "memory.max_swap" and support.how is Enforcement.CGROUP_V1
    memory = limits.memory
    if is_v1_swap and (memory.max_rss_bytes is None or not is_held("memory.max_rss", memory.policy)):
        reason = "cgroup v1 limits swap only together with max_rss that the kernel holds"
        return FieldSupport(support.name, Enforcement.UNSUPPORTED, reason)
    return support


def _support(name: str, value: float, policy: LimitPolicy | None, host: HostLayout) -> FieldSupport:
    if policy is LimitPolicy.NONE:
        return FieldSupport(name, Enforcement.NONE, "its policy is none")
    if name == "priority":
        if value < 0 and not host.is_privileged:
            return FieldSupport(name, Enforcement.UNSUPPORTED, "a priority below 0 needs root or CAP_SYS_NICE")
        return FieldSupport(name, Enforcement.SCHEDULER)
    if name in _UNSAMPLED:
        how, reason = _controlled(name, host)
        return FieldSupport(name, how or Enforcement.UNSUPPORTED, reason)
    if not is_held(name, policy):
        return FieldSupport(name, Enforcement.SAMPLING)
    if name in _RLIMITS:
        return FieldSupport(name, Enforcement.RLIMIT)
    how, reason = _controlled(name, host)
    if how is not None:
        return FieldSupport(name, how)
    if name.startswith("io.") and policy is None:
        return FieldSupport(name, Enforcement.UNSUPPORTED, reason)
    return FieldSupport(name, Enforcement.SAMPLING, reason)


def _controlled(name: str, host: HostLayout) -> tuple[Enforcement | None, str]:
    """Return which kind of controller holds a limit, or None and the reason."""
    key = _CONTROLLER_OF.get(name)
    if key is None:
        return None, ""
    controller = host.controller(key)
    if controller is None:
        return None, host.why_missing(key)
    if name.startswith("io.max_") and not host.disk:
        return None, host.disk_reason or "the disk of the data folder is not known"
    needed = {"io.weight": "weight", "memory.max_swap": "swap"}.get(name)
    if needed is not None and needed not in controller.features:
        return None, f"the kernel's {key} controller has no setting for {needed} here"
    return (Enforcement.CGROUP_V2 if controller.version == 2 else Enforcement.CGROUP_V1), ""
