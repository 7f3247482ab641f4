"""What a worker may use and what happens when it uses more. Pure.

The words are HSU's. Sizes are bytes, processor shares milli-cores, times seconds; None: no limit. Who holds a
limit (the kernel or the agent's samples) depends on the host and on the policy, see `hsu_agent.host.controllers`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class LimitPolicy(StrEnum):
    """What happens when a limit is exceeded.

    `none`: nothing. `log`: a line in the agent's log. `alert`: the same as an error, counted. `throttle`: slowed.
    `graceful_shutdown`: stopped with its grace, and not started again. `immediate_kill`: killed.
    `restart`: stopped with its grace and started again. `restart_adjusted`: the same, with the limit raised by a
    quarter, up to twice what is written. `escalate`: logged, then slowed, then stopped with its grace.
    """

    NONE = "none"
    LOG = "log"
    ALERT = "alert"
    THROTTLE = "throttle"
    GRACEFUL_SHUTDOWN = "graceful_shutdown"
    IMMEDIATE_KILL = "immediate_kill"
    RESTART = "restart"
    RESTART_ADJUSTED = "restart_adjusted"
    ESCALATE = "escalate"


WARNING_THRESHOLD_PERCENT = 80.0
"""From this share of a limit on there is a warning, where the manifest says nothing else (HSU's samples use 80)."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """`max_rss_bytes`: resident memory of all its processes together; `max_virtual_bytes`: address space of each.

    `policy` None here and below: the limit is held (by the kernel where it can, else by samples).
    """

    max_rss_bytes: int | None = None
    max_virtual_bytes: int | None = None
    max_swap_bytes: int | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None
    check_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """`max_percent`: 100 is one processor. `max_time_s`: processor time of one process over its life."""

    max_cores_milli: int | None = None
    max_percent: float | None = None
    max_time_s: float | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None
    check_interval_s: float | None = None

    @property
    def max_milli(self) -> int | None:
        """Return the lower of both ways to say it, in milli-cores."""
        stated = [self.max_cores_milli, None if self.max_percent is None else round(self.max_percent * 10)]
        return min((value for value in stated if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class IoLimits:
    """Rates on the disk of the worker's folder, bytes and operations a second; `weight` 1..1000 among neighbours."""

    weight: int | None = None
    max_read_bps: int | None = None
    max_write_bps: int | None = None
    max_read_ops: int | None = None
    max_write_ops: int | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """`max_processes`: processes and threads of the tree; `max_file_descriptors`: of each process.

    `max_child_processes`: processes beside the first one.
    """

    max_processes: int | None = None
    max_file_descriptors: int | None = None
    max_child_processes: int | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """`max_connections`: open sockets of all its processes together."""

    max_connections: int | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """`max_log_bytes`: its output kept on disk; `max_temporary_bytes`: the folder that is its own on the node."""

    max_log_bytes: int | None = None
    max_temporary_bytes: int | None = None
    warning_threshold_percent: float = WARNING_THRESHOLD_PERCENT
    policy: LimitPolicy | None = None


@dataclass(frozen=True, slots=True)
class MonitoringSpec:
    """Whether use is sampled also without a limit, how often, and how long the history is kept."""

    is_enabled: bool = False
    interval_s: float = 30.0
    history_retention_s: float = 86_400.0
    is_alerting: bool = True


@dataclass(frozen=True, slots=True)
class LimitsSpec:
    """All limits of a worker. They may change while it runs.

    `priority`: niceness -20..19. `cpu_shares`: weight among neighbours, 1024 is usual. A violation counts once it
    lasted longer than `spike_tolerance_s`; its policy acts once it lasted `sustained_violation_s`.
    """

    memory: MemoryLimits = MemoryLimits()
    cpu: CpuLimits = CpuLimits()
    io: IoLimits = IoLimits()
    process: ProcessLimits = ProcessLimits()
    network: NetworkLimits = NetworkLimits()
    storage: StorageLimits = StorageLimits()
    monitoring: MonitoringSpec = MonitoringSpec()
    priority: int | None = None
    cpu_shares: int | None = None
    sustained_violation_s: float = 0.0
    spike_tolerance_s: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is limited and nothing watched: such a worker costs the agent nothing."""
        return self == NO_LIMITS

    def stated(self) -> tuple[tuple[str, float], ...]:
        """Return (name, value) of each limit that is stated, the name as in the manifest: `memory.max_rss`."""
        found: list[tuple[str, float]] = []
        for part in ("memory", "cpu", "io", "process", "network", "storage"):
            body = getattr(self, part)
            for item in fields(body):
                value = getattr(body, item.name)
                if item.name.startswith(("max_", "weight")) and value is not None:
                    found.append((f"{part}.{_key(item.name)}", value))
        for name in ("priority", "cpu_shares"):
            if getattr(self, name) is not None:
                found.append((name, getattr(self, name)))
        return tuple(found)

    def policy_of(self, name: str) -> LimitPolicy | None:
        """Return the policy of a limit by its name, such as `memory.max_rss`."""
        policy: LimitPolicy | None = getattr(getattr(self, name.partition(".")[0], None), "policy", None)
        return policy


def _key(name: str) -> str:
    """Return a field's key in the manifest: without its unit."""
    return _KEYS.get(name, name.removesuffix("_bytes").removesuffix("_milli").removesuffix("_s"))


_KEYS = {"max_log_bytes": "max_log_size", "max_temporary_bytes": "max_temporary_size"}

NO_LIMITS = LimitsSpec()
