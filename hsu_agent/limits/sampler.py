"""The rhythm of samples: all workers that are due are read in one pass, a slice at a time. Decides nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hsu_agent.limits.usage import UsageBook
from hsu_agent.planning.limits import Usage, check_interval_s
from hsu_agent.planning.observed import Process
from hsu_core.model.ids import InstanceId
from hsu_core.model.limits import LimitsSpec
from hsu_core.runtime.tasks import Wake

SLICE = 32
"""Workers read before others get a turn: some milliseconds."""

TOGETHER_S = 0.05
"""Workers that are due within this are read in the same pass."""

FOLDER_FILES_LIMIT = 100_000
"""Most files of a folder that are counted: more is far beyond what a limit of its size is for."""

OnUsage = Callable[[InstanceId, Usage], None]


@dataclass(slots=True)
class _Sampled:
    process: Process
    limits: LimitsSpec
    folders: tuple[str, str]
    interval_s: float
    due_s: float


class Sampler:
    """Samples the workers it is told of, each in its own rhythm, and hands every sample to `on_usage`."""

    def __init__(self, book: UsageBook, on_usage: OnUsage) -> None:
        self._book = book
        self._on_usage = on_usage
        self._sampled: dict[InstanceId, _Sampled] = {}
        self._wake = Wake()

    def watch(self, instance: InstanceId, process: Process, limits: LimitsSpec, folders: tuple[str, str]) -> None:
        """Sample a worker from now on. `folders` are those of its logs and of its own files."""
        interval_s = check_interval_s(limits)
        self._sampled[instance] = _Sampled(process, limits, folders, interval_s, time.monotonic() + interval_s)
        if limits.monitoring.is_enabled:
            self._book.keep(instance, limits.monitoring.history_retention_s)
        self._wake.wake()

    def unwatch(self, instance: InstanceId) -> None:
        """Sample a worker no more."""
        self._sampled.pop(instance, None)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            now_s = time.monotonic()
            due = {
                instance: sampled for instance, sampled in self._sampled.items() if sampled.due_s <= now_s + TOGETHER_S
            }
            await self._sample(due)
            next_s = min((sampled.due_s for sampled in self._sampled.values()), default=None)
            await self._wake.wait(None if next_s is None else max(0.0, next_s - time.monotonic()))

    async def _sample(self, due: Mapping[InstanceId, _Sampled]) -> None:
        members = self._book.members_of({instance: sampled.process for instance, sampled in due.items()})
        for number, (instance, sampled) in enumerate(due.items()):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            sampled.due_s = time.monotonic() + sampled.interval_s
            if self._sampled.get(instance) is not sampled:
                continue  # it has ended meanwhile
            limits = sampled.limits
            usage = self._book.sample(
                instance,
                sampled.process,
                members[instance],
                is_counting_files=limits.process.max_file_descriptors is not None,
                is_counting_sockets=limits.network.max_connections is not None,
            )
            if limits.storage.max_log_bytes is not None or limits.storage.max_temporary_bytes is not None:
                log_bytes, temporary_bytes = await asyncio.to_thread(_sizes, *sampled.folders)
                usage = replace(usage, log_bytes=log_bytes, temporary_bytes=temporary_bytes)
            if self._sampled.get(instance) is sampled:
                self._on_usage(instance, usage)


def _sizes(logs: str, temporary: str) -> tuple[int, int]:
    return folder_bytes(logs), folder_bytes(temporary)


def folder_bytes(folder: str) -> int:
    """Return the space that the files below a folder take, without following links."""
    total, count, waiting = 0, 0, [folder]
    while waiting and count < FOLDER_FILES_LIMIT:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # removed meanwhile
    return total
