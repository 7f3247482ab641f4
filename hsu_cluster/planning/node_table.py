"""What every node has left: built once from a view, then kept by `reserve` and `release`.

Exists so that one placement costs a look at a few nodes and not a count over all assignments. Holds
the one shared `misfit` check that placement, in-place updates and reasons use (two checks that differ
make a planner that loops). Must not decide which node is better: that is `schedule`. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hsu_cluster.planning.constraints import constraints_of, first_failing, node_facts
from hsu_cluster.planning.failover import cooling_until_s
from hsu_core.model.assignment import Assignment, Ports
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import ALIVE
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState, Usage
from hsu_core.model.spec import Constraint, PortSpec, Resources, WorkerSpec
from hsu_core.model.view import ClusterView

WorkerKey = tuple[str, str, str]
"""(namespace, app, worker id)."""


class Filter(StrEnum):
    """Why a node that is open and matches every condition cannot take an instance."""

    CPU = "cpu"
    MEMORY = "memory"
    FIXED_PORT = "fixed-port"
    DYNAMIC_PORTS = "dynamic-ports"
    MAX_PER_NODE = "max-per-node"
    ANTI_AFFINITY = "anti-affinity"


class NodeEntry:
    """One node: its facts, what is left of it, and who runs there."""

    __slots__ = (
        "closed_why",
        "cooling_until_s",
        "cpu_free",
        "cpu_total",
        "dynamic_free",
        "facts",
        "instances",
        "memory_free",
        "memory_total",
        "name",
        "port_high",
        "port_low",
        "ports",
        "state",
        "workers",
    )

    def __init__(self, record: NodeRecord, intent: NodeIntent | None, cooling_until_s: float = 0.0) -> None:
        capacity = record.capacity
        self.cooling_until_s = cooling_until_s
        self.name = record.name
        self.state = record.state
        self.facts = node_facts(record, intent.labels if intent else ())
        self.closed_why = _closed_why(record, intent)
        self.cpu_total = self.cpu_free = capacity.cpu_milli
        self.memory_total = self.memory_free = capacity.memory_bytes
        self.port_low, self.port_high = capacity.port_low, capacity.port_high
        self.ports: dict[int, int] = {}
        self.dynamic_free = max(0, capacity.port_high - capacity.port_low + 1)
        self.workers: dict[WorkerKey, int] = {}
        self.instances = 0

    def hold_port(self, port: int) -> None:
        """Count one more holder of `port`."""
        holders = self.ports.get(port, 0)
        self.ports[port] = holders + 1
        if not holders and self.port_low <= port <= self.port_high:
            self.dynamic_free -= 1

    def free_port(self, port: int) -> None:
        """Count one holder of `port` less."""
        holders = self.ports[port] - 1
        if holders:
            self.ports[port] = holders
        else:
            del self.ports[port]
            if self.port_low <= port <= self.port_high:
                self.dynamic_free += 1


@dataclass(frozen=True, slots=True)
class Demand:
    """What one instance of a worker needs from a node, digested from its specification."""

    key: WorkerKey
    cpu_milli: int
    memory_bytes: int
    ports: tuple[PortSpec, ...]
    fixed_ports: tuple[int, ...]
    dynamic_ports: int
    max_per_node: int
    conflicts: tuple[WorkerKey, ...]
    constraints: tuple[Constraint, ...]
    seed: int
    """Where this worker begins in ranges of ports and in large tables: a checksum of its name."""


def misfit(entry: NodeEntry, demand: Demand) -> Filter | None:
    """Return the first thing the node lacks for one more instance, or None when it fits.

    Looks at what is left only; whether the node is open and matches the conditions is `NodeTable.eligible`.
    """
    if demand.cpu_milli > entry.cpu_free and demand.cpu_milli:
        return Filter.CPU
    if demand.memory_bytes > entry.memory_free and demand.memory_bytes:
        return Filter.MEMORY
    if demand.fixed_ports:
        for port in demand.fixed_ports:
            if port in entry.ports:
                return Filter.FIXED_PORT
        if demand.dynamic_ports and dynamic_ports_free(entry, demand) < demand.dynamic_ports:
            return Filter.DYNAMIC_PORTS
    elif demand.dynamic_ports > entry.dynamic_free:
        return Filter.DYNAMIC_PORTS
    if demand.max_per_node and entry.workers.get(demand.key, 0) >= demand.max_per_node:
        return Filter.MAX_PER_NODE
    for other in demand.conflicts:
        if other in entry.workers:
            return Filter.ANTI_AFFINITY
    return None


def fits(entry: NodeEntry, demand: Demand) -> bool:
    """Return whether one more instance fits on the node, conditions included, cordon and node state aside."""
    return misfit(entry, demand) is None and first_failing(demand.constraints, entry.facts) is None


def dynamic_ports_free(entry: NodeEntry, demand: Demand) -> int:
    """Return how many ports of the node's range are left once the fixed ports of `demand` are taken."""
    low, high = entry.port_low, entry.port_high
    return entry.dynamic_free - sum(low <= port <= high for port in demand.fixed_ports)


