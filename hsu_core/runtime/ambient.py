"""What a program takes from its surroundings without asking: time and chance, as one argument.

The default is the real thing. A simulation gives every host clocks and chance of its own, so that the same seed makes
the same run. Whoever waits does so on the event loop, whose clock a simulation owns too.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, slots=True)
class Ambient:
    """Clocks in seconds and sources of chance.

    `wall` counts from 1970 and may jump; `monotonic` never goes back; `boottime` neither, and it goes on while the
    host sleeps. `uniform(low, high)` spreads waits; `token(n)`
    returns `n` unguessable bytes in hex digits, which nobody else has.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    token: Callable[[int], str] = secrets.token_hex
    boottime: Callable[[], float] = _boottime


REAL = Ambient()
