"""Fixtures of the simulation's own tests: coroutine tests run in virtual time."""

from __future__ import annotations

import asyncio
import inspect
from random import Random

import pytest

from hsu_core.store.base import Store
from tests.sim.store import QUIET, Truth, View
from tests.sim.virtual import VirtualLoop
from tests.store.conftest import Backend


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in a virtual loop; no task may outlive it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def run() -> None:
        await pyfuncitem.obj(**wanted)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
    return True


@pytest.fixture
def backend() -> Backend:
    """The simulated store with its faults off."""

    async def connect() -> Store:
        return View(Truth(asyncio.get_running_loop(), Random(1)), "contract", Random(2), QUIET)  # type: ignore

    return Backend("sim", "/test/", connect)


@pytest.fixture
def slow_backend(backend: Backend) -> Backend:
    """The same: it is not slow."""
    return backend
