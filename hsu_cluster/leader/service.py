"""The leader side of a master: campaigns, leads while it may, and serves agents while it leads.

Implements `hsu_cluster.ports.LeaderPort`. A standby knows who leads by watching the leader key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import WSMsgType, web

from hsu_cluster.leader.hub import Hub
from hsu_cluster.leader.identity import Identity
from hsu_cluster.leader.leases import Leases
from hsu_cluster.leader.loop import Planner, PlannerLoop
from hsu_cluster.leader.measuring import Measurer
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.takeover import TCP, Ports, Takeover
from hsu_cluster.leader.traffic.loop import Traffic
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.errors import HsuError, LeaseLost, NoLeader, StoreError
from hsu_core.model.ids import InstanceId
from hsu_core.model.log_query import LogQuery
from hsu_core.model.node import DEFAULT_TIMES, NodeTimes
from hsu_core.model.rebalance import DEFAULT_RULES, RebalanceRules
from hsu_core.model.records import MasterAdvert
from hsu_core.model.view import ClusterView, Plan
from hsu_core.runtime.ambient import REAL, Ambient
from hsu_core.runtime.sockets import Socket
from hsu_core.runtime.tasks import Wake, keep_running
from hsu_core.store.base import Entry, Resync, Store
from hsu_core.store.campaign import Campaign, Leadership, depose
from hsu_core.wire import keys
from hsu_core.wire.codec import FRAME_LIMIT_BYTES, Undecodable, decode, encode
from hsu_core.wire.frames import Chunk, Hello, Redirect, decode_frame, encode_frame

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 5.0
"""An agent says who it is within this time, or its connection is closed."""

LEADER_PATIENCE_S = 2.0
"""How long an agent's first word waits for a leader before it is told that there is none."""

OUTAGE_RETRY_S = 0.25
"""Pause before the next try while the store does not answer."""

HOUSEKEEPING_S = 60.0
"""How often old events are trimmed."""


@dataclass(frozen=True, slots=True)
class LeaderTimes:
    """The times of nodes, and `leader_ttl_s` of the leader key in seconds."""

    nodes: NodeTimes = DEFAULT_TIMES
    leader_ttl_s: float = 5.0


@dataclass(slots=True)
class _Reign:
    """What exists only while this master leads."""

    leadership: Leadership
    hub: Hub
    snapshot: Snapshot
    planner: PlannerLoop


