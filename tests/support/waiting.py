"""Waiting for a condition with a deadline, in the place of sleeping in tests."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_S = 0.01
"""Between two looks; short against everything that is waited for."""

PATIENCE = float(os.environ.get("HSU_TEST_PATIENCE", "1"))
"""By how much all waits are longer: in an emulated machine everything takes ten times as long."""


def _last(condition: Callable[[], T]) -> str:
    return f"still {condition()!r}"


async def eventually(condition: Callable[[], T], *, within_s: float = 20.0, why: str = "") -> T:
    """Return the first true value of `condition`; fail the test if there is none within `within_s`."""
    deadline_s = time.monotonic() + within_s * PATIENCE
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s:g} s: {why or _last(condition)}")
        await asyncio.sleep(PAUSE_S)


def random_moment(chance: random.Random, longest_s: float) -> None:
    """Let a random time pass, for tests of what may happen at any moment."""
    time.sleep(chance.uniform(0.0, longest_s))
