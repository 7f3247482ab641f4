"""The agent's table of instances: what is ordered, what is observed, and who wants to know of changes.

Holds values and decides nothing. Only `hsu_agent.loop` changes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hsu_agent.planning import reported
from hsu_agent.planning.observed import Desired, Observed
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.ids import InstanceId

log = logging.getLogger(__name__)

OnChange = Callable[[InstanceId], None]


class Table:
    """Instances of this host. `spec_keys` has the name of the specification that each order refers to."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.desired: dict[InstanceId, Desired] = {}
        self.observed: dict[InstanceId, Observed] = {}
        self.spec_keys: dict[InstanceId, str] = {}
        self.listeners: list[OnChange] = []

    @property
    def instances(self) -> list[InstanceId]:
        """Return every instance that is ordered or observed, sorted."""
        return sorted(self.desired.keys() | self.observed.keys())

    def spec_key(self, instance: InstanceId, order: Desired) -> str:
        """Return the name of the specification of an order."""
        return self.spec_keys.get(instance, order.spec.key)

    def order_of(self, instance: InstanceId) -> Desired | None:
        """Return the order that the latest start was made for, else the one in force."""
        observed = self.observed.get(instance)
        started_for = observed.order if observed is not None else None
        return started_for if started_for is not None else self.desired.get(instance)

    @property
    def has_workers(self) -> bool:
        """Return whether any worker runs or is to run."""
        return any(order.wants_process for order in self.desired.values()) or any(
            found.is_alive or not found.is_tree_empty for found in self.observed.values()
        )

    @property
    def idle_strict(self) -> list[InstanceId]:
        """Return the strict instances that are ordered and have no process."""
        return [
            instance
            for instance, order in self.desired.items()
            if order.is_strict and (found := self.observed.get(instance)) is not None and not found.is_alive
        ]

    def put(self, observed: Observed) -> None:
        """Hold the new value of an instance; tell who listens."""
        before = self.observed.get(observed.instance)
        self.observed[observed.instance] = observed
        if before is None or before.state is not observed.state or before.is_alive != observed.is_alive:
            log.debug("%s is %s %s", observed.instance, observed.state, observed.reason)
        self.tell(observed.instance)

    def remove(self, instance: InstanceId) -> None:
        """Hold an instance no more. The caller tells who listens when all of it is gone."""
        del self.observed[instance]
        self.spec_keys.pop(instance, None)

    def tell(self, instance: InstanceId) -> None:
        """Tell who listens that an instance has changed."""
        for listener in self.listeners:
            listener(instance)

    def status(self, instance: InstanceId) -> InstanceStatus | None:
        """Return what is reported of an instance, or None if it is gone."""
        observed = self.observed.get(instance)
        if observed is None:
            return None
        return reported.status_of(observed, self.desired.get(instance), self.node)

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Return what is reported of all instances."""
        return tuple(status for found in sorted(self.observed) if (status := self.status(found)) is not None)