class LeaderService:
    """Campaigning, leading and serving agents; one per master."""

    def __init__(
        self,
        store: Store,
        advert: MasterAdvert,
        times: LeaderTimes,
        *,
        ambient: Ambient = REAL,
        ports: Ports = TCP,
        planner: Planner = reconcile,
        chores: Callable[[], Awaitable[object]] | None = None,
        can_execute: bool = False,
        allow_templates: bool = False,
        rebalance: RebalanceRules = DEFAULT_RULES,
    ) -> None:
        self._store = store
        self._advert = advert
        self._times = times
        self._ambient = ambient
        self._planner = planner
        self._clock = ambient.wall
        self._monotonic = ambient.monotonic
        self._chores = chores
        self._can_execute = can_execute
        self._allow_templates = allow_templates
        self._rebalance = rebalance
        self._reign: _Reign | None = None
        self._leader: MasterAdvert | None = None
        self._leader_changed = asyncio.Event()
        self._term = 0
        self._leadership: Leadership | None = None
        self._handed_over: Leadership | None = None
        self._is_stopping = False
        self._takeover = Takeover(advert, self._depose, self._monotonic, ports)

    # LeaderPort

    @property
    def is_leading(self) -> bool:
        """Return whether this master leads now."""
        return self._reign is not None

    @property
    def term(self) -> int:
        """Return the term this master leads in, or the last one it saw."""
        return self._term

    @property
    def leader(self) -> MasterAdvert | None:
        """Return who leads as far as this master knows."""
        return self._advert if self._reign is not None else self._leader

    def view(self) -> ClusterView | None:
        """Return the leader's view, None on a standby; it holds until the next await."""
        return self._reign.snapshot.view() if self._reign else None

    @property
    def last_plan(self) -> Plan:
        """Return the newest plan (empty on a standby)."""
        return self._reign.planner.last_plan if self._reign else Plan()

    def last_seen(self) -> Mapping[str, float]:
        """Return for each node with a session here the seconds since 1970 of its last frame."""
        return self._reign.hub.last_seen() if self._reign else {}

    def suspects(self) -> Collection[str]:
        """Return the names of the nodes that have been silent for longer than they should be (leader only)."""
        return self._reign.hub.suspects if self._reign else ()

    @asynccontextmanager
    async def logs(self, instance: InstanceId, node: str, query: LogQuery) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Stream the log of an instance from its node."""
        async with self._hub().session(node).ask("logs", instance, **query.arguments()) as chunks:
            yield chunks

    async def signal(self, instance: InstanceId, node: str, name: str) -> None:
        """Send a signal to an instance's process group."""
        async with self._hub().session(node).ask("signal", instance, name=name) as chunks:
            async for _ in chunks:
                pass

    def _hub(self) -> Hub:
        if self._reign is None:
            raise NoLeader("reach a node", "this master does not lead now", "ask again in a few seconds")
        return self._reign.hub

    async def serve_session(self, request: web.Request) -> web.StreamResponse:
        """Serve an agent; a standby tells it where the leader is."""
        socket = web.WebSocketResponse(max_msg_size=FRAME_LIMIT_BYTES, autoping=True, timeout=1.0)
        with contextlib.suppress(ConnectionError):  # it gave up while it waited to be accepted
            await socket.prepare(request)
            await self.serve(socket)
        return socket

    async def serve(self, socket: Socket) -> None:
        """Speak with an agent over an open socket until one side ends it."""
        with contextlib.suppress(ConnectionError):  # it dials again
            await self._converse(socket)

    async def _converse(self, socket: Socket) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                message = await socket.receive()
            frame = decode_frame(message.data) if message.type is WSMsgType.BINARY else None
        except (TimeoutError, Undecodable) as error:
            log.warning("an agent connected and did not say who it is: %s", error)
            frame = None
        if isinstance(frame, Hello):
            await self._wait_for_leader()
            if self._reign is not None:
                await self._reign.hub.serve(socket, frame)
            else:
                urls = (self._leader.url,) if self._leader is not None else ()
                await socket.send_bytes(encode_frame(Redirect(urls)))
        await socket.close()

    async def _wait_for_leader(self) -> None:
        """Wait a little while nobody leads, or while this master begins to: cheaper for both than a new connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEADER_PATIENCE_S):
                while self._reign is None and (self._leader is None or self._is_own(self._leader)):
                    await self._leader_changed.wait()

    def _is_own(self, leader: MasterAdvert) -> bool:
        """Return whether the leader key is this process's."""
        return (leader.name, leader.since) == (self._advert.name, self._advert.since)

    def _set_leader(self, leader: MasterAdvert | None, reign: _Reign | None) -> None:
        self._leader, self._reign = leader, reign
        self._leader_changed.set()
        self._leader_changed = asyncio.Event()

    # Life

    async def run(self) -> None:
        """Watch who leads and campaign, until cancelled; then hand over leadership."""
        async with asyncio.TaskGroup() as group:
            for name, what, work, ceiling_s in (
                ("watch-leader", "watch the leader key", self._watch_leader, 10.0),
                ("lead", "lead", self._campaign_and_lead, 1.0),
            ):
                uniform = self._ambient.uniform
                running = keep_running(what, work, expected=(StoreError,), ceiling_s=ceiling_s, uniform=uniform)
                group.create_task(running, name=name)
            group.create_task(self._takeover.run(), name="takeover")

    async def hand_over(self) -> None:
        """Give up the leadership at once and for good, before anything else is stopped; `run` goes on as a standby.

        What the leader still does meanwhile is fenced off by that. Takes 4 s at most (the store may be away).
        """
        self._is_stopping = True
        self._handed_over = self._leadership
        if self._leadership is not None:
            await self._leadership.resign()

    async def _watch_leader(self) -> None:
        while True:
            page = await self._store.range(keys.LEADER, limit=1)
            self._see_leader(page.entries[0] if page.entries else None)
            async with self._store.watch(keys.LEADER, after_revision=page.revision) as batches:
                async for batch in batches:
                    if isinstance(batch, Resync):
                        break
                    for event in batch.events:
                        self._see_leader(None if event.is_delete else event.entry)

    def _see_leader(self, entry: Entry | None) -> None:
        """Take in the leader key (None: nobody leads)."""
        leader = decode(MasterAdvert, entry.value) if entry is not None else None
        self._set_leader(leader, self._reign)
        self._term = max(self._term, entry.create_revision if entry is not None else 0)
        self._takeover.see(leader, self._term)

    async def _depose(self, leader: MasterAdvert, term: int) -> bool:
        ttl_s = leader.lease_ttl_s or self._times.leader_ttl_s
        return await depose(self._store, keys.LEADER, term, ttl_s)

    async def _campaign_and_lead(self) -> None:
        ttl_s = self._times.leader_ttl_s
        async with Campaign(
            self._store,
            keys.LEADER,
            lambda lease: encode(replace(self._advert, lease_ttl_s=lease.ttl_s)),
            ttl_s,
            progress_limit_s=ttl_s,
            monotonic=self._ambient.boottime,  # a leader that slept with its host has lost its lease
            uniform=self._ambient.uniform,
        ) as campaign:
            while not self._is_stopping:
                leadership = self._leadership = await campaign.acquire()
                try:
                    if not self._is_stopping:
                        await self._lead(leadership)
                finally:
                    reign = self._reign
                    self._set_leader(self._leader, None)
                    if leadership is not self._handed_over:
                        await leadership.resign()
                    if reign is not None:
                        await reign.hub.close()

    async def _lead(self, leadership: Leadership) -> None:
        """Lead until the leadership is lost. Returns then; raises StoreError if the store fails before."""
        self._term = leadership.term
        log.info("leading in term %d", leadership.term, extra={"term": leadership.term})
        wake = Wake()
        writer = FencedWriter(self._store, leadership.fence(), self._clock, self._ambient.token)
        hub: Hub | None = None
        measurer: Measurer | None = None

        def on_change(nodes: set[str]) -> None:
            wake.wake()
            if measurer is not None:
                measurer.wake()
            if hub is not None:
                hub.wake_sessions(nodes)

        snapshot = Snapshot(self._store, on_change, self._times.nodes, self._rebalance)
        await snapshot.load()
        identity = Identity(self._store, snapshot, writer, leadership, clock=self._clock, token=self._ambient.token)
        await identity.establish()
        leases = Leases(
            snapshot,
            self._times.nodes.ttl_s,
            self._monotonic,
            lambda: not leadership.is_presumed_lost(self._ambient.boottime()),
            leadership.deposed_ttl_s,
        )
        hub = Hub(
            snapshot,
            writer,
            term=leadership.term,
            identity=identity,
            leader=self._advert.url,
            times=self._times.nodes,
            clock=self._clock,
            monotonic=self._monotonic,
            leases=leases,
        )
        traffic = Traffic(
            snapshot, writer, clock=self._clock, monotonic=self._monotonic, allow_templates=self._allow_templates
        )
        planner = PlannerLoop(
            snapshot,
            writer,
            wake,
            clock=self._clock,
            monotonic=self._monotonic,
            progress=leadership.progress,
            interval_s=min(1.0, self._times.leader_ttl_s / 8),
            on_plan=traffic.take,
            leases=leases.of_lost_nodes,
            planner=self._planner,
        )
        measurer = Measurer(snapshot, writer, clock=self._clock, can_execute=self._can_execute)
        self._set_leader(self._advert, _Reign(leadership, hub, snapshot, planner))

        async def announce() -> None:
            name = self._advert.name
            await writer.write([writer.event("LeaderElected", name, f"{name} leads in term {leadership.term}")])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work, name=name)
                    for name, work in (
                        ("follow", _through_outages("follow the store", snapshot.follow)),
                        ("plan", _through_outages("plan", planner.run)),
                        ("measure", _through_outages("measure", measurer.run)),
                        ("traffic", _through_outages("keep the routes", traffic.run)),
                        ("statuses", _through_outages("write statuses", hub.statuses.run)),
                        ("nodes", _through_outages("watch nodes", hub.watch_nodes)),
                        ("registrations", _through_outages("register nodes", hub.registrar.run)),
                        ("chores", self._do_chores()),
                        ("announce", _through_outages("announce", announce)),
                    )
                ]
                await leadership.lost.wait()
                log.warning("no longer leading in term %d: %s", leadership.term, leadership.reason)
                for task in tasks:
                    task.cancel()
        except* StoreError as errors:
            raise StoreError("lead", f"{errors.exceptions[0]}") from errors

    async def _do_chores(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self._chores is not None:
                try:
                    await self._chores()
                except HsuError as error:
                    log.warning("housekeeping did not finish: %s", error)


async def _through_outages(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` again when the store fails; leadership ends by its own deadline, or when a write is fenced off."""
    while True:
        try:
            await work()
            return
        except LeaseLost:
            raise
        except StoreError as error:
            log.warning("cannot %s for the moment: %s", what, error)
        await asyncio.sleep(OUTAGE_RETRY_S)
