"""The sweep of crash points: one script, and a crash before and after each store write and each action on a process.

A reference run counts the points. Then the script is played once for each point and way: the program that is about to
write (or act), or has just done so, is killed there; in two more ways every watch is held up at that moment (stale), or
has to list again (missed). The end has to be that of the reference, whatever the detour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.sim.options import WARM_UP_S, Decision, Options
from tests.sim.run import Result, run

if TYPE_CHECKING:
    from tests.sim.world import World

WAYS = ("before", "after", "stale", "missed")

STALE_S = 20.0
"""So long the watches of the leader are held up in the way `stale`."""

SCRIPTS: dict[str, tuple[Decision, ...]] = {
    "deploy and scale": (
        Decision(WARM_UP_S + 1.0, "deploy", (2, 0)),
        Decision(WARM_UP_S + 30.0, "scale", (3, 2)),
    ),
    "strict worker leaves a node": (
        Decision(WARM_UP_S + 1.0, "deploy", (2, 1)),
        Decision(WARM_UP_S + 30.0, "drain", (3, 0)),
    ),
    "remove and deploy again": (
        Decision(WARM_UP_S + 1.0, "remove", (2, 0)),
        Decision(WARM_UP_S + 15.0, "deploy", (3, 0)),
    ),
}
"""What people do in the runs, by name."""


def options_of(script: str) -> Options:
    """Return the run of a script: no chance but in times on the way."""
    return Options(7, masters=2, nodes=3, fault_phase_s=55.0, is_calm=True, decisions=SCRIPTS[script])


@dataclass(slots=True)
class Points:
    """Counts writes and actions after the warm-up, and does something at one of them."""

    at: int = -1
    way: str = ""
    seen: list[str] = field(default_factory=list)
    _world: Any = None

    def attach(self, world: World) -> None:
        """Look at every write of masters and every action of agents of a world."""
        self._world = world
        for master in world.masters.values():
            master.on_start.append(self._attach_master)
        for agent in world.nodes.values():
            agent.host.before_action = lambda what, agent=agent: self._pass(what, agent, "before")
            agent.host.after_action = lambda what, agent=agent: self._pass(what, agent, "after")

    def _attach_master(self, master: Any) -> None:
        store = master.store
        store.before_write = lambda what: self._pass(what, master, "before")
        store.after_write = lambda what: self._pass(what, master, "after")

    def _pass(self, what: str, program: Any, moment: str) -> bool:
        """Take one moment; False: the program was killed in it."""
        loop = self._world.loop
        if loop.time() < WARM_UP_S or loop.is_over:
            return True
        if moment == "before":
            self.seen.append(f"{program.name} {what}")
        is_here = len(self.seen) - 1 == self.at and self.at >= 0
        if not is_here or moment != ("after" if self.way == "after" else "before"):
            return True
        self.at = -2  # once
        return self._strike(program, what)

    def _strike(self, program: Any, what: str) -> bool:
        world = self._world
        world.note(f"== {self.way} {program.name} {what}")
        if self.way in ("before", "after"):
            program.crash()
            if program.name in world.masters:
                world.loop.later(2.0, program.start)
            return False
        for master in world.masters.values():
            if self.way == "stale":
                world.faults.watch_lag(master.name, STALE_S, STALE_S)
            else:
                world.faults.watch_lag(master.name, 1.0, 1.0)
                world.loop.later(0.9, world.faults.compact)
        return True


def reference(script: str) -> tuple[Result, tuple[str, ...]]:
    """Return the undisturbed run of a script, and its points."""
    points = Points()
    return run(options_of(script), prepare=points.attach), tuple(points.seen)


def disturbed(script: str, at: int, way: str) -> Result:
    """Return the run with a disturbance at one point."""
    points = Points(at, way)
    return run(options_of(script), prepare=points.attach)


def plan(count: int, part: int, parts: int) -> Iterator[tuple[int, str]]:
    """Yield the points and ways of one part of a sweep over `count` points."""
    every = [(at, way) for at in range(count) for way in WAYS]
    yield from every[part::parts]
