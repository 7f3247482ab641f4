"""Events: what happened, for people; and the bounds of what is kept of the past."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hsu_cluster.api.apps import namespace_and_app
from hsu_cluster.api.calls import Answer, Call, page_request, page_token
from hsu_cluster.api.documents import event_document
from hsu_cluster.api.writing import IdempotencyRecord
from hsu_cluster.client.documents import EventDocument
from hsu_core.model.records import EventRecord
from hsu_core.store.base import TXN_OPERATIONS_LIMIT, Delete, Entry, Store, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import Undecodable, decode

EVENTS_KEPT = 10_000
"""About 3 MB of store; older ones belong into a log system."""

WINDOWS_S = (600.0, 7200.0, 0.0)
"""How far back events are read at first, then, and at last (0: all of them)."""

KEYS_KEPT = 10_000
"""Idempotency keys kept, and revision floors of removed apps: some 100 bytes each."""

KEY_LIFE_S = 24 * 3600.0
"""A retry comes within minutes; a day covers a script that was interrupted overnight."""


async def list_events(call: Call) -> Answer:
    """Return events, newest first, of all or of one namespace or app."""
    namespace, app = namespace_and_app(call)
    page = page_request(call)
    store, now_s = call.services.store, call.services.clock()
    revision = page.revision
    items: list[EventDocument] = []
    for window_s in WINDOWS_S:  # the newest are what is asked for: most calls end with the first window
        start = keys.event(max(0.0, now_s - window_s), "") if window_s else keys.EVENTS
        entries, revision = await _since(store, start, revision)
        items = [
            document
            for entry in reversed(entries)
            if (document := _document(entry)) is not None
            and namespace in (None, document["namespace"])
            and app in (None, document["app"])
            and (not page.after or document["id"] < page.after[0])
        ]
        if len(items) > page.limit:
            break
    shown = items[: page.limit]
    is_more = len(items) > page.limit
    token = page_token(revision or 0, (shown[-1]["id"],)) if is_more else None
    return Answer({"items": shown, "revision": revision, "next": token})


async def _since(store: Store, start_key: str, revision: int | None) -> tuple[list[Entry], int]:
    """Return the events from `start_key` on, at one revision."""
    entries: list[Entry] = []
    key: str | None = start_key
    while True:
        page = await store.range(keys.EVENTS, start_key=key, revision=revision)
        entries += page.entries
        key, revision = page.next_key, page.revision
        if key is None:
            return entries, revision


def _document(entry: Entry) -> EventDocument | None:
    try:
        return event_document(entry.key, decode(EventRecord, entry.value), entry.mod_revision)
    except Undecodable:
        return None  # one damaged event must not hide the others


async def trim_events(store: Store, *, clock: Callable[[], float] = time.time, events_kept: int = EVENTS_KEPT) -> int:
    """Delete events, idempotency keys and floors beyond what is kept; return how many. The leader calls it."""
    events = (await range_all(store, keys.EVENTS)).entries
    stale = [entry.key for entry in events[: max(0, len(events) - events_kept)]]
    used = sorted((await range_all(store, keys.IDEMPOTENCY)).entries, key=lambda entry: entry.mod_revision)
    stale += [
        entry.key
        for rank, entry in enumerate(used)
        if rank < len(used) - KEYS_KEPT or decode(IdempotencyRecord, entry.value).at < clock() - KEY_LIFE_S
    ]
    floors = sorted((await range_all(store, keys.REMOVED)).entries, key=lambda entry: entry.mod_revision)
    stale += [entry.key for entry in floors[: max(0, len(floors) - KEYS_KEPT)]]
    for start in range(0, len(stale), TXN_OPERATIONS_LIMIT):
        await store.txn([], _deletes(stale[start : start + TXN_OPERATIONS_LIMIT]))
    return len(stale)


def _deletes(names: Sequence[str]) -> list[Delete]:
    return [Delete(name) for name in names]
