"""What this host makes of the limits in a manifest, told before anything runs. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsu_agent.host.controllers import describe_host
from hsu_agent.planning.enforcement import enforcement, shortfalls
from hsu_core.model.spec import WorkerSpec


def shortfalls_here(workers: Iterable[WorkerSpec], folder: Path) -> list[str]:
    """Return a sentence for each limit that this host cannot hold; `folder` is on the disk that is meant."""
    limited = [worker for worker in workers if not worker.limits.is_empty]
    if not limited:
        return []
    host = describe_host(folder)
    return [f"{worker.id}: {text}" for worker in limited for text in shortfalls(enforcement(worker.limits, host))]
