"""Which of several fitting nodes is better. Pure.

One figure per node, higher is better, so that wishes add up instead of excluding each other:
a wish of weight 100 is worth as much as an empty node against a full one, or as not joining two copies.
"""

from __future__ import annotations

from collections.abc import Callable

from hsu_cluster.planning.constraints import holds
from hsu_cluster.planning.node_table import Demand, NodeEntry
from hsu_core.model.spec import WorkerSpec

LOAD_POINTS = 100.0
"""Points between an empty and a full node: the scale of affinity weights (1..100)."""

NEAR_POINTS = 100.0
"""Points for a node with a worker of `near`: as the heaviest affinity."""

COLOCATION_POINTS = 50.0
"""Points lost per copy of the same worker already there (strategy `spread`): a lost node must not take many."""

NodeKey = tuple[float, int]
"""Sort key of a node: the lowest is the best."""


def node_key(spec: WorkerSpec, demand: Demand) -> Callable[[NodeEntry], NodeKey]:
    """Return the function that rates nodes for one worker; equal scores go to the node with fewer instances.

    `spread` prefers the node that is emptiest after the placement, `binpack` the fullest (and, for
    workers that reserve nothing, the one with most instances).
    """
    cpu, memory, own = demand.cpu_milli, demand.memory_bytes, demand.key
    affinity = spec.placement.affinity
    near = tuple((own[0], own[1], other) for other in spec.placement.near)
    is_binpack = spec.placement.strategy == "binpack"

    def wishes(entry: NodeEntry) -> float:
        points = sum(wish.weight for wish in affinity if holds(wish.constraint, entry.facts))
        return points + NEAR_POINTS * sum(other in entry.workers for other in near)

    def rate(entry: NodeEntry) -> NodeKey:
        total = entry.cpu_total
        load = (total - entry.cpu_free + cpu) / total if total else 0.0
        total = entry.memory_total
        if total:
            memory_load = (total - entry.memory_free + memory) / total
            if memory_load > load:
                load = memory_load
        if is_binpack:
            cost, instances = -LOAD_POINTS * load, -entry.instances
        else:
            cost = LOAD_POINTS * load + COLOCATION_POINTS * entry.workers.get(own, 0)
            instances = entry.instances
        if affinity or near:
            cost -= wishes(entry)
        return cost, instances

    return rate
