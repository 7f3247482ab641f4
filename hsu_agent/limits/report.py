"""What this host makes of the limits in a manifest, told before anything runs. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsu_agent.host.controllers import describe_host
from hsu_core.model.enforcement import FieldSupport, enforcement, host_support, shortfalls
from hsu_core.model.spec import WorkerSpec


def shortfalls_here(workers: Iterable[WorkerSpec], folder: Path) -> list[str]:
    """Return a sentence for each limit that this host cannot hold; `folder` is on the disk that is meant."""
    limited = [worker for worker in workers if not worker.limits.is_empty]
    if not limited:
        return []
    host = describe_host(folder)
    return [f"{worker.id}: {text}" for worker in limited for text in shortfalls(enforcement(worker.limits, host))]


def support_here(folder: Path) -> tuple[FieldSupport, ...]:
    """Return how this host holds each limit that there is; `folder`, or what is there of it, tells the disk."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    return host_support(describe_host(present))
