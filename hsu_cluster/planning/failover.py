"""Which nodes have been silent for too long. Pure; the times come from the leader's monotonic clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_core.model.node import NodeRecord, NodeState


@dataclass(frozen=True, slots=True)
class NodeVerdicts:
    """Names of nodes to mark lost, sorted, and when the next one may become so (None: no node is being waited for)."""

    lost: tuple[str, ...] = ()
    next_check_s: float | None = None


def judge_nodes(
    nodes: Mapping[str, NodeRecord],
    last_seen_s: Mapping[str, float],
    leader_since_s: float,
    now_s: float,
    ttl_s: float,
) -> NodeVerdicts:
    """Return the nodes that were silent for `ttl_s` seconds.

    Silence counts from the last sign of life, and at the earliest from `leader_since_s`: a new leader
    has heard nobody yet and grants everyone a full TTL. A node that left cleanly is judged alike (its
    last sign of life is its good-bye): workers of a host that stays away are placed elsewhere.
    """
    lost: list[str] = []
    next_check_s: float | None = None
    for name in sorted(nodes):
        if nodes[name].state is NodeState.LOST:
            continue
        due_s = max(last_seen_s.get(name, leader_since_s), leader_since_s) + ttl_s
        if due_s <= now_s:
            lost.append(name)
        elif next_check_s is None or due_s < next_check_s:
            next_check_s = due_s
    return NodeVerdicts(tuple(lost), next_check_s)
