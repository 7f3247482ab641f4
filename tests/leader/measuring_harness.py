"""A measurer on a store in memory with a clock of the test, and a web server that answers what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from hsu_cluster.leader.measuring import Measurer
from hsu_cluster.leader.service import _through_outages
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_core.model.analysis import AnalysisRun, AnalysisSpec, MetricSpec, Query
from hsu_core.model.assignment import AppRecord, Revision
from hsu_core.model.errors import StoreUnavailable
from hsu_core.model.records import EventRecord
from hsu_core.model.spec import AppSpec
from hsu_core.store.base import Compare, Put, Target, TxnResult, range_all
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from tests.support.builders import SHOP, make_worker

START = 1_000_000.0
RUN = "3-0-web-step2-errors"
PATIENCE_S = 20.0


def metric(query: Query, name: str = "m", **fields: Any) -> MetricSpec:
    """Return a metric that wants results below 1."""
    return MetricSpec(name, query, **{"success_condition": "result < 1", "interval_s": 5.0, **fields})


def new_run(**fields: Any) -> AnalysisRun:
    """Return a run as the planner begins it."""
    return AnalysisRun(SHOP, RUN, "errors", "web", 3, 2, START, **fields)


@dataclass(slots=True)
class Clock:
    """Seconds since 1970, as the test says."""

    now: float = START

    def __call__(self) -> float:
        return self.now


class RefusingStore(MemoryStore):
    """A store that takes no transaction while `refuses`; `refused` counts those."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False
        self.refused = 0

    async def txn(self, *arguments: Any, **options: Any) -> TxnResult:
        """Apply a transaction, or refuse it as a store that is away."""
        if self.refuses:
            self.refused += 1
            raise StoreUnavailable("write", "the store is away")
        return await super().txn(*arguments, **options)


class Measuring:
    """What the test sees: the store, the clock, the run's record."""

    def __init__(self, store: RefusingStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.measurer: Measurer | None = None
        self.writer: FencedWriter | None = None
        self.snapshot: Snapshot | None = None

    async def put_app(self, *metrics: MetricSpec) -> None:
        """Write revision 3 of the shop with one analysis of these metrics."""
        spec = AppSpec("default", "shop", (make_worker(replicas=2),), analyses=(AnalysisSpec("errors", metrics),))
        await self.store.put(keys.app(SHOP), encode(AppRecord(SHOP, 3)))
        await self.store.put(keys.revision(SHOP, 3), encode(Revision(SHOP, 3, "c", spec, (("web", "s1"),))))

    async def put_run(self, run: AnalysisRun) -> None:
        """Write a run as the planner does."""
        await self.store.put(keys.run(run.app, run.id), encode(run))

    async def read_run(self) -> AnalysisRun:
        """Return the record of the run in the store."""
        entry = await self.store.get(keys.run(SHOP, RUN))
        assert entry is not None
        return decode(AnalysisRun, entry.value)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds
        if self.measurer is not None:
            self.measurer.wake()

    async def until(self, is_true: Callable[[AnalysisRun], Any]) -> AnalysisRun:
        """Return the run as soon as its record is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_true(run := await self.read_run()):
                await asyncio.sleep(0.005)
            return run

    async def over(self) -> AnalysisRun:
        """Return the run when it is over."""
        return await self.until(lambda run: run.finished_at is not None)

    async def events(self) -> list[EventRecord]:
        """Return all events."""
        page = await range_all(self.store, keys.EVENTS)
        return [decode(EventRecord, entry.value) for entry in page.entries]

    @asynccontextmanager
    async def leading(self, *, can_execute: bool = False) -> AsyncIterator[Measurer]:
        """Lead: a new term, a snapshot that follows the store, and a measurer; an earlier leader is fenced off."""
        await self.store.delete(keys.LEADER)
        term = await self.store.put(keys.LEADER, b"leader")
        self.writer = FencedWriter(self.store, Compare(keys.LEADER, Target.CREATE, term), self.clock)
        self.snapshot = Snapshot(self.store, lambda nodes: self.measurer.wake() if self.measurer else None)
        await self.snapshot.load()
        self.measurer = Measurer(self.snapshot, self.writer, clock=self.clock, can_execute=can_execute)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.snapshot.follow()),
                group.create_task(_through_outages("measure", self.measurer.run)),
            ]
            yield self.measurer
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def measuring(*metrics: MetricSpec, **fields: Any) -> AsyncIterator[Measuring]:
    """Give a store with the shop and one run of an analysis of these metrics."""
    store = RefusingStore()
    world = Measuring(store, Clock())
    await world.put_app(*metrics)
    await world.put_run(new_run(**fields))
    try:
        yield world
    finally:
        await store.close()


@asynccontextmanager
async def measured(*metrics: MetricSpec, can_execute: bool = False, **fields: Any) -> AsyncIterator[Measuring]:
    """The same with a leader that measures."""
    async with measuring(*metrics, **fields) as world, world.leading(can_execute=can_execute):
        yield world


Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Server:
    """A web server; `answers` are given one after the other, the last one for ever. A float is Prometheus' scalar."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """If there is one, answers wait for it."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(str(request.rel_url))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if self.gate is not None:
            await self.gate.wait()
        if callable(found):
            response: web.StreamResponse = await found(request)
            return response
        return web.json_response(found)


def vector(*values: object) -> Mapping[str, Any]:
    """Return the answer of Prometheus to a query with so many series."""
    series: Sequence[Any] = [{"metric": {"n": str(n)}, "value": [1.0, str(value)]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


@asynccontextmanager
async def serving(*answers: Any) -> AsyncIterator[Server]:
    """Run a server with these answers on a free port."""
    server = Server(answers=list(answers))
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        with suppress(asyncio.CancelledError):
            await runner.cleanup()


async def end_run(world: Measuring) -> None:
    """Tell the run that no more of it is needed, in the way of the planner: under the lock, from the snapshot."""
    assert world.writer is not None
    assert world.snapshot is not None
    async with world.writer.runs:
        run = world.snapshot.view().runs[SHOP, RUN]
        operation = Put(keys.run(SHOP, RUN), encode(replace(run, is_ended=True)))
        await world.snapshot.reach(await world.writer.write([operation]))
