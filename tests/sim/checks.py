"""What has to hold in every run, looked at after each commit and each event of a process.

The names I1 to I24 are those of the promises in docs/decisions/0011-simulation-on-an-own-loop.md. The first violation
ends the run. `reached` counts what a run has come across: what no run ever reaches is not tested.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsu_core.model.assignment import Assignment, InstanceStatus, Revision
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import NodeRecord, NodeState
from hsu_core.model.records import MasterAdvert
from hsu_core.model.spec import Guarantee, WorkerSpec
from hsu_core.store.base import Event
from hsu_core.store.mvcc import Commit
from hsu_core.wire import keys
from hsu_core.wire.codec import decode
from tests.sim.host import Running
from tests.sim.options import NODE_TIMES

if TYPE_CHECKING:
    from tests.sim.workload import Told
    from tests.sim.world import World

LEADERS_OWN = ("assignments", "status", "nodes", "rollouts", "runs", "routes")
"""Families of keys that only a leader writes."""

ALWAYS_ONCE = ("deploy", "remove", "restart", "undo")
"""Requests that change something whenever they are done and say so."""

REACHABLE = frozenset(
    {
        "a leader is elected", "another leader takes over", "a write of a deposed leader is refused", "a node is lost",
        "a node comes back", "a slot moves off a lost node", "an agent adopts its workers", "a host loses power",
        "an answer is lost after the commit", "a watch lists again", "a request is asked again and was done",
        "a worker ends by itself", "a worker is killed with its tree", "a start fails", "a strict worker is started",
        "the keeper kills a strict worker",
        "a rollout replaces workers", "a slot is stopped on request", "the brake holds",
    }
)  # fmt: skip
"""What the seeds of a test run have to come across together."""


class Violation(AssertionError):
    """A promise was broken; `name` is the promise."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)  # as given, so that it can be sent to another process
        self.name = name
        self.text = text

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(slots=True)
class Held:
    """An assignment with the revision of its write and when that was."""

    assignment: Assignment | None
    revision: int
    at_s: float


