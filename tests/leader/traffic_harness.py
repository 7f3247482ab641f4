"""The traffic loop over a real store and snapshot, instances that are real HTTP servers, and a load that counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp import web

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.traffic.loop import Traffic
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.traffic import registered
from hsu_core.model.assignment import AppRecord, Assignment
from hsu_core.model.lifecycle import State
from hsu_core.model.rollout import Rollout, Stage, WorkerRollout
from hsu_core.model.routes import Provider, RouteSpec, RouteState
from hsu_core.model.view import Plan
from hsu_core.store.base import Compare, Target
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.support.builders import SHOP, make_assignment, make_node, make_revision, make_status, make_worker, slot
from tests.support.waiting import eventually


class Instance:
    """A worker that answers `/` with its slot, and `/slow` when it is let."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answered = 0
        self.slow = asyncio.Event()
        self.at_slow = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/", self._answer)
        app.router.add_get("/slow", self._answer_slowly)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End at once, whatever is open."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.answered += 1
        return web.Response(text=str(self.number))

    async def _answer_slowly(self, _: web.Request) -> web.Response:
        self.at_slow += 1
        await self.slow.wait()
        return web.Response(text=str(self.number))


@dataclass(slots=True)
class Load:
    """Requests without a pause, and what became of them."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return how many requests were answered well."""
        return self.answers.total()

    async def more(self, count: int = 150) -> Counter[str]:
        """Wait for so many more answers and return who gave them."""
        before = self.answers.copy()
        limit = self.count + count
        await eventually(lambda: self.count >= limit or self.failures)
        return self.answers - before


class Cluster:
    """A leader's store with one app, the loop under test, and a plan that the test writes."""

    def __init__(self, *, allow_templates: bool = True) -> None:
        self.store = MemoryStore()
        self.plan = Plan()
        self.instances: dict[int, Instance] = {}
        self.orders: dict[int, Assignment] = {}
        self.has_plan = True
        """Whether the planner plans at every change."""

        self.ahead_s = 0.0
        """By how much the loop's clock is ahead: time that a test need not wait for."""

        self._allow_templates = allow_templates
        self.snapshot: Snapshot
        self.traffic: Traffic

    @property
    def state(self) -> RouteState:
        """Return the record of the route, an empty one where there is none."""
        return self.snapshot.view().routes.get((SHOP, "web")) or RouteState(SHOP, "web")

    @property
    def members(self) -> list[int]:
        """Return the slots that are confirmed."""
        return [one.instance.slot for one in self.state.endpoints if one.instance not in self.state.joining]

    async def deploy(self, *routes: RouteSpec, number: int = 1, strategy: str = "canary") -> None:
        """Write a revision of the shop with these routes."""
        made = make_revision(number, make_worker("web", ports=["http"], strategy=strategy))
        made = replace(made, spec=replace(made.spec, routes=routes))
        await self.store.put(keys.revision(SHOP, number), encode(made))
        await self.store.put(keys.app(SHOP), encode(AppRecord(SHOP, number)))

    async def two_sets(self, strategy: str = "canary", new_base: int = 100) -> None:
        """Write a rollout with two sets (equal bases: with one)."""
        worker = WorkerRollout("web", strategy, Stage.STEPS, 0, new_base)
        await self.store.put(keys.rollout(SHOP), encode(Rollout(SHOP, 1, workers=(worker,))))

    async def run(self, *numbers: int) -> None:
        """Start instances, and let their agent report them ready."""
        for number in numbers:
            one = self.instances.setdefault(number, Instance(number))
            await one.start()
            epoch = (await self.store.status()).revision + 1
            order = make_assignment(slot("web", number), "a", epoch=epoch, ports={"http": one.port})
            self.orders[number] = order
            await self.store.put(keys.assignment(order.instance), encode(order))
            await self.report(number)

    async def report(self, number: int, state: State = State.RUNNING, *, is_ready: bool = True) -> None:
        """Let the agent report an instance."""
        status = make_status(self.orders[number], state, is_ready=is_ready)
        await self.store.put(keys.status(status.instance, "a"), encode(status))

    def replan(self) -> None:
        """Let the planner plan the same once more."""
        if self.has_plan:
            self.traffic.take(self.plan, None)

    def leave(self, *numbers: int) -> None:
        """Let the planner want these instances out (no number: none any more)."""
        self.plan = replace(self.plan, leaving=frozenset(slot("web", number) for number in numbers))
        self.traffic.take(self.plan, None)

    def weigh(self, percent: int) -> None:
        """Let the planner want this percent for the new set."""
        self.plan = replace(self.plan, weights={(SHOP, "web"): percent})
        self.traffic.take(self.plan, None)

    async def left(self, *numbers: int) -> None:
        """Wait until these instances may be stopped."""
        asked = {slot("web", number) for number in numbers}
        await eventually(
            lambda: not asked & registered(self.snapshot.view()).get(SHOP, set()),
            why=f"{self.state}",
        )

    async def stop(self, *numbers: int) -> None:
        """Let them leave, then end them and forget them: what the planner and the agent do."""
        self.leave(*numbers)
        await self.left(*numbers)
        for number in numbers:
            await self.instances.pop(number).stop()
            order = self.orders.pop(number)
            await self.store.delete(keys.assignment(order.instance))
            await self.store.delete(keys.status(order.instance, "a"))
        self.leave()

    async def joined(self, *numbers: int) -> None:
        """Wait until the route has exactly these, confirmed."""
        await eventually(lambda: self.members == sorted(numbers) and not self.state.trouble, why=f"{self.state}")


