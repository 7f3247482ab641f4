"""The words of cgroup v1: which file gets which text for a worker's limits, and how its figures are read. Pure."""

from __future__ import annotations

from hsu_core.model.enforcement import is_held
from hsu_core.model.limits import LimitsSpec

Setting = tuple[str, str, str]
"""Controller, file, text; written in this order."""

PERIOD_US = 100_000
LONG_PERIOD_US = 1_000_000
"""Period of the processor quota; the kernel wants at least 1 ms of quota, so a tiny share needs a longer one."""

MOUNTS = {"memory": "memory", "cpu": "cpu", "cpuacct": "cpuacct", "blkio": "io", "pids": "pids"}
"""Controllers as v1 calls them, and as we do."""

RESIDENT = ("total_rss", "total_mapped_file")
"""Figures of memory.stat that together are what `max_rss` means; the cache of files is not."""


def quota(milli: int | None) -> tuple[int, int]:
    """Return (quota, period) in microseconds for a share of processors; the quota is -1 for no limit."""
    if milli is None:
        return -1, PERIOD_US
    period_us = PERIOD_US if milli >= 10 else LONG_PERIOD_US
    return max(1000, milli * period_us // 1000), period_us


def cpu_settings(milli: int | None) -> list[Setting]:
    """Return what limits the processors to a share (None: no limit)."""
    quota_us, period_us = quota(milli)
    return [
        ("cpu", "cpu.cfs_quota_us", "-1"),
        ("cpu", "cpu.cfs_period_us", str(period_us)),
        ("cpu", "cpu.cfs_quota_us", str(quota_us)),
    ]


def settings(limits: LimitsSpec, disk: str, factor: float = 1.0) -> list[Setting]:
    """Return all settings; what is not limited is set free. `factor` raises the size of the memory."""
    memory, io, found = limits.memory, limits.io, list[Setting]()
    if memory.max_rss_bytes is not None or memory.max_swap_bytes is not None:
        is_hard = memory.max_rss_bytes is not None and is_held("memory.max_rss", memory.policy)
        size = round(memory.max_rss_bytes * factor) if is_hard and memory.max_rss_bytes is not None else -1
        with_swap = size + memory.max_swap_bytes if size >= 0 and memory.max_swap_bytes is not None else -1
        found += [
            ("memory", "memory.memsw.limit_in_bytes", "-1"),  # it may never be below the limit of the memory
            ("memory", "memory.limit_in_bytes", str(size)),
            ("memory", "memory.memsw.limit_in_bytes", str(with_swap)),
        ]
    found += cpu_settings(limits.cpu.max_milli if is_held("cpu.max_cores", limits.cpu.policy) else None)
    found.append(("cpu", "cpu.shares", str(limits.cpu_shares or 1024)))
    if disk:
        is_io_held = is_held("io.max_read_bps", io.policy)
        for file, value in (
            ("read_bps_device", io.max_read_bps),
            ("write_bps_device", io.max_write_bps),
            ("read_iops_device", io.max_read_ops),
            ("write_iops_device", io.max_write_ops),
        ):
            found.append(("io", f"blkio.throttle.{file}", f"{disk} {value or 0 if is_io_held else 0}"))
    if io.weight is not None:
        found.append(("io", "blkio.bfq.weight", str(io.weight)))
    is_pids_held = is_held("process.max_processes", limits.process.policy)
    count = limits.process.max_processes if is_pids_held else None
    found.append(("pids", "pids.max", "max" if count is None else str(count)))
    return found
