"""The same random operations on every backend give the same answers, events and contents."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsu_core.model.errors import HsuError
from hsu_core.store.base import Compare, Delete, Entry, Event, Get, Operation, Put, Relation, Store, Target, range_all
from hsu_core.store.etcd import EtcdStore
from hsu_core.store.memory import MemoryStore
from hsu_core.store.sqlite import SqliteStore
from tests.store.conftest import OLDEST_AND_NEWEST
from tests.support.etcd import EtcdCluster
from tests.support.stores import next_events

_NUMBERS = itertools.count()
KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "b/1", "é"])
VALUES = st.binary(max_size=3)
OPERATIONS = st.one_of(
    st.builds(Put, KEYS, VALUES),
    st.builds(Delete, KEYS, st.booleans()),
    st.builds(Get, KEYS),
)
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.just(Target.VALUE), VALUES, st.sampled_from(Relation)),
    st.builds(Compare, KEYS, st.just(Target.VERSION), st.integers(0, 3), st.sampled_from(Relation)),
    st.builds(Compare, KEYS, st.just(Target.CREATE), st.just(0), st.sampled_from(Relation)),
)
TXNS = st.tuples(st.lists(COMPARES, max_size=2), st.lists(OPERATIONS, max_size=4), st.lists(OPERATIONS, max_size=2))
COMPACT = st.just("compact")
REOPEN = st.just("reopen")
STEPS = st.lists(st.one_of(TXNS, TXNS, TXNS, TXNS, COMPACT, REOPEN), max_size=25)


def under(prefix: str, operation: Operation | Compare) -> Any:
    """Return the operation with `prefix` before its key."""
    match operation:
        case Put(key, value, lease):
            return Put(prefix + key, value, lease)
        case Delete(key, is_prefix):
            return Delete(prefix + key, is_prefix)
        case Get(key):
            return Get(prefix + key)
        case Compare(key, target, operand, relation):
            return Compare(prefix + key, target, operand, relation)


def relative(entry: Entry, prefix: str, start: int) -> tuple[Any, ...]:
    """Return an entry without what differs between backends: the prefix and the first revision."""
    create_revision = entry.create_revision and entry.create_revision - start
    return (entry.key.removeprefix(prefix), entry.value, create_revision, entry.mod_revision - start, entry.version)


async def replay(steps: Sequence[Any], store: Store, prefix: str, reopen: Callable[[Store], Any]) -> list[Any]:
    """Run the steps and return everything that can be seen of them."""
    start = (await store.txn([], [])).revision
    seen: list[Any] = []
    compacted = False
    for step in steps:
        if step == "reopen":
            store = await reopen(store)
        elif step == "compact":
            revision = (await store.txn([], [])).revision
            compacted = compacted or revision > start
            await store.compact(revision)
        else:
            compares, success, failure = ([under(prefix, item) for item in part] for part in step)
            try:
                result = await store.txn(compares, success, failure)
            except HsuError as error:
                seen.append((type(error), str(error).replace(prefix, "")))
                continue
            answers = [
                relative(answer, prefix, start) if isinstance(answer, Entry) else answer for answer in result.answers
            ]
            seen.append((result.succeeded, result.revision - start, answers))
    page = await range_all(store, prefix)
    seen.append([relative(entry, prefix, start) for entry in page.entries])
    end = await store.put(prefix + "end", b"")
    if not compacted:
        events: list[Event] = []
        async with store.watch(prefix, after_revision=start) as watch:
            while not events or events[-1].entry.mod_revision < end:
                events += await next_events(watch, 1)
        seen.append([(event.is_delete, relative(event.entry, prefix, start)) for event in events])
    await store.close()
    return seen


async def stay(store: Store) -> Store:
    """Keep a store that cannot be reopened."""
    return store


async def replay_in_memory(steps: Sequence[Any]) -> list[Any]:
    """Run the steps on the reference: the memory backend."""
    return await replay(steps, MemoryStore(), "/t/", stay)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_sqlite_agrees_with_memory_over_restarts(tmp_path: Path, steps: Sequence[Any]) -> None:
    path = tmp_path / f"{next(_NUMBERS)}.db"

    async def reopen(store: Store) -> Store:
        await store.close()
        return await SqliteStore.open(path)

    async def run() -> None:
        got = await replay(steps, await SqliteStore.open(path), "/t/", reopen)
        assert got == await replay_in_memory(steps)

    asyncio.run(run())


@pytest.mark.parametrize("name", OLDEST_AND_NEWEST)
def test_etcd_agrees_with_memory(name: str, etcd_servers: Callable[[str], EtcdCluster]) -> None:
    cluster = etcd_servers(name.partition("-")[2])

    @settings(max_examples=25, deadline=None)
    @given(steps=STEPS)
    def agree(steps: Sequence[Any]) -> None:
        async def run() -> None:
            prefix = f"/agree{next(_NUMBERS)}/"
            got = await replay(steps, await EtcdStore.connect(cluster.endpoints), prefix, stay)
            assert got == await replay_in_memory(steps)

        asyncio.run(run())

    agree()
