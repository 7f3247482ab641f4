"""The node hub: admits agents, keeps what they observe, notices the silent ones.

Heartbeats live in memory only; transitions are written (fenced) to the store. Whether a node is
lost is decided in `planning.failover`; what to do about it in `planning.reconcile`. How many agents come in
at once is up to `leader.admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hsu_cluster.leader.admission import Line, Registrar, Storm, refusal
from hsu_cluster.leader.identity import Identity
from hsu_cluster.leader.leases import Leases
from hsu_cluster.leader.node_records import record_of, welcome_to
from hsu_cluster.leader.session import Session
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.statuses import StatusBook
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.failover import NodeVerdicts, judge_nodes, mass_loss, returned
from hsu_cluster.planning.returns import has_claims, is_awaited
from hsu_core.model.assignment import Assignment
from hsu_core.model.errors import NodeUnreachable, StoreError
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import NodeState, NodeTimes
from hsu_core.runtime.sockets import Socket
from hsu_core.store.base import Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import (
    Goodbye,
    Hello,
    Queued,
    Refuse,
    Report,
    encode_frame,
)

log = logging.getLogger(__name__)

QUEUED_EVERY_S = 4.0
"""How often an agent in the line is told that it waits: it gives up after 10 s without a word."""

SETTLE_S = 5.0
"""An agent that has not reported by then does not keep others out any longer."""

DECISION_LIMIT_S = 10.0
"""Longest wait for the planner to decide which copies stay: then the replacements do."""


class Hub:
    """The sessions of one leadership."""

    def __init__(
        self,
        snapshot: Snapshot,
        writer: FencedWriter,
        *,
        term: int,
        identity: Identity,
        leader: str,
        times: NodeTimes,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        leases: Leases,
    ) -> None:
        self.leases = leases
        self._snapshot = snapshot
        self._writer = writer
        self._term = term
        self._identity = identity
        self._leader = leader
        self._times = times
        self._clock = clock
        self._monotonic = monotonic
        self._since_s = monotonic()
        self._sessions: dict[str, Session] = {}
        self._silent_since_s: dict[str, float] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._line = Line()
        self._admitting: dict[Session, tuple[asyncio.Future[None], float]] = {}
        self._storm = Storm(times)
        self._is_braked = False
        self.suspects: frozenset[str] = frozenset()
        """Names of the nodes that are silent for longer than they should be."""
        self.registrar = Registrar(snapshot, writer)
        self.statuses = StatusBook(snapshot, writer, clock)

    # What a session asks of its hub

    @property
    def revision(self) -> int:
        """Return the store revision of the view."""
        return self._snapshot.revision

    def assignments_of(self, node: str) -> dict[InstanceId, Assignment]:
        """Return the node's assignments as the view has them."""
        return self._snapshot.assignments_of.get(node, {})

    def order_spec(self, assignment: Assignment) -> tuple[str, Any]:
        """Return key and plain tree of an assignment's specification (tree None: not here)."""
        return self._snapshot.order_spec(assignment)

    def may_acknowledge(self, session: Session) -> bool:
        """Return whether a beat of the session may be acknowledged: to a node that is given up, none is."""
        return self._sessions.get(session.node) is session and self.leases.prolong(session.node)

    async def take_report(self, session: Session, report: Report) -> None:
        """Keep what an agent observed; a session that was replaced has no say any more."""
        if self._sessions.get(session.node) is session:
            self.statuses.take(session.node, report)

    def is_deciding(self, session: Session) -> bool:
        """Return whether the first orders wait: the node is back, and originals on it may take their slots back."""
        claims = self._snapshot.replacements_of.get(session.node)
        if not claims or self._monotonic() - session.since_s > DECISION_LIMIT_S:
            return False
        return not session.has_reported or has_claims(self._snapshot.view(), session.node, claims, session.reported)

    def is_awaited(self, instance: InstanceId, node: str) -> bool:
        """Return whether the copy of an instance on `node` runs on until the original has confirmed its order."""
        view = self._snapshot.view()
        return is_awaited(view, view.assignments.get(instance), node)

    def settled(self, session: Session) -> None:
        """Let the next agent in: this one has reported and has its orders, or is gone."""
        turn, _ = self._admitting.pop(session, (None, 0.0))
        if turn is not None:
            self._line.end(turn)

    async def take_goodbye(self, session: Session, goodbye: Goodbye) -> None:
        """Write that the agent has left on purpose."""
        why = "its agent was stopped" + (" with its workers" if goodbye.is_stopping_workers else "; its workers run on")
        async with self._turn(session.node):
            if self._sessions.get(session.node) is session:
                session.has_left = True
                await self._set_states([session.node], NodeState.LEFT, why)

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

    def wake_sessions(self, nodes: Iterable[str]) -> None:
        """Let the sessions of these nodes look for new orders."""
        for name in sorted(nodes):
            session = self._sessions.get(name)
            if session is not None:
                session.wake()

    async def serve(self, socket: Socket, hello: Hello) -> None:
        """Admit an agent and serve it until its session ends."""
        refusal = self._refusal(hello)
        if refusal is not None:
            log.warning("node %s refused: %s", hello.node, refusal.text)
            await socket.send_bytes(encode_frame(refusal))
            return
        self._storm.arrive(self._monotonic())
        previous = self._sessions.get(hello.node)
        session = Session(socket, hello, self._term, self, self._monotonic)
        self._sessions[hello.node] = session
        try:
            if previous is not None:
                await previous.close()
            await self._stand_in_line(session, socket)
            if self._sessions.get(hello.node) is not session:
                return  # the agent dialled again meanwhile
            await self._identity.check(hello)
            session.held_by = self._identity.held_by(hello)
            async with self._turn(hello.node):
                await self._register(hello)
            welcome = welcome_to(hello, self._identity.record, self._term, self._leader, self._times)
            await socket.send_bytes(encode_frame(welcome))
            log.info("node %s connected", hello.node, extra={"node": hello.node, "version": hello.version})
            await session.run()
        except* (StoreError, ConnectionError) as errors:
            log.warning("node %s: session ended: %s", hello.node, errors.exceptions[0])
        finally:
            self.settled(session)
            if self._sessions.get(hello.node) is session:
                del self._sessions[hello.node]
                self._silent_since_s[hello.node] = session.last_frame_s
            await session.close()

    async def _stand_in_line(self, session: Session, socket: Socket) -> None:
        """Wait until it is this agent's turn to be admitted."""
        turn = self._line.enter()
        self._admitting[session] = (turn, self._monotonic())
        while not turn.done():
            await asyncio.wait({turn}, timeout=QUEUED_EVERY_S)
            if not turn.done():
                await socket.send_bytes(encode_frame(Queued(self._line.waiting)))
        if session in self._admitting:
            self._admitting[session] = (turn, self._monotonic())
        session.last_frame_s = self._monotonic()

    def _refusal(self, hello: Hello) -> Refuse | None:
        other = self._sessions.get(hello.node)
        is_taken = other is not None and self._monotonic() - other.last_frame_s < self._times.ttl_s
        return refusal(hello, len(self._sessions), other.hello if other is not None and is_taken else None)

    async def _register(self, hello: Hello) -> None:
        now_s = self._clock()
        record = record_of(hello, now_s, self._identity.held_by(hello))
        known = self._snapshot.view().nodes.get(hello.node)
        if known is not None:
            record = returned(record, known, now_s)
        if known is not None and replace(known, changed_at=now_s, reason=record.reason) == record:
            return
        if known is None:
            what = "joined"
        else:
            what = f"is back (was {known.state})" if known.state is not record.state else "changed"
        await self.registrar.write(
            [
                Put(keys.node(hello.node), encode(record)),
                self._writer.event("NodeReady", hello.node, f"node {hello.node} {what}", node=hello.node),
            ]
        )

    # The loop of the hub, run by the leader

    async def watch_nodes(self) -> None:
        """Judge the silence of nodes as time goes by, and mend records that fell behind their session."""
        due_s = self._monotonic()
        while True:
            now_s = self._monotonic()
            # If this loop itself was held up (starved, stopped), frames may wait unread: give that time back.
            if now_s - due_s > self._times.beat_s / 2:
                self._forgive(now_s - due_s, now_s)
            self._watch_line(now_s)
            verdicts = self._judge()
            self._suspect(verdicts.suspects)
            if verdicts.lost:
                await self._lose(verdicts.lost)
            await self._watch_brake()
            await self._release()
            await self._mend()
            due_s = self._monotonic() + self._times.beat_s / 4
            await asyncio.sleep(self._times.beat_s / 4)

    def _judge(self) -> NodeVerdicts:
        """Return which nodes have been silent for too long."""
        nodes = self._snapshot.view().nodes
        return judge_nodes(nodes, self._heard(), self._since_s, self._monotonic(), self._times)

    def _heard(self) -> dict[str, float]:
        heard = dict(self._silent_since_s)
        now_s = self._monotonic()
        heard.update(
            (name, session.last_frame_s if session.is_admitted else now_s)  # who stands in line is here
            for name, session in self._sessions.items()
        )
        return heard

    def _watch_line(self, now_s: float) -> None:
        """Begin the grace of all nodes anew while agents come together: others may not have got so far as the line."""
        for session, (turn, since_s) in list(self._admitting.items()):
            if turn.done() and now_s - since_s > SETTLE_S:
                self.settled(session)
        nodes = self._snapshot.view().nodes
        missing = sum(node.state is NodeState.READY and name not in self._sessions for name, node in nodes.items())
        if self._storm.is_grace(now_s, self._line.waiting, missing):
            self._since_s = now_s

    def _suspect(self, names: Sequence[str]) -> None:
        for name in sorted(set(names) - self.suspects):
            log.info("node %s is suspect: silent for %g s", name, self._times.suspect_s, extra={"node": name})
        self.suspects = frozenset(names)

    async def _watch_brake(self) -> None:
        """Tell people when so many nodes are lost together that nothing is moved, and when that is over."""
        held = mass_loss(self._snapshot.view().nodes, self._clock(), self._times.ttl_s)
        if bool(held.nodes) is self._is_braked:
            return
        code, text = "FailoverResumed", "instances of lost nodes are placed elsewhere again"
        if held.nodes:
            code, text = "FailoverBraked", f"{held.text}; their instances are not placed elsewhere"
            log.error("%s", text)
        await self._write([self._writer.event(code, "nodes", text)])
        self._is_braked = bool(held.nodes)

    def _forgive(self, lag_s: float, now_s: float) -> None:
        self._since_s = min(self._since_s + lag_s, now_s)
        for session in self._sessions.values():
            session.last_frame_s = min(session.last_frame_s + lag_s, now_s)
        for name, heard_s in self._silent_since_s.items():
            self._silent_since_s[name] = min(heard_s + lag_s, now_s)

    async def _lose(self, names: Sequence[str]) -> None:
        """Write that nodes are lost, all at once: the planner's brake has to see them together."""
        async with contextlib.AsyncExitStack() as turns:
            for name in sorted(names):
                await turns.enter_async_context(self._turn(name))
            still_silent = set(self._judge().lost)  # one may have spoken while we waited
            lost = [name for name in names if name in still_silent]
            ended = [session for name in lost if (session := self._sessions.pop(name, None)) is not None]
            for session in ended:  # none of them is acknowledged anything from here on
                self._silent_since_s[session.node] = session.last_frame_s
            for session in ended:
                await session.close()
            await self._set_states(lost, NodeState.LOST, f"silent for {self._times.ttl_s:g} s")
            self.statuses.lose(lost)

    async def _release(self) -> None:
        """End the sessions of agents that held their work until now: they come back, are told, and obey."""
        for session in list(self._sessions.values()):
            if session.held_by and not self._identity.held_by(session.hello):
                session.held_by = ""
                await session.close()

    async def _mend(self) -> None:
        """Register again who has a living session and is not ready in the store: a late write may have won."""
        nodes = self._snapshot.view().nodes
        for name, session in list(self._sessions.items()):
            record = nodes.get(name)
            if session.has_left or not session.is_admitted or (record and record.state is NodeState.READY):
                continue
            async with self._turn(name):
                if self._sessions.get(name) is session and not session.has_left:
                    await self._register(session.hello)

    async def _set_states(self, names: Sequence[str], state: NodeState, why: str) -> None:
        operations: list[Operation] = []
        for name in names:
            known = self._snapshot.view().nodes.get(name)
            if known is None or known.state is state:
                continue
            log.warning("node %s is %s: %s", name, state, why, extra={"node": name})
            now_s = self._clock()
            is_loss = state is NodeState.LOST and known.state is NodeState.READY
            record = replace(
                known, state=state, reason=why, changed_at=now_s, lost_at=now_s if is_loss else known.lost_at
            )
            text = f"node {name} is {state}: {why}"
            operations += [
                Put(keys.node(name), encode(record)),
                self._writer.event(f"Node{state.capitalize()}", name, text, node=name),
            ]
        if operations:
            await self._write(operations)

    def _turn(self, node: str) -> asyncio.Lock:
        """Return the lock under which the record of a node is read and written."""
        return self._turns.setdefault(node, asyncio.Lock())

    async def _write(self, operations: list[Operation]) -> None:
        await self._snapshot.reach(await self._writer.write(operations))

    async def close(self) -> None:
        """End every session: the agents look for the next leader."""
        await asyncio.gather(*(session.close() for session in list(self._sessions.values())))