def pick_ports(
    entry: NodeEntry, demand: Demand, instance: InstanceId, kept: Ports = (), *, beyond: int | None = None
) -> Ports:
    """Return a port for each name; the instance must fit.

    Dynamic: `kept` numbers stay where they are free, else the first free number from a start that
    depends on the instance alone, so that a number just given back goes to somebody else as late as possible.
    `beyond`: look from the number after this one on, so that numbers which others hold are not tried in turn.
    """
    if not demand.ports:
        return ()
    in_use = entry.ports
    low, size = entry.port_low, entry.port_high - entry.port_low + 1
    if len(demand.ports) == 1 and not kept and not demand.fixed_ports:  # most workers have one port
        offset = zlib.crc32(b"%d" % instance.slot, demand.seed)
        while (candidate := low + offset % size) in in_use:
            offset += 1
        return ((demand.ports[0].name, candidate),)
    dynamic = {port.name for port in demand.ports if not port.number}
    numbers = {port.name: port.number for port in demand.ports if port.number}
    for name, number in kept:
        is_free = low <= number < low + size and number not in in_use and number not in numbers.values()
        if name in dynamic and is_free:
            numbers[name] = number
    offset = zlib.crc32(b"%d" % instance.slot, demand.seed) if beyond is None else beyond - low + 1
    for name in sorted(dynamic - numbers.keys()) if len(dynamic) > 1 else dynamic - numbers.keys():
        taken = numbers.values()
        while (candidate := low + offset % size) in in_use or candidate in taken:
            offset += 1
        numbers[name] = candidate
    return tuple([(port.name, numbers[port.name]) for port in demand.ports])


@dataclass(frozen=True, slots=True)
class Domain:
    """Nodes that share the value of a label (None: that have no such label), split by the next label, if any."""

    value: str | None
    parts: tuple[Domain, ...]
    entries: Sequence[NodeEntry]


