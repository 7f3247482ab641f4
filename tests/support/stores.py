"""Waiting and watching with deadlines, for tests on any store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hsu_core.store.base import Entry, Event, Resync, Store, Watch, WatchBatch, range_all

PATIENCE_S = 30.0
"""Deadline of anything that must happen; generous, for a starved machine."""


async def eventually(is_true: Callable[[], Awaitable[bool]], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as `is_true()`; raise TimeoutError naming `what` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_true():
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise TimeoutError(f"{what} did not happen within {timeout_s:g} s") from error


async def next_item(watch: Watch, timeout_s: float = PATIENCE_S) -> WatchBatch | Resync:
    """Return the next item of a watch, progress included."""
    async with asyncio.timeout(timeout_s):
        return await anext(watch)


async def next_events(watch: Watch, count: int, timeout_s: float = PATIENCE_S) -> list[Event]:
    """Return the next `count` events or more, up to the end of their batch."""
    events: list[Event] = []
    async with asyncio.timeout(timeout_s):
        while len(events) < count:
            item = await anext(watch)
            assert isinstance(item, WatchBatch), item
            events += item.events
    return events


async def next_resync(watch: Watch, timeout_s: float = PATIENCE_S) -> tuple[list[Event], Resync]:
    """Return the Resync a watch ends with, and the events before it."""
    events: list[Event] = []
    async with asyncio.timeout(timeout_s):
        while True:
            item = await anext(watch)
            if isinstance(item, Resync):
                return events, item
            events += item.events


async def contents(store: Store, prefix: str) -> dict[str, bytes]:
    """Return the keys and values under a prefix."""
    return {entry.key: entry.value for entry in (await range_all(store, prefix)).entries}


async def revision_of(store: Store) -> int:
    """Return the present revision."""
    return (await store.txn([], [])).revision


def check_history(events: Sequence[Event]) -> None:
    """Assert that revisions never go back and no event comes twice."""
    seen = [(event.entry.mod_revision, event.entry.key) for event in events]
    assert len(set(seen)) == len(seen), "an event came twice"
    revisions = [revision for revision, _ in seen]
    assert revisions == sorted(revisions), "events came out of order"


def keys_of(entries: Sequence[Entry]) -> list[str]:
    """Return the keys."""
    return [entry.key for entry in entries]
