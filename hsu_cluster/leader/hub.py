"""The node hub: admits agents, keeps what they observe, notices the silent ones.

Heartbeats live in memory only; transitions are written (fenced) to the store. Whether a node is
lost is decided in `planning.failover`; what to do about it in `planning.reconcile`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from hsu_cluster.leader.session import Session
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.failover import judge_nodes
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.errors import NodeUnreachable, StoreError
from hsu_core.model.ids import InstanceId, is_node_name
from hsu_core.model.lifecycle import Event, State, advance
from hsu_core.model.node import NodeRecord, NodeState
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Delete, Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import OLDEST_PROTOCOL, PROTOCOL, Goodbye, Hello, Refuse, Report, Welcome, encode_frame

log = logging.getLogger(__name__)

SESSIONS_LIMIT = 10_000
"""Agents of one master: twice the 5,000 of the design."""


class Hub:
    """The sessions of one leadership."""

    def __init__(
        self,
        snapshot: Snapshot,
        writer: FencedWriter,
        *,
        term: int,
        incarnation: str,
        leader: str,
        beat_s: float,
        ttl_s: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._term = term
        self._incarnation = incarnation
        self._leader = leader
        self._beat_s = beat_s
        self._ttl_s = ttl_s
        self._clock = clock
        self._monotonic = monotonic
        self._since_s = monotonic()
        self._sessions: dict[str, Session] = {}
        self._silent_since_s: dict[str, float] = {}
        self._pending: dict[str, Operation] = {}
        self._pending_wake = Wake()

    # What a session asks of its hub

    @property
    def revision(self) -> int:
        """Return the store revision of the view."""
        return self._snapshot.revision

    def assignments_of(self, node: str) -> dict[InstanceId, Assignment]:
        """Return the node's assignments as the view has them."""
        return self._snapshot.assignments_of.get(node, {})

    def order_spec(self, assignment: Assignment) -> tuple[str, Any] | None:
        """Return key and plain tree of an assignment's specification."""
        return self._snapshot.order_spec(assignment)

    async def take_report(self, session: Session, report: Report) -> None:
        """Queue what an agent observed for writing; the newest word about an instance counts."""
        for status in report.statuses:
            self._queue_status(replace(status, node=session.node, changed_at=self._clock()))
        for instance in report.gone:
            self._queue(Delete(keys.status(instance, session.node)))
        if report.is_full:
            told = {status.instance for status in report.statuses}
            for instance, node in list(self._snapshot.view().statuses):
                if node == session.node and instance not in told:
                    self._queue(Delete(keys.status(instance, node)))
        self._pending_wake.wake()

    async def take_goodbye(self, session: Session, goodbye: Goodbye) -> None:
        """Write that the agent has left on purpose."""
        why = "its agent was stopped" + (" with its workers" if goodbye.is_stopping_workers else "; its workers run on")
        await self._set_state(session.node, NodeState.LEFT, why)

    # Sessions

    def last_seen(self) -> Mapping[str, float]:
        """Return for each node the seconds since 1970 of its last frame."""
        now_s, now_monotonic_s = self._clock(), self._monotonic()
        return {
            name: now_s - (now_monotonic_s - session.last_frame_s) for name, session in sorted(self._sessions.items())
        }

    def session(self, node: str) -> Session:
        """Return the session of a node. Raises NodeUnreachable."""
        session = self._sessions.get(node)
        if session is None:
            raise NodeUnreachable(
                f"reach node {node}", "it has no session with the leader", "see `hsu-cluster node list`"
            )
        return session

    def wake_sessions(self) -> None:
        """Let every session look for new orders."""
        for session in self._sessions.values():
            session.wake()

    async def serve(self, socket: web.WebSocketResponse, hello: Hello) -> None:
        """Admit an agent and serve it until its session ends."""
        refusal = self._refusal(hello)
        if refusal is not None:
            log.warning("node %s refused: %s", hello.node, refusal.text)
            await socket.send_bytes(encode_frame(refusal))
            return
        previous = self._sessions.get(hello.node)
        session = Session(socket, hello, self._term, self, self._monotonic)
        self._sessions[hello.node] = session
        if previous is not None:
            await previous.close()
        await self._register(hello)
        protocol = min(hello.protocol, PROTOCOL)
        await socket.send_bytes(
            encode_frame(Welcome(self._term, self._incarnation, self._beat_s, self._ttl_s, self._leader, protocol))
        )
        log.info("node %s connected", hello.node, extra={"node": hello.node, "version": hello.version})
        try:
            await session.run()
        except* StoreError as errors:
            log.warning("node %s: session ended: %s", hello.node, errors.exceptions[0])
        finally:
            if self._sessions.get(hello.node) is session:
                del self._sessions[hello.node]
                self._silent_since_s[hello.node] = session.last_frame_s

    def _refusal(self, hello: Hello) -> Refuse | None:
        if not is_node_name(hello.node):
            return Refuse("input.node", f"{hello.node[:80]!r} cannot name a node", is_final=True)
        if hello.protocol < OLDEST_PROTOCOL:
            return Refuse(
                "session.protocol",
                f"the agent speaks protocol {hello.protocol}, this master {OLDEST_PROTOCOL} to {PROTOCOL}; upgrade it",
                is_final=True,
            )
        if len(self._sessions) >= SESSIONS_LIMIT:
            return Refuse("limit.too-many", f"{SESSIONS_LIMIT} nodes are connected already")
        other = self._sessions.get(hello.node)
        is_other_host = other is not None and other.hello.boot_id != hello.boot_id
        if other is not None and is_other_host and self._monotonic() - other.last_frame_s < 2 * self._beat_s:
            return Refuse(
                "node.name-taken",
                f"another host is connected as {hello.node}; give each agent its own `node` name",
            )
        return None

    async def _register(self, hello: Hello) -> None:
        now_s = self._clock()
        record = NodeRecord(
            hello.node,
            NodeState.READY,
            labels=hello.labels,
            capacity=hello.capacity,
            os=hello.os,
            arch=hello.arch,
            version=hello.version,
            address=hello.address,
            boot_id=hello.boot_id,
            changed_at=now_s,
        )
        known = self._snapshot.view().nodes.get(hello.node)
        if known is not None and replace(known, changed_at=now_s, reason="") == record:
            return
        if known is None:
            what = "joined"
        else:
            what = f"is back (was {known.state})" if known.state is not record.state else "changed"
        await self._write(
            [
                Put(keys.node(hello.node), encode(record)),
                self._writer.event("NodeReady", hello.node, f"node {hello.node} {what}", node=hello.node),
            ]
        )

    # Loops of the hub, run by the leader

    async def write_statuses(self) -> None:
        """Write queued observations as they come, all that have gathered at once."""
        while True:
            await self._pending_wake.wait()
            while self._pending:
                batch, self._pending = self._pending, {}
                try:
                    await self._write(list(batch.values()))
                except StoreError:
                    self._pending = batch | self._pending  # nothing is lost: newer words still win
                    self._pending_wake.wake()
                    raise

    async def watch_nodes(self) -> None:
        """Judge the silence of nodes as time goes by."""
        due_s = self._monotonic()
        while True:
            now_s = self._monotonic()
            # If this loop itself was held up (starved, stopped), frames may wait unread: give that time back.
            if now_s - due_s > self._beat_s / 2:
                self._forgive(now_s - due_s)
            nodes = self._snapshot.view().nodes
            verdicts = judge_nodes(nodes, self._heard(), self._since_s, now_s, self._ttl_s)
            for name in verdicts.lost:
                await self._lose(name)
            due_s = self._monotonic() + self._beat_s / 4
            await asyncio.sleep(self._beat_s / 4)

    def _heard(self) -> dict[str, float]:
        heard = dict(self._silent_since_s)
        heard.update((name, session.last_frame_s) for name, session in self._sessions.items())
        return heard

    def _forgive(self, lag_s: float) -> None:
        self._since_s += lag_s
        for session in self._sessions.values():
            session.last_frame_s += lag_s
        for name in self._silent_since_s:
            self._silent_since_s[name] += lag_s

    async def _lose(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.close()
        await self._set_state(name, NodeState.LOST, f"silent for {self._ttl_s:g} s")
        for (_, node), status in list(self._snapshot.view().statuses.items()):
            if node == name and status.state is not State.UNKNOWN:
                self._queue_status(
                    replace(
                        status,
                        state=advance(status.state, Event.LOST),
                        is_ready=False,
                        reason=f"node {name} is lost",
                        changed_at=self._clock(),
                    )
                )
        self._pending_wake.wake()

    async def _set_state(self, name: str, state: NodeState, why: str) -> None:
        known = self._snapshot.view().nodes.get(name)
        if known is None or known.state is state:
            return
        log.warning("node %s is %s: %s", name, state, why, extra={"node": name})
        await self._write(
            [
                Put(keys.node(name), encode(replace(known, state=state, reason=why, changed_at=self._clock()))),
                self._writer.event(f"Node{state.capitalize()}", name, f"node {name} is {state}: {why}", node=name),
            ]
        )

    def _queue_status(self, status: InstanceStatus) -> None:
        self._queue(Put(keys.status(status.instance, status.node), encode(status)))

    def _queue(self, operation: Put | Delete) -> None:
        self._pending.pop(operation.key, None)
        self._pending[operation.key] = operation

    async def _write(self, operations: list[Operation]) -> None:
        await self._snapshot.reach(await self._writer.write(operations))

    async def close(self) -> None:
        """End every session: the agents look for the next leader."""
        for session in list(self._sessions.values()):
            await session.close()
