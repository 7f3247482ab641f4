"""Task ownership: small tools over `asyncio.TaskGroup`, so that no task is without an owner."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def keep_running(
    name: str,
    work: Callable[[], Awaitable[None]],
    *,
    base_s: float = 0.2,
    ceiling_s: float = 10.0,
    expected: tuple[type[Exception], ...] = (),
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Run `work` until it returns; after an error in `expected` wait (with jitter, doubling) and run it again.

    Any other error ends the caller's task group: it is a bug and must be seen.
    """
    delay_s = base_s
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await work()
            return
        except expected as error:
            if asyncio.get_running_loop().time() - started > ceiling_s:
                delay_s = base_s
            log.warning("%s: %s; trying again in %.1f s", name, error, delay_s)
        await asyncio.sleep(delay_s * uniform(0.5, 1.0))
        delay_s = min(delay_s * 2, ceiling_s)


class Wake:
    """A flag that a loop waits for: many wakes before it looks count as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Make the waiting loop go round once more."""
        self._event.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until woken, at most `timeout_s`; return whether it was woken. Clears the flag."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
