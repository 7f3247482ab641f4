"""Two small helpers of the loop: wake-ups of instances by time, and removal of what gone ones left."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient

SWEEP_PAUSE_S = 0.05
"""Between two turns of removing what gone instances left on the disk."""

SWEEP_BUDGET_S = 0.005
"""Longest that one such turn takes."""


class Timers:
    """Calls `on_due` with an instance at the (monotonic) times asked for; one timer of the loop serves all."""

    def __init__(self, on_due: Callable[[InstanceId], None], ambient: Ambient = REAL) -> None:
        self._on_due = on_due
        self._monotonic = ambient.monotonic
        self._due: list[tuple[float, InstanceId]] = []
        self._handle: asyncio.TimerHandle | None = None

    def wake_at(self, at_s: float, instance: InstanceId) -> None:
        """Ask for a call at `at_s`."""
        heapq.heappush(self._due, (at_s, instance))
        if self._due[0][0] == at_s:
            self._set()

    def _set(self) -> None:
        self.close()
        if self._due:
            wait_s = max(0.0, self._due[0][0] - self._monotonic())
            self._handle = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        now_s = self._monotonic()
        while self._due and self._due[0][0] <= now_s:
            self._on_due(heapq.heappop(self._due)[1])
        self._set()

    def close(self) -> None:
        """Call nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Sweeper:
    """Calls `remove` for instances some time later, a few milliseconds at a time: they are in nobody's way."""

    def __init__(self, remove: Callable[[InstanceId], None], ambient: Ambient = REAL) -> None:
        self._remove = remove
        self._monotonic = ambient.monotonic
        self._waiting: dict[InstanceId, None] = {}
        self._handle: asyncio.TimerHandle | None = None

    def add(self, instance: InstanceId) -> None:
        """Remove what this instance left, later."""
        self._waiting[instance] = None
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(SWEEP_PAUSE_S, self._sweep)

    def _sweep(self) -> None:
        self._handle = None
        started_s = self._monotonic()
        while self._waiting and self._monotonic() - started_s < SWEEP_BUDGET_S:
            instance = next(iter(self._waiting))
            del self._waiting[instance]
            self._remove(instance)
        if self._waiting:
            self._handle = asyncio.get_running_loop().call_later(SWEEP_PAUSE_S, self._sweep)

    def close(self) -> None:
        """Remove the rest now."""
        if self._handle is not None:
            self._handle.cancel()
        for instance in self._waiting:
            self._remove(instance)
        self._waiting.clear()
