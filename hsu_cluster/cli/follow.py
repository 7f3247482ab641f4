"""Look again whenever the cluster says that something changed, and now and then without being told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from hsu_core.model.errors import HsuError
from hsu_core.runtime.tasks import Wake, keep_running

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

POLL_S = 1.0
"""A look without a notice: covers a watch that is just being opened on another master."""

TRANSIENT = frozenset(
    {"client.unreachable", "client.cut", "store.unavailable", "store.outcome-unknown", "cluster.no-leader"}
)
"""Errors that pass when the next master answers."""


async def follow(
    cluster: ClusterClient,
    look: Callable[[], Awaitable[bool]],
    *,
    namespace: str | None = None,
    app: str | None = None,
    kinds: Sequence[str] = (),
    timeout_s: float | None = None,
    poll_s: float = POLL_S,
) -> bool:
    """Call `look` at once and after each change until it returns True; return False when the time is over.

    A master that cannot be reached for a while is waited for; other errors of `look` are raised.
    """
    try:
        return await _follow(cluster, look, namespace, app, kinds, timeout_s, poll_s)
    except BaseExceptionGroup as group:
        raise unwrapped(group) from group


async def _follow(
    cluster: ClusterClient,
    look: Callable[[], Awaitable[bool]],
    namespace: str | None,
    app: str | None,
    kinds: Sequence[str],
    timeout_s: float | None,
    poll_s: float,
) -> bool:
    wake = Wake()
    wake.wake()
    clock = asyncio.get_running_loop().time
    deadline = None if timeout_s is None else clock() + timeout_s

    async def listen() -> None:
        async for _ in cluster.watch(namespace, app, kinds):
            wake.wake()
        raise HsuError("watch", "the master ended the watch", code="client.cut")

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(keep_running("watch", listen, ceiling_s=POLL_S, expected=(HsuError,)))
        try:
            while not await _look(look):
                left_s = poll_s if deadline is None else min(poll_s, deadline - clock())
                if left_s <= 0:
                    return False
                await wake.wait(left_s)
            return True
        finally:
            listening.cancel()


async def _look(look: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await look()
    except HsuError as error:
        if error.code in TRANSIENT:
            return False
        raise


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error inside nested groups: what a task group adds is of no use to people."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