class Checks:
    """The model that is kept from commits and processes, and every promise about it."""

    def __init__(self, world: World) -> None:
        self.violation: Violation | None = None
        self.reached: Counter[str] = Counter()
        self.history: dict[InstanceId, list[Held]] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.revisions: dict[tuple[str, int], Revision] = {}
        self.statuses: dict[tuple[InstanceId, str], InstanceStatus] = {}
        self.alive: dict[InstanceId, list[tuple[str, Running]]] = {}
        self.applied: Counter[str] = Counter()
        self.leader: tuple[str, int, float] | None = None
        self.terms: list[int] = []
        self._epochs: dict[tuple[InstanceId, str], int] = {}
        self._world = world

    def fail(self, name: str, text: str) -> None:
        """A promise was broken: end the run."""
        if self.violation is None and not self._world.loop.is_over:
            self.violation = Violation(name, text)
            self._world.note(f"VIOLATION {self.violation}")
            self._world.loop.stop()

    def always(self, name: str, is_true: bool, text: str) -> None:
        """Demand something of every run."""
        if not is_true:
            self.fail(name, text)

    def reachable(self, name: str) -> None:
        """Count that a run came across something."""
        assert name in REACHABLE, name
        self.reached[name] += 1

    # -- commits ----------------------------------------------------------------------------------

    def on_commit(self, writer: str, commit: Commit) -> None:
        """Look at one commit and who made it."""
        touched: set[str] = set()
        for event in commit.events:
            family = keys.parts(event.entry.key)[0]
            if family == "leader":
                self._leader_changes(writer, event)
            elif family in LEADERS_OWN:
                self._check_leader(writer, event)
                self._take(family, event, touched)
            elif family == "revisions" and not event.is_delete:
                revision = decode(Revision, event.entry.value)
                self.revisions[str(revision.id), revision.number] = revision
            elif family == "events" and b"FailoverBraked" in event.entry.value:
                self.reachable("the brake holds")
            elif family == "idempotency" and not event.is_delete:
                self.applied[event.entry.key] += 1
        for node in sorted(touched):
            self._check_capacity(node)

    def _leader_changes(self, writer: str, event: Event) -> None:
        if event.is_delete:
            self.leader = None
            return
        advert, term = decode(MasterAdvert, event.entry.value), event.entry.create_revision
        self.always("I1", not self.terms or term > self.terms[-1], f"term {term} after {self.terms}")
        self.always("I1", advert.name == writer, f"{writer} writes that {advert.name} leads")
        self.terms.append(term)
        self.leader = (writer, term, self._world.loop.time())
        self.reachable("a leader is elected" if len(self.terms) == 1 else "another leader takes over")

    def _check_leader(self, writer: str, event: Event) -> None:
        if self.leader is None or self.leader[0] != writer:
            who = self.leader[0] if self.leader is not None else "nobody"
            self.fail("I1", f"{writer} writes {event.entry.key}, and {who} leads")

    def _take(self, family: str, event: Event, touched: set[str]) -> None:
        parts = keys.parts(event.entry.key)
        if family == "assignments":
            instance = InstanceId(parts[1], parts[2], parts[3], int(parts[4]))
            assignment = None if event.is_delete else decode(Assignment, event.entry.value)
            self._assignment(instance, assignment, event.entry.mod_revision)
            if assignment is not None:
                touched.add(assignment.node)
        elif family == "nodes":
            self._node(parts[1], None if event.is_delete else decode(NodeRecord, event.entry.value))
        elif family == "status":
            key = InstanceId(parts[1], parts[2], parts[3], int(parts[4])), parts[5]
            if event.is_delete:
                self.statuses.pop(key, None)
            else:
                self.statuses[key] = decode(InstanceStatus, event.entry.value)

    def _assignment(self, instance: InstanceId, assignment: Assignment | None, revision: int) -> None:
        history = self.history.setdefault(instance, [])
        before = history[-1] if history else None
        now_s = self._world.loop.time()
        if assignment is not None:
            known = max((held.assignment.epoch for held in history if held.assignment is not None), default=0)
            self.always("I9", assignment.epoch > known, f"{instance}: epoch {assignment.epoch} after {known}")
            if before is not None:
                text = f"{instance}: decided at {assignment.epoch - 1}, though it was changed at {before.revision}"
                self.always("I9", assignment.epoch > before.revision, text)
            old = before.assignment if before is not None else None
            if old is not None and old.node != assignment.node:
                record = self.nodes.get(old.node)
                if record is not None and record.state is NodeState.LOST:
                    self.reachable("a slot moves off a lost node")
            if old is not None and old.spec_hash != assignment.spec_hash:
                self.reachable("a rollout replaces workers")
            if assignment.is_stopped:
                self.reachable("a slot is stopped on request")
        history.append(Held(assignment, revision, now_s))

    def _node(self, name: str, record: NodeRecord | None) -> None:
        before = self.nodes.pop(name, None)
        if record is None:
            return
        self.nodes[name] = record
        if record.state is NodeState.LOST and (before is None or before.state is not NodeState.LOST):
            self.reachable("a node is lost")
            since_s = self._world.loop.time() - self.leader[2] if self.leader is not None else 0.0
            text = f"{name} is lost {since_s:.3f} s after the leader was elected"
            now_s = self._world.loop.time()
            if now_s > self._world.impaired_until_s:
                self.fail("I14", f"{name} is lost at {now_s:.3f} s, and nothing was wrong with it or the masters")
            self.always("I17", since_s >= NODE_TIMES.ttl_s - 0.01, text)
        if before is not None and before.state is NodeState.LOST and record.state is NodeState.READY:
            self.reachable("a node comes back")

    def spec_of(self, assignment: Assignment) -> WorkerSpec:
        """Return the specification of an assignment."""
        spec = self.revisions[str(assignment.instance.app_id), assignment.revision].spec
        found = spec.worker(assignment.instance.worker)
        assert found is not None
        return found

    @property
    def assignments(self) -> list[Assignment]:
        """Return the assignments of now."""
        newest = (history[-1].assignment for history in self.history.values())
        return [assignment for assignment in newest if assignment is not None]

    def _check_capacity(self, node: str) -> None:
        record = self.nodes.get(node)
        if record is not None:
            used = sum(self.spec_of(each).resources.cpu_milli for each in self.assignments if each.node == node)
            self.always("I18", used <= record.capacity.cpu_milli, f"{node} is given {used} of its processor")

    # -- processes --------------------------------------------------------------------------------

    def on_host(self, kind: str, host: str, facts: dict[str, Any]) -> None:
        """Look at the start, end or signal of a process."""
        found: Running = facts["process"]
        if kind == "spawn":
            self._spawned(host, found)
        elif kind == "exit":
            self._ended(host, found, facts["why"])
        elif kind == "signal":
            text = f"{host} signals {facts['signal']} to run {found.run}, and means {facts['run']}"
            self.always("I6", facts["run"] == found.run, text)

    def _spawned(self, host: str, found: Running) -> None:
        instance = found.instance
        others = self.alive.setdefault(instance, [])
        assignment = self._of_epoch(instance, found.epoch)
        text = f"{host} starts {instance} for epoch {found.epoch}, which was never given to it"
        self.always("I5", assignment is not None and assignment.node == host, text)
        for where, other in others:
            if where == host:
                self.fail("I5", f"{host} starts {instance} a second time, and pid {other.pid} of it runs")
        left = self._world.nodes[host].host.table.values()
        if any(each.instance == instance and each.run != found.run for each in left):
            self.fail("I5", f"{host} starts {instance}, and processes of its last run are left")
        newest = self._epochs.get((instance, host), 0)
        self.always("I5", found.epoch >= newest, f"{host} starts {instance} for epoch {found.epoch} after {newest}")
        self._epochs[instance, host] = found.epoch
        if assignment is not None and self.spec_of(assignment).guarantee is Guarantee.STRICT:
            self.reachable("a strict worker is started")
            where = ", ".join(each for each, _ in others)
            self.always("I3", not others, f"{host} starts strict {instance}, which runs on {where}")
        others.append((host, found))

    def _of_epoch(self, instance: InstanceId, epoch: int) -> Assignment | None:
        held = (held.assignment for held in self.history.get(instance, ()))
        return next((each for each in held if each is not None and each.epoch == epoch), None)

    def _ended(self, host: str, found: Running, why: str) -> None:
        instance = found.instance
        self.alive[instance] = [pair for pair in self.alive.get(instance, ()) if pair[1] is not found]
        if why == "by itself":
            self.reachable("a worker ends by itself")
        if why == "killed with its tree":
            self.reachable("a worker is killed with its tree")
        if why in ("stopped", "killed", "killed with its tree"):
            self._check_needed(host, found, why)

    def _check_needed(self, host: str, found: Running, why: str) -> None:
        """An agent ends a process only if an order since its start asks for something else."""
        mine = self._of_epoch(found.instance, found.epoch)
        if mine is None:
            return
        history = self.history[found.instance]
        since = [held for held in history if held.revision >= mine.epoch]
        for held in since:
            new = held.assignment
            if new is None or new.node != host or new.is_stopped:
                return
            if (new.spec_hash, new.generation, new.ports) != (mine.spec_hash, mine.generation, mine.ports):
                return
        self.fail("I5", f"{host} ends {found.instance} ({why}), and no order asks for that")

    def on_fall(self, host: str) -> None:
        """A host lost power, and with it what its ledger had not synced: it may begin with older orders."""
        self.reachable("a host loses power")
        self._epochs = {key: epoch for key, epoch in self._epochs.items() if key[1] != host}

    # -- people -----------------------------------------------------------------------------------

    def on_told(self, told: Told) -> None:
        """Look at what a client was told."""
        count = self.applied[idempotency_key(told.key)]
        text = f"{told.kind} {told.number} was told to be {told.outcome}, and was applied {count} times"
        self.always("I2", count <= 1, text)
        if told.outcome == "done" and told.kind in ALWAYS_ONCE and told.changed:
            self.always("I2", count == 1, text)
        if told.outcome == "refused":
            self.always("I10", count == 0 or told.kind == "remove", text)


def idempotency_key(name: str) -> str:
    """Return the store key of a client's Idempotency-Key."""
    return keys.IDEMPOTENCY + hashlib.sha256(f"admin\n{name}".encode()).hexdigest()[:40]
