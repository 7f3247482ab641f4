"""When instances are planned: marked ones soon, a few milliseconds at a time, failed ones again after a pause.

And the ends of whole process trees, which go on beside. Decides nothing about instances: `hsu_agent.loop` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from hsu_agent.host.base import Host
from hsu_agent.planning.observed import Process
from hsu_agent.timers import Timers
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient

log = logging.getLogger(__name__)

TURN_BUDGET_S = 0.005
"""Longest that one turn plans and starts before everybody else gets the loop."""

RETRY_S = 1.0
RETRY_CEILING_S = 60.0
"""Pauses before what went wrong is tried again; those of an instance double, since each writes a traceback."""


class Turns:
    """Calls `plan` once for each marked instance; what one of them raises does not reach the others."""

    def __init__(self, plan: Callable[[InstanceId], None], ambient: Ambient = REAL) -> None:
        self._plan = plan
        self._monotonic = ambient.monotonic
        self._loop = asyncio.get_running_loop()
        self._marked: dict[InstanceId, None] = {}
        self._pauses_s: dict[InstanceId, float] = {}
        self._timers = Timers(self.mark, ambient)
        self._is_due = False
        self._is_closed = False

    def mark(self, instance: InstanceId) -> None:
        """Plan this instance in the next turn."""
        self._marked[instance] = None
        self._set()

    def mark_all(self, instances: Callable[[], Iterable[InstanceId]]) -> Callable[[], None]:
        """Return what marks these instances, as they are when it is called."""

        def mark() -> None:
            for instance in instances():
                self.mark(instance)

        return mark

    def wake_at(self, at_s: float, instance: InstanceId) -> None:
        """Plan this instance at a (monotonic) time."""
        self._timers.wake_at(at_s, instance)

    def _set(self) -> None:
        if self._marked and not self._is_due and not self._is_closed:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        started_s = self._monotonic()
        while self._marked and not self._is_closed and self._monotonic() - started_s <= TURN_BUDGET_S:
            instance = next(iter(self._marked))
            del self._marked[instance]
            try:
                self._plan(instance)
                self._pauses_s.pop(instance, None)
            except Exception:  # whatever it is: the other instances must not wait for a programmer
                pause_s = self._pauses_s.get(instance, RETRY_S)
                self._pauses_s[instance] = min(pause_s * 2, RETRY_CEILING_S)
                log.exception("%s is left as it is and looked at again in %g s", instance, pause_s)
                self.wake_at(self._monotonic() + pause_s, instance)
        self._set()

    def close(self) -> None:
        """Plan nothing any more."""
        self._is_closed = True
        self._timers.close()


class TreeEnds:
    """Ends the process trees of instances, however often the system refuses; calls `on_empty` when proven."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup, on_empty: Callable[[InstanceId], None]) -> None:
        self._host = host
        self._tasks = tasks
        self._on_empty = on_empty
        self._running: dict[InstanceId, asyncio.Task[None]] = {}

    def begin(self, instance: InstanceId, process: Process | None) -> None:
        """Kill every process of the instance, in a task of its own."""
        work = self._end(instance, process)
        self._running[instance] = self._tasks.create_task(work, name=f"end all processes of {instance}")

    async def _end(self, instance: InstanceId, process: Process | None) -> None:
        try:
            while True:
                try:
                    await self._host.end_tree(instance, process)
                    break
                except (OSError, RuntimeError) as error:  # no descriptor for /proc, no thread under pids.max
                    log.error("cannot end the processes of %s: %s; tried again in %g s", instance, error, RETRY_S)
                    await asyncio.sleep(RETRY_S)
        finally:
            del self._running[instance]
        self._on_empty(instance)

    def close(self) -> None:
        """End no tree any more; the next agent does."""
        for task in self._running.values():
            task.cancel()
