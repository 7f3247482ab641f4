"""Puts per second and latencies of every store backend; `python bench/store.py`.

Prints one line per backend and load: durable puts per second, latency percentiles of the puts,
the delay until a watch delivers them, and the time of a hand-over between two candidates. SQLite
is also measured while its history is compacted. etcd is taken from PATH and `.cache/etcd`, runs
with its syncs on, and is left out if there is none.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hsu_core.store.base import Store, WatchBatch
from hsu_core.store.campaign import Campaign
from hsu_core.store.etcd import EtcdStore
from hsu_core.store.memory import MemoryStore
from hsu_core.store.sqlite import SqliteStore
from tests.support.etcd import EtcdCluster, find_etcd_binaries

DURATION_S = 3.0
VALUE = b"v" * 256
HAND_OVERS = 20


@asynccontextmanager
async def closing(store: Store) -> AsyncIterator[Store]:
    """Close the store at the end."""
    try:
        yield store
    finally:
        await store.close()


def percentiles_ms(samples_s: list[float]) -> str:
    """Return p50, p99 and the maximum in milliseconds."""
    ordered = sorted(samples_s)
    p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {p50 * 1000:7.2f}  p99 {p99 * 1000:7.2f}  max {ordered[-1] * 1000:7.2f} ms"


async def put_load(store: Store, callers: int) -> tuple[float, list[float], list[float]]:
    """Return puts per second, their latencies, and the delays of a watch on them, in seconds."""
    latencies_s: list[float] = []
    delays_s: list[float] = []
    sent_s: dict[str, float] = {}
    begun_s = time.perf_counter()
    end_s = begun_s + DURATION_S

    async def write(caller: int) -> None:
        number = 0
        while time.perf_counter() < end_s:
            key = f"/bench/{caller:04}/{number % 50:02}"
            number += 1
            sent_s[key] = now_s = time.perf_counter()
            await store.put(key, VALUE, timeout_s=30)
            latencies_s.append(time.perf_counter() - now_s)
            if number % 100 == 0:
                await asyncio.sleep(0)

    async def follow(after_revision: int) -> None:
        async with store.watch("/bench/", after_revision=after_revision) as watch:
            async for batch in watch:
                if isinstance(batch, WatchBatch):
                    now_s = time.perf_counter()
                    delays_s.extend(now_s - sent_s[event.entry.key] for event in batch.events)

    start = (await store.txn([], [])).revision
    async with asyncio.TaskGroup() as group:
        follower = group.create_task(follow(start))
        async with asyncio.TaskGroup() as writers:
            for caller in range(callers):
                writers.create_task(write(caller))
        took_s = time.perf_counter() - begun_s
        follower.cancel()
    return len(latencies_s) / took_s, latencies_s, delays_s or [0.0]


async def hand_over_load(store: Store) -> list[float]:
    """Return how long the next candidate waited after each resignation, in seconds."""
    samples_s: list[float] = []
    async with Campaign(store, "/bench-leader", b"a", 10) as a, Campaign(store, "/bench-leader", b"b", 10) as b:
        leadership = await a.acquire()
        for number in range(HAND_OVERS):
            candidate = b if number % 2 == 0 else a
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(candidate.acquire())
                await asyncio.sleep(0.05)
                begun_s = time.perf_counter()
                await leadership.resign()
                leadership = await waiting
            samples_s.append(time.perf_counter() - begun_s)
    return samples_s


async def measure(name: str, store: Store) -> None:
    """Print the lines of one backend."""
    for callers in (1, 64, 256):
        rate, latencies_s, delays_s = await put_load(store, callers)
        print(f"{name:14} {callers:4} callers {rate:9,.0f} puts/s   {percentiles_ms(latencies_s)}", flush=True)
        print(f"{'':14} {'':4} put to watch event           {percentiles_ms(delays_s)}", flush=True)
    print(f"{name:14} hand-over                      {percentiles_ms(await hand_over_load(store))}", flush=True)


async def measure_compaction(path: Path) -> None:
    """Print put latencies while the whole history is compacted again and again."""
    async with closing(await SqliteStore.open(path, history_revisions=1_000_000)) as store:

        async def compact() -> None:
            while True:
                await asyncio.sleep(0.5)
                await store.compact((await store.txn([], [])).revision)

        async with asyncio.TaskGroup() as group:
            compactor = group.create_task(compact())
            rate, latencies_s, _ = await put_load(store, 16)
            compactor.cancel()
        print(f"{'sqlite+compact':14}   16 callers {rate:9,.0f} puts/s   {percentiles_ms(latencies_s)}", flush=True)


async def measure_all(folder: Path) -> None:
    """Measure every backend that is there."""
    async with closing(MemoryStore()) as store:
        await measure("memory", store)
    async with closing(await SqliteStore.open(folder / "store.db")) as store:
        await measure("sqlite", store)
    await measure_compaction(folder / "compacted.db")
    for binary in find_etcd_binaries():
        cluster = EtcdCluster(binary.path, is_synced=True)
        await asyncio.to_thread(cluster.start)
        try:
            async with closing(await EtcdStore.connect(cluster.endpoints)) as store:
                await measure(f"etcd {binary.version}", store)
        finally:
            cluster.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        asyncio.run(measure_all(Path(scratch)))
