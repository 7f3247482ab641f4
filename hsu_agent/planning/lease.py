"""Whether a strict worker may be started now: the node's lease, and which orders a leader has confirmed. Pure.

A lease is a leader's word that nobody else gets this node's strict slots for a while. It counts from when we sent the
newest beat that was acknowledged, on CLOCK_BOOTTIME, so that a sleeping host and a late answer cost only ourselves.
What was ordered before a lease ran out may run elsewhere by now: it is started again only when a session has named it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hsu_core.model.ids import InstanceId

START_MARGIN_S = 0.05
"""A start that begins so shortly before the end of the lease would be killed before it has done anything."""

NO_LEASE = "waits for its lease: a strict worker starts only while a leader keeps acknowledging this node"
NOT_CONFIRMED = "waits for a leader to confirm its order: it may run elsewhere by now"
FENCED = "fenced: no leader has acknowledged this node in time, so the slot may be given to another one"
ENDING = "the agent ends, and nobody would guard it then"

Confirmed = tuple[InstanceId, int]
"""Instance and epoch."""


class Lease:
    """The lease of this node. Times are seconds on CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self._lasts_s = 0.0
        self._begun_s = 0.0
        self._named: set[Confirmed] = set()
        self._confirmed: set[Confirmed] = set()

    def begin_session(self, lasts_s: float, now_s: float) -> None:
        """Listen to a leader; what it names and acknowledges from now on counts. A running lease goes on."""
        self._lasts_s = lasts_s
        self._begun_s = now_s
        self._named = set()

    def name(self, orders: Iterable[Confirmed]) -> None:
        """Take note of orders in force that the leader of this session has named."""
        named = set(orders)
        self._named |= named
        self._confirmed |= named

    def acknowledged(self, sent_s: float, now_s: float) -> bool:
        """Renew by a beat that was sent at `sent_s` and acknowledged; return whether the lease is ahead.

        What no beat of this session can have said is passed over.
        """
        if not self._begun_s <= sent_s <= now_s:
            return False
        if self.is_over(now_s):
            self._confirmed = set(self._named)
        self.until_s = max(self.until_s, sent_s + self._lasts_s)
        return not self.is_over(now_s)

    def is_over(self, now_s: float) -> bool:
        """Return whether strict workers must not run."""
        return now_s >= self.until_s

    def is_named(self, instance: InstanceId, epoch: int) -> bool:
        """Return whether a leader has ever confirmed the order to this agent."""
        return (instance, epoch) in self._confirmed

    def hold(self, instance: InstanceId, epoch: int, now_s: float) -> str:
        """Return why a strict worker must not be started now; empty if it may."""
        if now_s + START_MARGIN_S >= self.until_s:
            return FENCED if self.until_s else NO_LEASE
        return "" if (instance, epoch) in self._confirmed else NOT_CONFIRMED
