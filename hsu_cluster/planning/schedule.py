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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hsu_cluster.planning.node_table import Demand, NodeEntry, NodeTable, WorkerKey, misfit, pick_ports
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
    """Instances of one worker, all to be placed alike."""

    spec: WorkerSpec
    instances: tuple[InstanceId, ...]


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

    def __init__(self, entries: Sequence[NodeEntry], demand: Demand, spec: WorkerSpec, start: int, batch: int) -> None:
        self._entries = entries
        self._demand = demand
        self._rate = node_key(spec, demand)
        self._start = start % len(entries)
        self._next = 0
        self._batch = batch
        self._heap: list[tuple[NodeKey, int]] = []

    def best(self) -> tuple[NodeEntry, int] | None:
        """Return the best node that fits and its place in the pool, or None when every node was looked at."""
        if not self._heap:
            self._refill()
        if not self._heap:
            return None
        index = heapq.heappop(self._heap)[1]
        return self._entries[(self._start + index) % len(self._entries)], index

    def put_back(self, entry: NodeEntry, index: int) -> None:
        """Rate a node again after it took an instance; it leaves the pool when full."""
        if misfit(entry, self._demand) is None:
            heapq.heappush(self._heap, (self._rate(entry), index))

    def _refill(self) -> None:
        entries, demand, rate = self._entries, self._demand, self._rate
        total, start, index = len(entries), self._start, self._next
        found: list[tuple[NodeKey, int]] = []
        while index < total and len(found) < self._batch:
            position = start + index
            entry = entries[position - total if position >= total else position]
            if misfit(entry, demand) is None:
                found.append((rate(entry), index))
            index += 1
        self._next = index
        heapq.heapify(found)
        self._heap = found


def _place_group(
    table: NodeTable,
    request: PlacementRequest,
    placed: dict[InstanceId, tuple[str, Ports]],
    unplaced: dict[InstanceId, str],
) -> None:
    spec, instances = request.spec, request.instances
    demand = table.demand(instances[0].app_id, spec)
    resources = spec.resources
    chooser = _chooser(table, demand, spec, instances)
    reason = ""
    for instance in instances:
        choice = chooser.choose() if not reason else None
        if choice is None:
            reason = reason or unplaced_reason(table, demand)
            unplaced[instance] = reason
            continue
        entry, index, pool = choice
        ports = pick_ports(entry, demand, instance)
        table.reserve(instance, entry.name, resources, ports)
        placed[instance] = (entry.name, ports)
        pool.put_back(entry, index)


class _Chooser:
    """Picks the domain with the fewest copies first, then the best node in it."""

    __slots__ = ("_counts", "_domains", "_heap", "_pools")

    def __init__(
        self,
        domains: Sequence[tuple[tuple[str | None, ...], Sequence[NodeEntry]]],
        pools: Sequence[_Pool],
        counts: Sequence[dict[str | None, int]],
    ) -> None:
        self._domains = domains
        self._pools = pools
        self._counts = counts
        self._heap = [(self._domain_key(number), number) for number in range(len(domains))]
        heapq.heapify(self._heap)

    def choose(self) -> tuple[NodeEntry, int, _Pool] | None:
        """Return the node for the next instance, or None when no domain has one."""
        while self._heap:
            key, number = self._heap[0]
            now = self._domain_key(number)
            if now != key:  # a neighbour with the same label value took a copy: counts only grow, so look again
                heapq.heapreplace(self._heap, (now, number))
                continue
            best = self._pools[number].best()
            if best is None:
                heapq.heappop(self._heap)
                continue
            for count, value in zip(self._counts, self._domains[number][0], strict=True):
                count[value] = count.get(value, 0) + 1
            return best[0], best[1], self._pools[number]
        return None

    def _domain_key(self, number: int) -> tuple[tuple[bool, int], ...]:
        """Return copies per label, the first label counting most; nodes without the label come last."""
        values = self._domains[number][0]
        return tuple((value is None, count.get(value, 0)) for count, value in zip(self._counts, values, strict=True))


def _chooser(table: NodeTable, demand: Demand, spec: WorkerSpec, instances: tuple[InstanceId, ...]) -> _Chooser:
    placement = spec.placement
    domains = table.domains(placement.constraints, placement.spread)
    start, batch = 0, len(table.entries) + 1
    if len(table.entries) > SAMPLED_ABOVE_NODES and not placement.affinity and not placement.near:
        start = zlib.crc32(f"{demand.key}{instances[0].slot}".encode())
        batch = SAMPLE_NODES + SAMPLE_PER_INSTANCE * len(instances) // max(1, len(domains))
    pools = [_Pool(entries, demand, spec, start, batch) for _, entries in domains]
    return _Chooser(domains, pools, _copies(table, demand.key, placement.spread))


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
