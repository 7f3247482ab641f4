"""Slowing a worker: by the processor quota of its group, else by stopping and continuing it in turns."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from hsu_agent.host.controllers import ControllerGroups
from hsu_agent.planning.observed import Process
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId

TURN_S = 0.2
"""One turn of running and being stopped: short enough for a person not to notice, long against a signal's cost."""

LEAST_SHARE = 0.05
LEAST_MILLI = 20
"""Nobody is slowed to a standstill: it must be able to end."""


class Signals(Protocol):
    """The part of a `Host` that is needed here."""

    def signal(self, process: Process, name: str) -> bool:
        """Send a signal to the group of a process; False if it has ended. Raises ProcessError."""


class Throttles:
    """The workers that are slowed now."""

    def __init__(self, groups: ControllerGroups, host: Signals, tasks: asyncio.TaskGroup) -> None:
        self._groups = groups
        self._host = host
        self._tasks = tasks
        self._turns: dict[InstanceId, asyncio.Task[None]] = {}
        self._slowed: set[InstanceId] = set()

    def slow(self, instance: InstanceId, process: Process, share: float, cpu_percent: float) -> None:
        """Leave a worker this share of its present speed. `cpu_percent`: 100 is one processor."""
        self._end_turns(instance)
        milli = max(LEAST_MILLI, round(cpu_percent * 10 * share))
        self._slowed.add(instance)
        if self._groups.limit_cpu(instance, milli):
            return
        turns = self._take_turns(process, min(1.0, max(LEAST_SHARE, share)))
        self._turns[instance] = self._tasks.create_task(turns, name=f"slow {instance}")

    def release(self, instance: InstanceId, held_milli: int | None = None) -> None:
        """Let a worker run freely again, but for the limit that the kernel holds anyway."""
        if instance in self._slowed:
            self._slowed.discard(instance)
            self._end_turns(instance)
            self._groups.limit_cpu(instance, held_milli)

    def wake(self, process: Process) -> None:
        """Continue a process that an earlier agent may have left stopped in its turns."""
        if self._groups.layout.controller("cpu") is None:
            with contextlib.suppress(ProcessError):
                self._host.signal(process, "SIGCONT")

    def close(self) -> None:
        """Let all that are stopped in turns run on."""
        for instance in list(self._turns):
            self._end_turns(instance)

    def _end_turns(self, instance: InstanceId) -> None:
        task = self._turns.pop(instance, None)
        if task is not None:
            task.cancel()

    async def _take_turns(self, process: Process, share: float) -> None:
        with contextlib.suppress(ProcessError):
            try:
                while self._host.signal(process, "SIGSTOP"):
                    await asyncio.sleep(TURN_S * (1 - share))
                    self._host.signal(process, "SIGCONT")
                    await asyncio.sleep(TURN_S * share)
            finally:
                self._host.signal(process, "SIGCONT")
