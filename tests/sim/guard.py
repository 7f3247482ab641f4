"""The keeper of a simulated host as the guard of strict workers: it outlives the agent, and ends with the host."""

from __future__ import annotations

from random import Random

from tests.sim.host import SimHost

LATENESS_S = 0.2
"""Longest that a kill comes after its time; much more than a real one, and below the kill budget."""


class SimGuard:
    """Implements `hsu_agent.guard.Guard`; a group is the name of its instance."""

    is_there = True

    def __init__(self, host: SimHost, rng: Random) -> None:
        self._host = host
        self._rng = rng
        self._until_s = 0.0
        self._groups: set[str] = set()
        self._boot = host.boot

    def push(self, until_s: float) -> None:
        """Move the end of the lease forward."""
        self._begin()
        self._until_s = max(self._until_s, until_s)
        at_s = self._until_s + self._rng.uniform(0.0, LATENESS_S)
        self._host.loop.later(max(0.0, at_s - self._host.loop.time()), self._look)

    def hold(self, group: str) -> bool:
        """Guard a group; without a lease it is killed."""
        self._begin()
        self._groups.add(group)
        self._look()
        return self._host.loop.time() < self._until_s

    def release(self, group: str) -> None:
        """Guard a group no more."""
        self._groups.discard(group)

    def close(self) -> None:
        """Nothing: it is not the agent's."""

    def _begin(self) -> None:
        """Begin anew after the host has: the keeper is another one."""
        if self._boot != self._host.boot:
            self._boot, self._until_s, self._groups = self._host.boot, 0.0, set()

    def _look(self) -> None:
        if self._boot != self._host.boot or self._host.loop.time() < self._until_s:
            return
        for found in sorted(self._host.table.values(), key=lambda found: found.pid):
            if str(found.instance) in self._groups:
                self._host.reach("the keeper kills a strict worker")
                self._host.end(found, "fenced")
