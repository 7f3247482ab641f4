"""The words of cgroup v2: which file gets which text for a worker's limits. Pure."""

from __future__ import annotations

from hsu_agent.host.controllers_v1 import Setting, quota
from hsu_core.model.enforcement import is_held
from hsu_core.model.limits import LimitPolicy, LimitsSpec

RESIDENT = ("anon", "file_mapped")
"""Figures of memory.stat that together are what `max_rss` means; the cache of files is not."""


def cpu_settings(milli: int | None) -> list[Setting]:
    """Return what limits the processors to a share (None: no limit)."""
    quota_us, period_us = quota(milli)
    return [("cpu", "cpu.max", f"{'max' if quota_us < 0 else quota_us} {period_us}")]


def weight_of_shares(shares: int) -> int:
    """Return cpu.weight (1..10000) of v1's shares (2..262144), as the kernel's own tools convert it."""
    return 1 + (shares - 2) * 9999 // 262142


def settings(limits: LimitsSpec, disk: str, factor: float = 1.0) -> list[Setting]:
    """Return all settings; what is not limited is set free. `factor` raises the size of the memory.

    Memory that is to be throttled gets `memory.high`: above it the kernel slows the worker and takes pages back.
    """
    memory, io = limits.memory, limits.io
    size = None if memory.max_rss_bytes is None else round(memory.max_rss_bytes * factor)
    is_hard, is_soft = is_held("memory.max_rss", memory.policy), memory.policy is LimitPolicy.THROTTLE
    found: list[Setting] = [
        ("memory", "memory.high", _or_max(size if is_soft else None)),
        ("memory", "memory.max", _or_max(size if is_hard else None)),
        ("memory", "memory.swap.max", _or_max(memory.max_swap_bytes)),
    ]
    found += cpu_settings(limits.cpu.max_milli if is_held("cpu.max_cores", limits.cpu.policy) else None)
    found.append(("cpu", "cpu.weight", str(weight_of_shares(limits.cpu_shares) if limits.cpu_shares else 100)))
    if disk:
        is_io_held = is_held("io.max_read_bps", io.policy)
        pairs = (
            ("rbps", io.max_read_bps),
            ("wbps", io.max_write_bps),
            ("riops", io.max_read_ops),
            ("wiops", io.max_write_ops),
        )
        found.append(
            ("io", "io.max", " ".join([disk, *(f"{key}={_or_max(n if is_io_held else None)}" for key, n in pairs)]))
        )
    if io.weight is not None:
        found.append(("io", "io.weight", f"default {io.weight}"))
    is_pids_held = is_held("process.max_processes", limits.process.policy)
    found.append(("pids", "pids.max", _or_max(limits.process.max_processes if is_pids_held else None)))
    return found


def _or_max(value: int | None) -> str:
    return "max" if value is None else str(value)
