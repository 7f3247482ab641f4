"""Faults by name, as the decisions of a run ask for them, and the end of all faults."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.sim.master import SimMaster
from tests.sim.options import ACTS, Decision
from tests.sim.store import StoreFaults

if TYPE_CHECKING:
    from tests.sim.world import World


HARMLESS = frozenset({"clock", "kill_workers", "compact", *ACTS})
"""Faults that are no reason to call a node lost; nor is anything that people ask for."""

RECOVERY_S = 20.0
"""So long after a fault a node may still be found lost: two TTLs, and the longest pause between two dials."""


class Faults:
    """Does to a world what a decision says; `heal` mends everything."""

    def __init__(self, world: World) -> None:
        self._world = world

        self._is_over = False

    def _master(self, name: str) -> SimMaster:
        """Return a master by name, or the one that leads."""
        world = self._world
        if name != "leader":
            return world.masters[name]
        leading = [master for master in world.masters.values() if master.is_leading]
        return leading[0] if leading else next(iter(world.masters.values()))

    def _later(self, time_s: float, undo: object, *arguments: object) -> None:
        self._world.loop.later(time_s, undo, *arguments)

    def cut_node(self, node: str, way: str, time_s: float) -> None:
        """Cut a node off all masters."""
        for name in () if self._is_over else self._world.masters:
            self.cut_half(node, name, way, time_s)

    def cut_half(self, node: str, master: str, way: str, time_s: float) -> None:
        """Cut one edge, one way or both."""
        net, name = self._world.net, self._master(master).name
        edges = {"out": [(node, name)], "in": [(name, node)], "both": [(node, name), (name, node)]}[way]
        for source, target in edges:
            net.cut(source, target)
            self._later(time_s, net.heal, source, target)

    def cut_store(self, master: str, time_s: float) -> None:
        """Cut a master off the store."""
        self._away([self._master(master)], time_s)

    def store_outage(self, time_s: float) -> None:
        """Take the store away from everybody."""
        self._away(list(self._world.masters.values()), time_s)

    def _away(self, masters: list[SimMaster], time_s: float) -> None:
        for master in masters:
            if master.store is not None:
                master.store.set_away(True)
                self._later(time_s, master.store.set_away, False)

    def elect(self, time_s: float) -> None:
        """Let the store elect another leader: away for a moment, and every lease begins anew."""
        self.store_outage(time_s)
        self._later(time_s, self._world.truth.elect)

    def agent_crash(self, node: str, share: float) -> None:
        """Kill an agent, and with it a share of its workers, as a host that runs out of memory does."""
        self._world.nodes[node].crash()
        self._world.nodes[node].host.kill_some(share)

    def agent_stop(self, node: str, time_s: float) -> None:
        """Stop an agent for a time."""
        program = self._world.nodes[node].program
        if program is not None and not program.is_dead and not program.is_stopped:
            program.stop()
            self._later(time_s, program.go_on)

    def host_fall(self, node: str, time_s: float) -> None:
        """Take a host's power for a time."""
        agent = self._world.nodes[node]
        if agent.host.is_up:
            agent.fall()
            self._world.checks.on_fall(node)
            self._later(time_s, agent.rise)

    def master_crash(self, name: str, time_s: float) -> None:
        """Kill a master; it is started again after a time."""
        master = self._master(name)
        master.crash()
        self._later(time_s, master.start)

    def master_stop(self, name: str, time_s: float) -> None:
        """Stop a master for a time."""
        program = self._master(name).program
        if program is not None and not program.is_dead and not program.is_stopped:
            program.stop()
            self._later(time_s, program.go_on)

    def master_end(self, name: str, time_s: float) -> None:
        """Ask a master to end; it is started again after a time."""
        master = self._master(name)
        master.end()
        self._later(time_s, master.start)

    def watch_lag(self, name: str, lag_s: float, time_s: float) -> None:
        """Let a master hear late of what was committed."""
        faults = self._master(name).faults
        faults.watch_lag_s = lag_s
        self._later(time_s, setattr, faults, "watch_lag_s", 0.0)

    def compact(self) -> None:
        """Forget the store's history."""
        self._world.loop.start(self._world.truth.compact(self._world.truth.revision), "compact")

    def clock(self, name: str, jump_s: float) -> None:
        """Set the clock of a host."""
        machine = self._world.nodes[name].host if name in self._world.nodes else self._master(name)
        machine.wall_offset_s += jump_s

    def kill_workers(self, node: str, share: float) -> None:
        """Kill some workers of a node."""
        self._world.nodes[node].host.kill_some(share)

    def flap(self, node: str, time_s: float, times: int) -> None:
        """Take a node's network away and give it back, again and again."""
        for number in range(times):
            self._later(number * 2 * time_s, self.cut_node, node, "both", time_s)

    def impair(self, decision: Decision) -> None:
        """Remember until when a fault may make a node seem silent; wrong clocks and dying workers do not."""
        if decision.kind in HARMLESS:
            return
        lasts_s = sum(part for part in decision.arguments if isinstance(part, float))
        if decision.kind == "flap":
            lasts_s = 2 * decision.arguments[1] * decision.arguments[2]
        until_s = self._world.loop.time() + lasts_s + RECOVERY_S
        self._world.impaired_until_s = max(self._world.impaired_until_s, until_s)

    def begin(self) -> None:
        """Let workers end by themselves and starts fail, from now on."""
        for agent in self._world.nodes.values():
            agent.host.is_calm = self._world.options.is_calm
            agent.host.spawn_failures = self._world.options.spawn_failures

    def heal(self) -> None:
        """End all faults; clocks stay wrong, and dead programs are started."""
        world, self._is_over = self._world, True
        world.net.heal_all()
        for master in world.masters.values():
            for name, value in vars_of(replace(StoreFaults())).items():
                setattr(master.faults, name, value)
            if master.program is not None and master.program.is_stopped:
                master.program.go_on()
            if master.store is not None:
                master.store.set_away(False)
            master.start()
        for agent in world.nodes.values():
            agent.host.spawn_failures = 0.0
            agent.host.is_calm = True
            agent.rise()
            if agent.program is not None and agent.program.is_stopped:
                agent.program.go_on()


def vars_of(faults: StoreFaults) -> dict[str, object]:
    """Return the fields of a record."""
    return {name: getattr(faults, name) for name in StoreFaults.__slots__}