class NodeTable:
    """All nodes of a view with what is left of them; `entries` is sorted by name.

    With `now_s` it knows which of them cool down after a loss: those are the second choice.
    """

    def __init__(
        self,
        nodes: Iterable[tuple[NodeRecord, NodeIntent | None]],
        now_s: float | None = None,
        cooldown_s: float = 0.0,
    ) -> None:
        ordered = sorted(nodes, key=lambda pair: pair[0].name)
        self.entries: tuple[NodeEntry, ...] = tuple(
            NodeEntry(record, intent, _cooling_s(record, now_s, cooldown_s)) for record, intent in ordered
        )
        self.cooling_until_s = min(
            (entry.cooling_until_s for entry in self.entries if entry.cooling_until_s), default=None
        )
        """When the first of them has cooled down, in seconds since 1970 (None: no node does)."""
        self.by_name: dict[str, NodeEntry] = {entry.name: entry for entry in self.entries}
        self.worker_nodes: dict[WorkerKey, dict[str, int]] = {}
        self._reserved: dict[InstanceId, tuple[str, Resources, Ports]] = {}
        self._conflicts: dict[WorkerKey, frozenset[str]] = {}
        self._eligible: dict[tuple[tuple[Constraint, ...], bool], Sequence[NodeEntry]] = {}
        self._domains: dict[tuple[tuple[Constraint, ...], tuple[str, ...], bool], Domain] = {}

    @classmethod
    def from_view(cls, view: ClusterView, now_s: float | None = None) -> NodeTable:
        """Return the table of a view: usage of all assignments, and ports that stopping processes or strangers hold."""
        nodes = ((record, view.node_intents.get(name)) for name, record in view.nodes.items())
        table = cls(nodes, now_s, view.times.cooldown_s)
        for app, record in view.apps.items():
            revision = view.revisions.get((app, record.revision))
            if revision is not None:
                table.learn_conflicts(app, revision.spec.workers)
        resources: dict[tuple[WorkerKey, int], Resources] = {}
        for instance, assignment in view.assignments.items():
            key = (instance.namespace, instance.app, instance.worker)
            needs = resources.get((key, assignment.revision))
            if needs is None:
                needs = resources[key, assignment.revision] = _resources(view, assignment)
            entry = table.by_name.get(assignment.node)
            if entry is None:
                table.reserve(instance, assignment.node, needs, assignment.ports)
            else:
                table.take(entry, key, instance, needs, assignment.ports)
        for (instance, node), status in view.statuses.items():
            if status.busy_ports and node in table.by_name:
                for port in status.busy_ports:
                    table.by_name[node].hold_port(port)
            if status.ports and status.state in ALIVE and node in table.by_name:
                current = view.assignments.get(instance)
                if current is None or current.node != node:
                    for _, port in status.ports:
                        table.by_name[node].hold_port(port)
        return table

    def learn_conflicts(self, app: AppId, workers: Iterable[WorkerSpec]) -> None:
        """Note who must not share a node in an app; the relation holds in both directions."""
        pairs: dict[str, set[str]] = {}
        for worker in workers:
            for other in worker.placement.anti_affinity:
                pairs.setdefault(worker.id, set()).add(other)
                pairs.setdefault(other, set()).add(worker.id)
        for worker_id, others in pairs.items():
            self._conflicts[app.namespace, app.app, worker_id] = frozenset(others)

    def demand(self, app: AppId, spec: WorkerSpec) -> Demand:
        """Return what one instance of `spec` needs."""
        key = (app.namespace, app.app, spec.id)
        others = set(spec.placement.anti_affinity)
        if self._conflicts:
            others |= self._conflicts.get(key, frozenset())
        fixed = tuple(port.number for port in spec.ports if port.number)
        return Demand(
            key=key,
            cpu_milli=spec.resources.cpu_milli,
            memory_bytes=spec.resources.memory_bytes,
            ports=spec.ports,
            fixed_ports=fixed,
            dynamic_ports=len(spec.ports) - len(fixed),
            max_per_node=spec.placement.max_per_node,
            conflicts=tuple((app.namespace, app.app, other) for other in sorted(others)),
            constraints=constraints_of(spec),
            seed=zlib.crc32(f"{app.namespace}/{app.app}/{spec.id}.".encode()),
        )

    def reserve(self, instance: InstanceId, node: str, resources: Resources, ports: Ports) -> None:
        """Take room on a node for an instance. A node that the view does not have is remembered without room."""
        entry = self.by_name.get(node)
        if entry is None:
            self._reserved[instance] = (node, resources, ports)
        else:
            self.take(entry, (instance.namespace, instance.app, instance.worker), instance, resources, ports)

    def take(self, entry: NodeEntry, key: WorkerKey, instance: InstanceId, resources: Resources, ports: Ports) -> None:
        """Take room on a node of this table, as `reserve`; `key` is the instance's worker."""
        self._reserved[instance] = (entry.name, resources, ports)
        entry.cpu_free -= resources.cpu_milli
        entry.memory_free -= resources.memory_bytes
        entry.instances += 1
        count = entry.workers.get(key, 0) + 1
        entry.workers[key] = count
        on_nodes = self.worker_nodes.get(key)
        if on_nodes is None:
            on_nodes = self.worker_nodes[key] = {}
        on_nodes[entry.name] = count
        for _, port in ports:
            entry.hold_port(port)

    def release(self, instance: InstanceId) -> tuple[str, Resources, Ports] | None:
        """Give back the room of an instance; returns what it held (for `reserve` to undo), or None."""
        held = self._reserved.pop(instance, None)
        if held is None:
            return None
        node, resources, ports = held
        entry = self.by_name.get(node)
        if entry is None:
            return held
        entry.cpu_free += resources.cpu_milli
        entry.memory_free += resources.memory_bytes
        entry.instances -= 1
        key = (instance.namespace, instance.app, instance.worker)
        count = entry.workers[key] - 1
        if count:
            entry.workers[key] = self.worker_nodes[key][node] = count
        else:
            del entry.workers[key]
            del self.worker_nodes[key][node]
        for _, port in ports:
            entry.free_port(port)
        return held

    def eligible(self, constraints: tuple[Constraint, ...], *, is_cooling: bool = False) -> Sequence[NodeEntry]:
        """Return the open nodes that match all conditions, by name; kept, as neither changes within a table.

        Either those that do not cool down, or those that do.
        """
        found = self._eligible.get((constraints, is_cooling))
        if found is None:
            found = tuple(
                entry
                for entry in self.entries
                if not entry.closed_why
                and (entry.cooling_until_s > 0) is is_cooling
                and first_failing(constraints, entry.facts) is None
            )
            self._eligible[constraints, is_cooling] = found
        return found

    def domains(
        self, constraints: tuple[Constraint, ...], spread: tuple[str, ...], *, is_cooling: bool = False
    ) -> Domain:
        """Return the eligible nodes as a tree: one level per label of `spread`, nodes below the last."""
        found = self._domains.get((constraints, spread, is_cooling))
        if found is None:
            keys = [key.removeprefix("node.labels.") for key in spread]
            found = _split(None, self.eligible(constraints, is_cooling=is_cooling), keys)
            self._domains[constraints, spread, is_cooling] = found
        return found

    def usage(self) -> Mapping[str, Usage]:
        """Return what the assignments on each node reserve."""
        return {
            entry.name: Usage(entry.cpu_total - entry.cpu_free, entry.memory_total - entry.memory_free, entry.instances)
            for entry in self.entries
        }


