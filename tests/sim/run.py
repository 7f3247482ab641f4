"""One run: warm-up, faults with every promise watched, healing, a deadline until all stands as wanted, then silence."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.sim.checks import Violation
from tests.sim.options import WARM_UP_S, Options
from tests.sim.settled import unsettled, view_faults
from tests.sim.virtual import Stuck
from tests.sim.world import REAL_PARTS, Parts, World

SETTLE_S = 150.0
"""Longest time from the end of all faults to a cluster as wanted: back-offs and the deadlines of calls included."""

STILL_S = 15.0
"""A cluster stands as wanted when it has for so long: a step of a rollout may still be waited for before."""

QUIET_S = 60.0
"""So long nothing is written afterwards: twice the time after which the planner looks at everything anyway."""

LOOK_S = 5.0
"""How often the leader's view is compared with what was committed."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `violation` None: every promise was kept."""

    options: Options
    violation: Violation | None
    log: tuple[str, ...] = field(repr=False)
    reached: Counter[str]
    virtual_s: float
    events: int
    picture: tuple[str, ...] = ()
    """What runs in the end: slots with the version that runs there."""

    def report(self, lines: int = 60) -> str:
        """Return what a person needs to find the cause."""
        last = "\n".join(self.log[-lines:])
        seed = self.options.seed
        return (
            f"{self.violation}\n\nthe last events:\n{last}\n\nseed {seed}, decisions:\n{self.options.text()}\n\n"
            f"play it again: make sim SEED={seed}"
        )


def memory_folder() -> str | None:
    """Return a folder in memory where the system has one: ledgers are synced, and that waits for a disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def run(
    options: Options,
    parts: Parts = REAL_PARTS,
    *,
    settle_s: float = SETTLE_S,
    prepare: Callable[[World], None] | None = None,
) -> Result:
    """Run a seed to its end, or to the first violation; `prepare` may look at the world before it begins."""
    folder = Path(tempfile.mkdtemp(prefix="hsu-sim-", dir=memory_folder()))
    logging.disable(logging.CRITICAL)
    world = World(options, folder, parts)
    if prepare is not None:
        prepare(world)
    asyncio.set_event_loop(world.loop)
    main = world.loop.create_task(_phases(world, settle_s), name="phases", context=world.loop.nobody.copy())
    try:
        world.loop.run_until_complete(main)
    except (Violation, Stuck) as error:
        if world.checks.violation is None:
            world.checks.violation = error if isinstance(error, Violation) else Violation("stuck", str(error))
    except RuntimeError:
        if world.checks.violation is None:
            raise
    finally:
        log, virtual_s, events = tuple(world.log), world.loop.time(), world.loop.events
        running = world.checks.alive.items()
        picture = tuple(sorted(f"{each} {found.version}" for each, here in running for _, found in here))
        world.loop.finish()
        asyncio.set_event_loop(None)
        shutil.rmtree(folder, ignore_errors=True)
        logging.disable(logging.NOTSET)
    return Result(options, world.checks.violation, log, world.checks.reached, virtual_s, events, picture)


async def _phases(world: World, settle_s: float) -> None:
    loop, options = world.loop, world.options
    await world.begin()
    await _watch(world, WARM_UP_S)
    _demand_settled(world, "warm-up", WARM_UP_S)
    world.faults.begin()
    for decision in options.decisions:
        loop.later(max(0.0, decision.at_s - loop.time()), world.do, decision)
    await _watch(world, WARM_UP_S + options.fault_phase_s + 1.0)
    world.note("== heal")
    world.faults.heal()
    world.workload.uncordon_all()
    deadline_s = loop.time() + settle_s
    seen, since_s = 0, loop.time()
    while loop.time() < deadline_s:
        await _watch(world, loop.time() + 1.0)
        if world.truth.revision != seen or any(unsettled(world)) or not _nothing_is_asked(world):
            seen, since_s = world.truth.revision, loop.time()
        elif loop.time() - since_s > STILL_S:
            break
    _demand_settled(world, "the end of all faults", settle_s)
    revision = world.truth.revision
    await _watch(world, loop.time() + QUIET_S)
    if world.truth.revision != revision:
        world.checks.fail("I8", f"{world.truth.revision - revision} writes after all stood as wanted")
    for told in world.workload.told:
        world.checks.on_told(told)
    await asyncio.sleep(0)


def _nothing_is_asked(world: World) -> bool:
    return all(told.told_s for told in world.workload.told)


def _demand_settled(world: World, what: str, time_s: float) -> None:
    faults = list(unsettled(world))
    if faults:
        world.checks.fail("I8", f"{time_s:g} s after {what}: {'; '.join(faults[:5])}")
        raise world.checks.violation or AssertionError


async def _watch(world: World, until_s: float) -> None:
    """Let time pass, and look at what is to be seen from outside now and then."""
    loop = world.loop
    while loop.time() < until_s:
        await asyncio.sleep(min(LOOK_S, until_s - loop.time()))
        if loop.failure is not None:
            raise Violation("crash", f"{type(loop.failure).__name__}: {loop.failure}") from loop.failure
        for fault in view_faults(world):
            world.checks.fail("I13", fault)
