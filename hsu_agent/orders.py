"""Whom the agent obeys, and how orders come into force: first into the ledger, then to the supervisor.

A lower term, or a lower epoch of a slot, comes from a leader that was replaced and is refused. So is a store
that is not as far as it was: it was restored. Another incarnation is another store (restored, or emptied, or of a
second cluster): while the agent has workers it obeys nothing of it, until an administrator has accepted that
(`Welcome.accepted`); then its first full orders replace the present ones, and only when they are in force it is
written down.
Knows nothing of sockets: `hsu_agent.sync` holds the session.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Set
from typing import Any, Protocol

from hsu_agent.ledger import Ledger
from hsu_agent.planning.observed import Desired
from hsu_core.model.errors import HsuError
from hsu_core.model.ids import InstanceId
from hsu_core.wire import frames

log = logging.getLogger(__name__)


class SessionEnded(Exception):
    """The session cannot go on; the text says why. `wait_s`: not to be tried again before."""

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class Supervised(Protocol):
    """The part of the supervisor that orders reach."""

    @property
    def desired(self) -> Mapping[InstanceId, Desired]:
        """Return the orders in force."""

    @property
    def has_workers(self) -> bool:
        """Return whether any worker runs or is to run."""

    def put_order(self, order: Desired, spec_key: str) -> None:
        """Obey an order from now on."""

    def drop_order(self, instance: InstanceId) -> None:
        """Stop an instance that is no longer assigned."""

    def settle_strays(self, named: Set[InstanceId]) -> None:
        """Decide about processes that the ledger does not tell of; `named` are all instances of this node."""


class Obedience:
    """Takes leaders and orders, or refuses them."""

    def __init__(self, supervised: Supervised, ledger: Ledger) -> None:
        self._supervised = supervised
        self._ledger = ledger
        self._incarnation = ""
        self._term = 0
        self._keys: dict[InstanceId, str] = {}
        self._specs: dict[str, Any] = {}
        self._is_complete = False
        self.is_holding = False
        """Whether the leader of this session is of another cluster, which is not obeyed."""
        self._told = ""

    @property
    def _is_new_cluster(self) -> bool:
        return bool(self._ledger.incarnation) and self._incarnation != self._ledger.incarnation

    def welcome(self, frame: frames.Welcome) -> None:
        """Listen to this leader in the session that begins. Raises SessionEnded for one that was replaced."""
        self._incarnation = frame.incarnation
        self.is_holding = False
        if not self._is_new_cluster:
            if frame.term < self._ledger.term:
                raise SessionEnded(f"its term {frame.term} is older than {self._ledger.term}")
            if self._ledger.incarnation:
                self._ledger.set_leader(frame.incarnation, frame.term)
        elif self._supervised.has_workers and self._ledger.incarnation not in frame.accepted:
            self.is_holding = True
            self._tell_of_hold()
        self._term = frame.term
        self._keys, self._specs, self._is_complete = {}, {}, False

    def obey(self, orders: frames.Orders) -> None:
        """Take orders into the ledger, then into force. Raises SessionEnded if they cannot be obeyed."""
        if orders.term < self._term:
            raise SessionEnded(f"orders of term {orders.term}, which is older than {self._term}")
        self._term = orders.term
        if self.is_holding:
            return
        if not self._is_new_cluster and orders.revision < self._ledger.revision:
            heard = self._ledger.revision
            raise SessionEnded(f"orders of store revision {orders.revision}, although {heard} was heard of before")
        self._specs |= orders.specs
        if self._is_new_cluster and not orders.is_full:
            return  # changes of what we do not obey yet: the full orders hold them too
        if self._is_new_cluster:
            ours, its = self._ledger.incarnation, self._incarnation
            log.warning("the cluster is another one than before (%s instead of %s): its orders are obeyed", its, ours)
        named = {order.assignment.instance for order in orders.orders}
        for order in orders.orders:
            self._take(order, orders.is_full and self._is_new_cluster)
        gone = set(self._supervised.desired) - named if orders.is_full else set(orders.removed)
        for instance in sorted(gone):
            self._ledger.drop_order(instance)
            self._supervised.drop_order(instance)
        self._forget_specs(orders)
        self._is_complete = self._is_complete or orders.is_full
        if self._is_complete:
            self._supervised.settle_strays(self._keys.keys())
        if orders.is_full or self._ledger.incarnation:
            self._ledger.set_leader(self._incarnation, orders.term)
        self.hear_of(orders.revision)

    def in_force(self, orders: frames.Orders) -> Iterator[Desired]:
        """Yield the orders in force that these name."""
        for order in orders.orders if not self.is_holding else ():
            present = self._supervised.desired.get(order.assignment.instance)
            if present is not None and present.assignment.epoch == order.assignment.epoch:
                yield present

    def hear_of(self, revision: int) -> None:
        """Take in how far the store of the leader is."""
        if self._ledger.incarnation and not self._is_new_cluster:
            self._ledger.hear_of(revision)

    def _tell_of_hold(self) -> None:
        if self._told == self._incarnation:
            return
        self._told = self._incarnation
        log.error(
            "cluster %s is not obeyed: the workers of this node belong to cluster %s; they run on. If its store was "
            "restored or lost, `hsu-cluster doctor accept-restore` shows what would be stopped and kept, and accepts "
            "it. If this is the wrong cluster, correct `masters`",
            self._incarnation,
            self._ledger.incarnation,
        )

    def _take(self, order: frames.Order, is_any_epoch_taken: bool) -> None:
        instance, epoch = order.assignment.instance, order.assignment.epoch
        present = self._supervised.desired.get(instance)
        if present is not None and epoch < present.assignment.epoch and not is_any_epoch_taken:
            log.warning("an order of an older epoch is refused: %s epoch %d", instance, epoch)
            return
        tree = self._specs.get(order.spec)
        if tree is None and not self._is_new_cluster:  # of another cluster a key means something else
            tree = self._ledger.spec_tree(order.spec)
        if tree is None:
            log.error("%s stays as it is: the leader has no specification %s for epoch %d", instance, order.spec, epoch)
            return
        try:
            wanted = Desired(order.assignment, self._ledger.read_spec(order.spec, tree))
        except HsuError as error:
            log.error("an order cannot be read and the present one stays in force: %s: %s", instance, error)
            return
        if wanted != present:
            self._ledger.put_order(wanted, order.spec, tree)
            self._supervised.put_order(wanted, order.spec)

    def _forget_specs(self, orders: frames.Orders) -> None:
        """Keep exactly the trees that current assignments name; the leader keeps account by the same rule."""
        if orders.is_full:
            self._keys.clear()
        for instance in orders.removed:
            self._keys.pop(instance, None)
        self._keys |= {order.assignment.instance: order.spec for order in orders.orders}
        used = set(self._keys.values())
        self._specs = {key: tree for key, tree in self._specs.items() if key in used}