@asynccontextmanager
async def running_cluster(cluster: Cluster | None = None, *, has_plan: bool = True) -> AsyncIterator[Cluster]:
    """Run the snapshot and the traffic loop of a leader until the context ends; a given cluster gets a new leader."""
    cluster = cluster or Cluster()
    cluster.has_plan = has_plan
    node = replace(make_node("a"), address="127.0.0.1")
    await cluster.store.put(keys.node("a"), encode(node))
    await cluster.store.delete(keys.LEADER)
    term = await cluster.store.put(keys.LEADER, b"a leader")
    writer = FencedWriter(cluster.store, Compare(keys.LEADER, Target.CREATE, term), time.time)
    cluster.snapshot = Snapshot(cluster.store, lambda _: cluster.replan())
    cluster.traffic = Traffic(
        cluster.snapshot,
        writer,
        clock=time.time,
        monotonic=lambda: time.monotonic() + cluster.ahead_s,
        allow_templates=cluster._allow_templates,
    )
    await cluster.snapshot.load()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cluster.snapshot.follow()), group.create_task(cluster.traffic.run())]
        try:
            yield cluster
        finally:
            for task in tasks:
                task.cancel()


async def stop_all(cluster: Cluster) -> None:
    """End the instances."""
    for one in cluster.instances.values():
        one.slow.set()
        await one.stop()


@asynccontextmanager
async def running_load(url: str, clients: int = 6) -> AsyncIterator[Load]:
    """Send requests to a URL without a pause, over connections that are kept and new ones alike."""
    load = Load()
    is_over = asyncio.Event()

    async def client(session: aiohttp.ClientSession, is_closing: bool) -> None:
        headers = {"Connection": "close"} if is_closing else {}
        while not is_over.is_set():
            try:
                async with session.get(url, headers=headers) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        load.answers[text] += 1
                    else:
                        load.failures.append(f"{answer.status}: {text[:60]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                load.failures.append(repr(error))

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(session, number % 2 == 1))
        try:
            yield load
        finally:
            is_over.set()


def route(provider: Provider | None, *, drain_s: float = 10.0) -> RouteSpec:
    """Return the shop's route."""
    return RouteSpec("web", "web", "http", provider, drain_s)
