"""Which node takes which instance: filter, score, pick. Pure.

`place` writes its decisions into the table it is given, so that the next request sees them; the
caller turns them into assignments. Identical instances are placed as one group: the nodes that can
take them are rated once and kept in a heap. In a large table without wishes a small group looks at a
part of the nodes only, from a start that depends on the instance; nothing is called unplaceable before
every node has been looked at.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hsu_cluster.planning.node_table import (
    Demand,
    Domain,
    NodeEntry,
    NodeTable,
    WorkerKey,
    misfit,
    pick_ports,
    without,
)
from hsu_cluster.planning.reasons import unplaced_reason
from hsu_cluster.planning.scoring import NodeKey, node_key
from hsu_core.model.assignment import Ports
from hsu_core.model.ids import InstanceId
from hsu_core.model.spec import WorkerSpec

SAMPLED_ABOVE_NODES = 500
"""Tables up to this size are rated whole: 500 nodes cost about a millisecond."""

SAMPLE_NODES = 12
"""Fitting nodes rated for a single placement in a large table. Two random choices already keep the fullest
node within O(log log n) of the mean (Mitzenmacher, "The power of two choices"); more costs only time."""

SAMPLE_PER_INSTANCE = 2
"""Further fitting nodes rated per instance of a group."""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """Instances of one worker, all to be placed alike.

    `is_patient`: they run well where they are, and wait for a node that cools down rather than go there. `avoided`:
    names of nodes on which this revision keeps failing. Both kinds of nodes are taken when there is no other, but by
    patient instances.
    """

    spec: WorkerSpec
    instances: tuple[InstanceId, ...]
    is_patient: bool = False
    avoided: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placements:
    """Where each instance goes (node, ports), and for the others the sentence with the reason."""

    placed: Mapping[InstanceId, tuple[str, Ports]] = field(default_factory=dict)
    unplaced: Mapping[InstanceId, str] = field(default_factory=dict)


def place(table: NodeTable, requests: Sequence[PlacementRequest]) -> Placements:
    """Return a node for every instance that fits somewhere, in the order asked; the table then holds their room."""
    placed: dict[InstanceId, tuple[str, Ports]] = {}
    unplaced: dict[InstanceId, str] = {}
    for request in requests:
        if request.instances:
            _place_group(table, request, placed, unplaced)
    return Placements(placed, unplaced)


class _Pool:
    """The nodes of one domain, best first; rated `batch` at a time."""

    __slots__ = ("_batch", "_demand", "_entries", "_heap", "_next", "_rate", "_start")

    def __init__(
        self,
        entries: Sequence[NodeEntry],
        demand: Demand,
        rate: Callable[[NodeEntry], NodeKey],
        start: int,
        batch: int,
    ) -> None:
        self._entries = entries
        self._demand = demand
        self._rate = rate
        self._start = start % len(entries) if entries else 0
        self._next = 0
        self._batch = batch
        self._heap: list[tuple[NodeKey, int, NodeEntry]] = []

    def choose(self) -> NodeEntry | None:
        """Return the best node that fits, or None when every node was looked at. Ask again only after `settle`."""
        if not self._heap:
            self._refill()
        return self._heap[0][2] if self._heap else None

    def settle(self) -> None:
        """Rate the node chosen last again, now that it took an instance; it leaves the pool when full."""
        _, index, entry = self._heap[0]
        if misfit(entry, self._demand) is None:
            heapq.heapreplace(self._heap, (self._rate(entry), index, entry))
        else:
            heapq.heappop(self._heap)

    def _refill(self) -> None:
        entries, demand, rate = self._entries, self._demand, self._rate
        total, start, index, batch = len(entries), self._start, self._next, self._batch
        found = self._heap
        while index < total and batch:
            position = start + index
            entry = entries[position - total if position >= total else position]
            if misfit(entry, demand) is None:
                found.append((rate(entry), index, entry))
                batch -= 1
            index += 1
        self._next = index
        heapq.heapify(found)


class _Spread:
    """The domains of one label, the one with the fewest copies first; nodes without the label come last.

    Domains with as many copies follow each other from a start that depends on the worker, or all single
    instances would meet in the first one.
    """

    __slots__ = ("_copies", "_depth", "_group", "_heap", "_parts", "_sources")

    def __init__(self, group: _Group, domain: Domain, depth: int) -> None:
        self._group = group
        self._depth = depth
        self._parts = domain.parts
        self._sources: dict[int, _Pool | _Spread] = {}
        self._copies = copies = group.copies[depth]
        count, start = len(self._parts), group.demand.seed
        self._heap = [
            (part.value is None, copies.get(part.value, 0), (index - start) % count, index)
            for index, part in enumerate(self._parts)
        ]
        heapq.heapify(self._heap)

    def choose(self) -> NodeEntry | None:
        """Return the node for the next instance, or None when no domain has one. Ask again only after `settle`."""
        heap, copies = self._heap, self._copies
        while heap:
            is_last, count, order, index = heap[0]
            now = copies.get(self._parts[index].value, 0)
            if now != count:  # this value got a copy under another domain: counts only grow, so look again
                heapq.heapreplace(heap, (is_last, now, order, index))
                continue
            source = self._sources.get(index)
            if source is None:
                source = self._group.source(self._parts[index], self._depth + 1)
                self._sources[index] = source
            entry = source.choose()
            if entry is not None:
                return entry
            heapq.heappop(heap)
        return None

    def settle(self) -> None:
        """Count the copy that the node chosen last took."""
        is_last, count, order, index = self._heap[0]
        self._copies[self._parts[index].value] = count + 1
        self._sources[index].settle()
        heapq.heapreplace(self._heap, (is_last, count + 1, order, index))


class _Group:
    """What all instances of one request share."""

    __slots__ = ("batch", "copies", "demand", "rate", "start")

    def __init__(self, table: NodeTable, request: PlacementRequest, demand: Demand) -> None:
        placement = request.spec.placement
        self.demand = demand
        self.rate = node_key(request.spec, demand)
        self.copies = _copies(table, demand.key, placement.spread)
        self.start, self.batch = 0, len(table.entries)
        if len(table.entries) > SAMPLED_ABOVE_NODES and not placement.affinity and not placement.near:
            self.start = zlib.crc32(b"%d" % request.instances[0].slot, demand.seed)
            self.batch = SAMPLE_NODES + SAMPLE_PER_INSTANCE * len(request.instances)

    def pool(self, entries: Sequence[NodeEntry]) -> _Pool:
        """Return these nodes, best first."""
        return _Pool(entries, self.demand, self.rate, 0, len(entries))

    def source(self, domain: Domain, depth: int) -> _Pool | _Spread:
        """Return where the nodes of a domain come from."""
        if domain.parts:
            return _Spread(self, domain, depth)
        return _Pool(domain.entries, self.demand, self.rate, self.start, self.batch)


def _place_group(
    table: NodeTable,
    request: PlacementRequest,
    placed: dict[InstanceId, tuple[str, Ports]],
    unplaced: dict[InstanceId, str],
) -> None:
    spec, instances = request.spec, request.instances
    demand = table.demand(instances[0].app_id, spec)
    group = _Group(table, request, demand)
    sources = _sources(table, request, group)
    source = next(sources)
    for index, instance in enumerate(instances):
        entry = source.choose()
        while entry is None:
            further = next(sources, None)
            if further is None:
                reason = unplaced_reason(table, demand, is_patient=request.is_patient, avoided=request.avoided)
                unplaced.update((left, reason) for left in instances[index:])
                return
            source = further
            entry = source.choose()
        ports = pick_ports(entry, demand, instance)
        table.take(entry, demand.key, instance, spec.resources, ports)
        placed[instance] = (entry.name, ports)
        source.settle()


def _sources(table: NodeTable, request: PlacementRequest, group: _Group) -> Iterator[_Pool | _Spread]:
    """Yield where nodes come from: those without a flaw; then, for who cannot wait, those that cool down or failed."""
    placement, avoided = request.spec.placement, request.avoided
    chosen = table.domains(group.demand.constraints, placement.spread)
    yield group.source(without(chosen, avoided), 0)
    if request.is_patient:
        return
    if table.cooling_until_s is not None:
        cooling = table.domains(group.demand.constraints, placement.spread, is_cooling=True)
        yield group.source(without(cooling, avoided), 0)
    if avoided:
        entries = [entry for name in sorted(avoided) if (entry := table.by_name.get(name)) is not None]
        fitting = set(table.eligible(group.demand.constraints)) | set(
            table.eligible(group.demand.constraints, is_cooling=True)
        )
        yield group.pool([entry for entry in entries if entry in fitting])


def _copies(table: NodeTable, key: WorkerKey, spread: tuple[str, ...]) -> list[dict[str | None, int]]:
    """Return for each spread label how many copies of the worker run per value."""
    on_nodes = table.worker_nodes.get(key, {})
    counts: list[dict[str | None, int]] = []
    for label in spread:
        fact = label.removeprefix("node.labels.")
        count: dict[str | None, int] = {}
        for node, copies in on_nodes.items():
            value = table.by_name[node].facts.get(fact)
            count[value] = count.get(value, 0) + copies
        counts.append(count)
    return counts