def _split(value: str | None, entries: Sequence[NodeEntry], keys: Sequence[str]) -> Domain:
    if not keys:
        return Domain(value, (), entries)
    groups: dict[str | None, list[NodeEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.facts.get(keys[0]), []).append(entry)
    parts = tuple(_split(part, tuple(group), keys[1:]) for part, group in groups.items())
    return Domain(value, parts, entries)


def without(domain: Domain, names: frozenset[str]) -> Domain:
    """Return a tree of nodes without some of them."""
    if not names:
        return domain
    parts = tuple(without(part, names) for part in domain.parts)
    return Domain(domain.value, parts, [entry for entry in domain.entries if entry.name not in names])


def _resources(view: ClusterView, assignment: Assignment) -> Resources:
    revision = view.revisions.get((assignment.instance.app_id, assignment.revision))
    spec = revision.spec.worker(assignment.instance.worker) if revision else None
    return spec.resources if spec else Resources()


def _cooling_s(record: NodeRecord, now_s: float | None, cooldown_s: float) -> float:
    """Return until when a node cools down, 0 if it does not."""
    if now_s is None or not record.back_at:
        return 0.0
    until_s = cooling_until_s(record, cooldown_s)
    return until_s if until_s > now_s else 0.0


def _closed_why(record: NodeRecord, intent: NodeIntent | None) -> str:
    """Return in one word why nothing new goes to the node (empty: it is open)."""
    if record.state is not NodeState.READY:
        return {NodeState.LOST: "lost", NodeState.LEFT: "away (agent stopped)"}[record.state]
    if record.held_by:
        return "held (doctor accept-restore)"
    if intent is not None and intent.is_draining:
        return "draining"
    if intent is not None and intent.is_cordoned:
        return "cordoned"
    return ""
