"""Which nodes have been silent for too long. Pure; the times come from the leader's monotonic clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_core.model.node import NodeRecord, NodeState

BRAKE_MIN_NODES = 3
"""Fewest lost nodes for the mass-failure brake: below that, losing them together is plausible."""

BRAKE_SHARE = 0.3
"""Share of lost nodes above which the masters are more likely cut off than the nodes dead."""

SUSPECT_SHARE = 0.5
"""A node silent for this part of its TTL has missed a beat: it may be about to be lost with others."""


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
    last sign of life is its good-bye): workers of a host that stays away are placed elsewhere. While many
    more nodes fall silent, nobody is judged until each of them has spoken or reached its TTL.
    """
    lost: list[str] = []
    due_s: list[float] = []
    suspects = 0
    for name in sorted(nodes):
        if nodes[name].state is NodeState.LOST:
            continue
        heard_s = max(last_seen_s.get(name, leader_since_s), leader_since_s)
        if heard_s + ttl_s <= now_s:
            lost.append(name)
            continue
        due_s.append(heard_s + ttl_s)
        suspects += heard_s + ttl_s * SUSPECT_SHARE <= now_s
    if lost and suspects and is_mass_loss(_count_lost(nodes) + len(lost) + suspects, len(nodes)):
        lost = []  # they are judged together with the suspects, so that the brake sees them all
    return NodeVerdicts(tuple(lost), min(due_s, default=None))


def is_mass_loss(lost: int, total: int) -> bool:
    """Return whether so many nodes are lost together that the masters are more likely cut off than the nodes dead."""
    return lost >= BRAKE_MIN_NODES and lost > BRAKE_SHARE * total


def _count_lost(nodes: Mapping[str, NodeRecord]) -> int:
    return sum(node.state is NodeState.LOST for node in nodes.values())
