"""Virtual time, and programs that are stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.sim.virtual import Program, Stuck, VirtualLoop


async def test_an_hour_passes_at_once() -> None:
    loop = asyncio.get_running_loop()
    before_s = loop.time()
    await asyncio.sleep(3600.0)
    assert loop.time() - before_s == pytest.approx(3600.0)


def test_a_loop_in_which_nothing_can_happen_says_so() -> None:
    loop = VirtualLoop()
    with pytest.raises(Stuck):
        loop.run_until_complete(asyncio.Event().wait())
    loop.finish()


def _ticking(loop: VirtualLoop, said: list[str]) -> Program:
    program = Program(loop, "ticks")

    async def tick() -> None:
        try:
            while True:
                await asyncio.sleep(1.0)
                said.append(f"tick {loop.time():g}")
        finally:
            said.append("last words")

    program.start(tick(), "tick")
    return program


def test_a_killed_program_says_no_last_words() -> None:
    loop, said = VirtualLoop(), []
    program = _ticking(loop, said)
    loop.later(2.5, program.kill)
    loop.run_until_complete(asyncio.sleep(10.0))
    assert said == ["tick 1", "tick 2"]
    loop.finish()


def test_a_stopped_program_does_what_became_due_when_it_goes_on() -> None:
    loop, said = VirtualLoop(), []
    program = _ticking(loop, said)
    loop.later(1.5, program.stop)
    loop.later(9.5, program.go_on)
    loop.run_until_complete(asyncio.sleep(11.0))
    assert said == ["tick 1", "tick 9.5", "tick 10.5"]
    loop.finish()


def test_a_timer_that_is_cancelled_while_it_is_held_does_not_ring() -> None:
    loop, said = VirtualLoop(), []
    program = Program(loop, "waits")
    inbox: asyncio.Queue[str] = asyncio.Queue()

    async def wait() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                said.append(await inbox.get())

    program.start(wait(), "wait")
    loop.later(1.0, program.stop)
    loop.later(2.0, inbox.put_nowait, "letter")
    loop.later(9.0, program.go_on)
    loop.run_until_complete(asyncio.sleep(10.0))
    assert said == ["letter"]
    assert loop.failure is None
    loop.finish()
