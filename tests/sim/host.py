"""A simulated host: a table of processes whose numbers are used again soon, and the keeper that outlives the agent.

Implements `hsu_agent.host.base.Host` for the agent that runs on it now. What a worker does is drawn from its argument
(see `Behaviour`); what is true is in the table, and every start, end and signal is told to the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from hsu_agent.host.base import AGENT_VARIABLE, HOOK_RUN, Found, Launch, OnExit
from hsu_agent.planning.observed import Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import Capacity
from tests.sim.virtual import Killed, Program, VirtualLoop

PIDS = range(300, 400)

STRANGER = InstanceId("nobody", "system", "daemon", 0)
"""Takes the number of a process that has ended, at once and often: an identity that is only a number is found out."""

STRANGERS = 0.3

TICKS_PER_S = 100


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a worker does: `sleep life=30 code=1 stubborn forks=1` and so on, from its arguments."""

    life_s: float = 0.0
    code: int = 0
    is_stubborn: bool = False
    forks: int = 0
    stop_s: float = 0.5

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> Behaviour:
        """Return what the arguments say."""
        named = dict(part.split("=", 1) for part in arguments if "=" in part)
        return cls(
            float(named.get("life", 0)), int(named.get("code", 0)), "stubborn" in arguments,
            int(named.get("forks", 0)), float(named.get("stop", 0.5)),
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class Running:
    """A process in the table."""

    pid: int
    start_time: int
    instance: InstanceId
    run: str
    agent: str
    epoch: int
    version: str
    is_leader: bool
    started_s: float
    behaviour: Behaviour
    is_signalled: bool = False
    on_exit: OnExit | None = None
    watcher: Program | None = None


Tell = Callable[[str, str, dict[str, object]], None]


@dataclass(slots=True)
class SimHost:
    """The machine. `tell(kind, host, facts)` hears of every start, end and signal."""

    name: str
    loop: VirtualLoop
    rng: Random
    tell: Tell
    spawn_failures: float = 0.0
    boot: int = 1
    is_up: bool = True
    is_calm: bool = True
    """Whether workers no longer end by themselves."""
    wall_offset_s: float = 0.0
    table: dict[int, Running] = field(default_factory=dict)
    exits: dict[tuple[int, int, int], LastExit] = field(default_factory=dict)
    os: str = "linux"
    arch: str = "x86_64"
    watcher: Program | None = None
    """The agent that runs now; it is told of ends."""
    before_action: Callable[[str], bool] | None = None
    """Asked around every action of the agent; False: it was killed there."""
    after_action: Callable[[str], bool] | None = None
    reach: Callable[[str], None] = print
    _next_pid: int = 0

    @property
    def boot_id(self) -> str:
        """Return the identity of this boot."""
        return f"{self.name}-boot-{self.boot}"

    def wall(self) -> float:
        """Return the host's clock, which may be wrong."""
        return 1_700_000_000.0 + self.loop.time() + self.wall_offset_s

    def capacity(self) -> Capacity:
        """Return what the machine has."""
        return Capacity(4000, 2**32)

    # -- what the agent asks for ------------------------------------------------------------------

    def spawn(self, launch: Launch) -> Process:
        """Start a process. Raises ProcessError."""
        self._act(f"spawn {launch.instance}")
        if self.rng.random() < self.spawn_failures:
            self.reach("a start fails")
            raise ProcessError(f"start {launch.instance}", "no memory (simulated)", "free some")
        behaviour = Behaviour.parse(tuple(launch.argv))
        found = self._add(launch, behaviour, is_leader=True)
        for _ in range(behaviour.forks):
            self._add(launch, behaviour, is_leader=False)
        if behaviour.life_s:
            life_s = self.rng.expovariate(1 / behaviour.life_s)
            self.loop.later(life_s, self._has_had_enough, found)
        self._acted(f"spawn {launch.instance}")
        return self._process(found)

    def _add(self, launch: Launch, behaviour: Behaviour, *, is_leader: bool) -> Running:
        free = [pid for pid in PIDS if pid not in self.table]
        if not free:
            raise ProcessError(f"start {launch.instance}", "no pid is free", "stop something")
        pid = next((pid for pid in free if pid >= self._next_pid), free[0])
        self._next_pid = pid + 1
        found = Running(
            pid=pid,
            start_time=int(self.loop.time() * TICKS_PER_S),
            instance=launch.instance,
            run=launch.run,
            agent=launch.environment[AGENT_VARIABLE],
            epoch=int(launch.environment["HSU_EPOCH"]),
            version=next((part for part in launch.argv if part.startswith("v=")), ""),
            is_leader=is_leader,
            started_s=self.loop.time(),
            behaviour=behaviour,
        )
        self.table[pid] = found
        if is_leader:
            self.tell("spawn", self.name, {"process": found})
        return found

    def _process(self, found: Running) -> Process:
        started_at = self.wall() - (self.loop.time() - found.started_s)
        return Process(found.pid, found.start_time, self.boot_id, found.run, started_at, is_enrolled=True)

    def _find(self, process: Process) -> Running | None:
        """Return the process of this identity: a number alone is none."""
        found = self.table.get(process.pid)
        is_same = found is not None and (process.start_time, process.boot_id) == (found.start_time, self.boot_id)
        return found if is_same else None

    def watch(self, instance: InstanceId, process: Process, on_exit: OnExit) -> bool:
        """Tell of the end of a process."""
        found = self._find(process)
        if found is None:
            return False
        found.on_exit, found.watcher = on_exit, self.watcher
        return True

    def unwatch(self, process: Process) -> None:
        """Tell nobody any more."""
        found = self._find(process)
        if found is not None:
            found.on_exit = None

    def signal(self, process: Process, name: str) -> bool:
        """Send a signal to the process group."""
        self._act(f"signal {name}")
        found = self._find(process)
        if found is not None:
            self.tell("signal", self.name, {"process": found, "signal": name, "run": process.run})
            if name == "SIGKILL":
                self.loop.later(0.001, self._ends, found, None, "SIGKILL", "killed")
            elif name == "SIGTERM" and not found.behaviour.is_stubborn and not found.is_signalled:
                found.is_signalled = True
                stop_s = self.rng.uniform(0.01, found.behaviour.stop_s)
                self.loop.later(stop_s, self._ends, found, 0, None, "stopped")
        self._acted(f"signal {name}")
        return found is not None

    def is_tree_empty(self, instance: InstanceId, process: Process) -> bool:
        """Return whether no process of the instance is left."""
        return not any(found.instance == instance for found in self.table.values())

    async def end_tree(self, instance: InstanceId, process: Process | None) -> None:
        """Kill every process of the instance."""
        self._act(f"end tree {instance}")
        while True:
            tree = [found for found in self.table.values() if found.instance == instance]
            for found in tree:
                self.loop.later(self.rng.uniform(0.0, 0.02), self._ends, found, None, "SIGKILL", "killed with its tree")
            await asyncio.sleep(0.03)
            if not any(found.instance == instance for found in self.table.values()):
                self._acted(f"end tree {instance}")
                return

    def find_marked(self) -> list[Found]:
        """Return all processes of workers, oldest first."""
        ours = [found for found in self.table.values() if found.instance != STRANGER]
        alive = sorted(ours, key=lambda found: (found.start_time, found.pid))
        return [Found(found.instance, self._process(found), found.is_leader) for found in alive]

    def exit_of(self, process: Process) -> LastExit | None:
        """Return what the keeper has kept of an end."""
        return self.exits.get((process.pid, process.start_time, self.boot))

    def release(self, instance: InstanceId) -> None:
        """Keep nothing for an instance."""

    def close(self) -> None:
        """Stop watching."""
        for found in self.table.values():
            found.on_exit = None

    def _act(self, what: str) -> None:
        if self.before_action is not None and not self.before_action(what):
            raise Killed

    def _acted(self, what: str) -> None:
        if self.after_action is not None and not self.after_action(what):
            raise Killed

    # -- what happens by itself -------------------------------------------------------------------

    def _ends(self, found: Running, code: int | None, signal: str | None, why: str) -> None:
        if self.table.get(found.pid) is not found:
            return
        del self.table[found.pid]
        last_exit = LastExit(code, signal, self.wall())
        self.exits[found.pid, found.start_time, self.boot] = last_exit
        if found.is_leader:
            self.tell("exit", self.name, {"process": found, "why": why, "code": code, "signal": signal})
        if self.rng.random() < STRANGERS and found.instance != STRANGER and self.is_up:
            start_time = int(self.loop.time() * TICKS_PER_S) + 1
            other = Running(found.pid, start_time, STRANGER, "", "", 0, "", False, self.loop.time(), Behaviour())
            self.table[found.pid] = other
            self.loop.later(self.rng.uniform(1.0, 60.0), self._ends, other, 0, None, "by itself")
        if found.on_exit is not None and found.watcher is not None and not found.watcher.is_dead:
            found.watcher.call(found.on_exit, last_exit)

    def _has_had_enough(self, found: Running) -> None:
        if not self.is_calm:
            self._ends(found, found.behaviour.code, None, "by itself")

    def end(self, found: Running, why: str) -> None:
        """Kill one process."""
        self._ends(found, None, "SIGKILL", why)

    def kill_some(self, share: float) -> None:
        """End some of the processes by chance, as if somebody had."""
        for found in sorted(self.table.values(), key=lambda found: found.pid):
            if self.rng.random() < share and found.instance != STRANGER:
                self._ends(found, None, "SIGKILL", "killed by somebody")

    def fall(self) -> None:
        """Lose power: every process ends, and nobody is told."""
        self.is_up = False
        for found in sorted(self.table.values(), key=lambda found: found.pid):
            found.on_exit = None
            self._ends(found, None, "SIGKILL", "the host fell")

    def boot_again(self) -> None:
        """Come up with nothing running."""
        self.is_up, self.boot, self._next_pid = True, self.boot + 1, 0
        self.exits.clear()


def is_worker(found: Running) -> bool:
    """Return whether a process is that of a worker, not of a hook."""
    return found.is_leader and not found.run.startswith(HOOK_RUN)
