"""Which nodes have been silent for too long, how many together, and what a return is worth. Pure.

The times of `judge_nodes` come from the leader's monotonic clock, those of records (`lost_at`, `back_at`) are seconds
since 1970. Where the instances of a lost node go is decided in `absences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hsu_core.model.node import NodeRecord, NodeState, NodeTimes

BRAKE_MIN_NODES = 3
"""Fewest lost nodes for the mass-failure brake: below that, losing them together is plausible."""

BRAKE_TENTHS = 3
"""Tenths of the nodes above which the masters are more likely cut off than the nodes dead."""

FLAP_MEMORY_S = 600.0
"""A node that was not lost for so long after its return is as good as one that never was."""

COOLDOWN_CEILING_S = 600.0
"""Longest cool-down: a link that fails every few minutes is used again when it has held for ten."""


@dataclass(frozen=True, slots=True)
class NodeVerdicts:
    """Names of nodes to mark lost and of suspects, sorted; when the next may be lost (None: nobody is waited for)."""

    lost: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    next_check_s: float | None = None


def judge_nodes(
    nodes: Mapping[str, NodeRecord],
    last_seen_s: Mapping[str, float],
    grace_since_s: float,
    now_s: float,
    times: NodeTimes,
) -> NodeVerdicts:
    """Return the nodes that were silent for their TTL.

    Silence counts from the last sign of life, and at the earliest from `grace_since_s`: a new leader
    has heard nobody yet and grants everyone a full TTL. A node that left cleanly is judged alike (its
    last sign of life is its good-bye): workers of a host that stays away are placed elsewhere. While many
    more nodes fall silent, nobody is judged until each of them has spoken or reached its TTL, so that the brake
    sees them together; a node waits for the others until all that fell silent with it must have been judged.
    """
    lost: list[str] = []
    suspects: list[str] = []
    due_s: list[float] = []
    longest_s = 0.0
    for name in sorted(nodes):
        if nodes[name].state is NodeState.LOST:
            continue
        heard_s = max(last_seen_s.get(name, grace_since_s), grace_since_s)
        if heard_s + times.ttl_s <= now_s:
            lost.append(name)
            longest_s = max(longest_s, now_s - heard_s)
            continue
        due_s.append(heard_s + times.ttl_s)
        if heard_s + times.suspect_s <= now_s:
            suspects.append(name)
    silent = len(lost) + len(suspects)
    is_young = longest_s < 2 * times.ttl_s - times.suspect_s
    if lost and suspects and is_young and is_mass_loss(_count_lost(nodes) + silent, len(nodes)):
        suspects = sorted((*suspects, *lost))
        lost = []
    return NodeVerdicts(tuple(lost), tuple(suspects), min(due_s, default=None))


def is_mass_loss(lost: int, total: int) -> bool:
    """Return whether so many nodes are lost together that the masters are more likely cut off than the nodes dead."""
    return lost >= BRAKE_MIN_NODES and 10 * lost > BRAKE_TENTHS * total


@dataclass(frozen=True, slots=True)
class MassLoss:
    """Nodes that were lost within one TTL of each other: `nodes` are still lost, `count` of `total` were then.

    `until_s`: when it may end by itself, in seconds since 1970, because some of them came back (None: not by time).
    """

    nodes: frozenset[str] = frozenset()
    count: int = 0
    total: int = 0
    until_s: float | None = None

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return (
            f"{self.count} of {self.total} nodes were lost together, more than {10 * BRAKE_TENTHS} %: more likely the "
            f"masters are cut off than all of these dead"
        )


def mass_loss(nodes: Mapping[str, NodeRecord], now_s: float, ttl_s: float) -> MassLoss:
    """Return the nodes that the brake holds: instances stay assigned to them.

    Counted are nodes lost within one TTL of each other, against all that were not lost before them. Who came back
    less than a TTL ago still counts: when a network heals, not all are back in one moment.
    """
    losses: list[tuple[float, str, bool]] = []
    for name, node in nodes.items():
        if node.state is NodeState.LOST:
            losses.append((node.changed_at, name, True))
        elif node.lost_at and node.back_at <= now_s < node.back_at + ttl_s:
            losses.append((node.lost_at, name, False))
    if len(losses) < BRAKE_MIN_NODES:
        return MassLoss()
    losses.sort()
    held: set[int] = set()
    count = total = first = gone = 0
    for last, (lost_at, _, _) in enumerate(losses):
        while losses[first][0] < lost_at - ttl_s:
            gone += losses[first][2]
            first += 1
        together, others = last - first + 1, len(nodes) - gone
        if is_mass_loss(together, others):
            held.update(range(first, last + 1))
            if together > count:
                count, total = together, others
    names = frozenset(losses[index][1] for index in held if losses[index][2])
    if not names:
        return MassLoss()
    returns = [nodes[losses[index][1]].back_at + ttl_s for index in held if not losses[index][2]]
    return MassLoss(names, count, total, min(returns, default=None))


def returned(record: NodeRecord, known: NodeRecord, now_s: float) -> NodeRecord:
    """Return the record of a node that registers again, with what is kept of its losses.

    A node that said good-bye was not lost, however long it stayed away.
    """
    if known.state is not NodeState.LOST or known.lost_at <= known.back_at:
        return replace(record, lost_at=known.lost_at, back_at=known.back_at, flaps=known.flaps)
    is_again = known.back_at > 0 and known.lost_at - known.back_at < FLAP_MEMORY_S
    return replace(record, lost_at=known.lost_at, back_at=now_s, flaps=known.flaps + 1 if is_again else 1)


def cooling_until_s(node: NodeRecord, cooldown_s: float) -> float:
    """Return until when nothing new is placed on a node because it was lost (0: it never was); seconds since 1970."""
    if not node.back_at or not node.flaps:
        return 0.0
    doubled_s = cooldown_s * 2.0 ** min(node.flaps - 1, 10)  # far beyond the ceiling
    return node.back_at + min(doubled_s, max(cooldown_s, COOLDOWN_CEILING_S))


def _count_lost(nodes: Mapping[str, NodeRecord]) -> int:
    return sum(node.state is NodeState.LOST for node in nodes.values())
