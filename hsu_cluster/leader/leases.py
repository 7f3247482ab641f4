"""Until when nodes may run what is their own without another word: what this leader has promised, and former ones.

A promise is an acknowledged beat. It is made only while the leadership surely holds, and counts from when the node sent
the beat, so it ends at the latest a TTL after it was made here. Strict workers of a lost node wait for that
(`planning.reconcile`); nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hsu_cluster.leader.snapshot import Snapshot
from hsu_core.model.node import NodeState


class Leases:
    """The promises of one leadership, which begins now. Times are those of `monotonic`.

    `may_lead`: whether the leadership surely holds. `former_leader_s`: how long a former leader may go on to promise,
    if it was deposed and not outlived.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        ttl_s: float,
        monotonic: Callable[[], float],
        may_lead: Callable[[], bool],
        former_leader_s: float = 0.0,
    ) -> None:
        self._snapshot = snapshot
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._may_lead = may_lead
        self._ends_s: dict[str, float] = {}
        self._former_end_s = monotonic() + former_leader_s + ttl_s

    def prolong(self, node: str) -> bool:
        """Promise a node a TTL from now; False: nothing may be promised. To be called right before it is told."""
        if not self._may_lead():
            return False
        self._ends_s[node] = self._monotonic() + self._ttl_s
        return True

    def of_lost_nodes(self) -> Mapping[str, float]:
        """Return for each lost node the seconds until its lease is surely over, where it is not."""
        now_s = self._monotonic()
        lost = [name for name, record in self._snapshot.view().nodes.items() if record.state is NodeState.LOST]
        left_s = {name: self._ends_s.get(name, self._former_end_s) - now_s for name in lost}
        return {name: seconds for name, seconds in left_s.items() if seconds > 0}
