"""Processes with our mark that the ledger does not tell of: left alone until the leader's full orders have come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set

from hsu_agent import adopt
from hsu_agent.host.base import Found
from hsu_agent.ledger import Ledger, Run
from hsu_agent.planning.observed import Observed, Process
from hsu_agent.table import Table
from hsu_core.model.ids import InstanceId

log = logging.getLogger(__name__)


class Strays:
    """The strays of one agent. `adopt_process` holds one as ours, `attach` reads its output, `mark` has it planned."""

    def __init__(
        self,
        table: Table,
        ledger: Ledger,
        adopt_process: Callable[[Observed, Process], None],
        attach: Callable[[InstanceId], None],
        mark: Callable[[InstanceId], None],
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._adopt_process = adopt_process
        self._attach = attach
        self._mark = mark
        self._found: dict[InstanceId, tuple[Found, ...]] = {}

    def take(self, found: Mapping[InstanceId, tuple[Found, ...]]) -> None:
        """Leave these alone from now on."""
        self._found.update(found)

    def __contains__(self, instance: InstanceId) -> bool:
        """Return whether an instance is left alone."""
        return instance in self._found

    def clear(self) -> None:
        """Leave none alone any more."""
        self._found.clear()

    def settle(self, named: Set[InstanceId]) -> None:
        """Decide about them; `named` are all instances of this node.

        Those that are ordered are adopted where their mark allows it; everything else goes the usual way.
        """
        for instance in sorted(self._found):
            order, observed = self._table.desired.get(instance), self._table.observed[instance]
            if order is None and instance in named:
                continue  # it is ordered, and we could not read how: leave it running
            adopted = adopt.adopt_stray(instance, order, self._found[instance]) if order is not None else None
            if order is not None and adopted is not None and observed.process is None:
                spec_key = self._table.spec_key(instance, order)
                self._ledger.put_intent(Run(instance, adopted[1].run, order, spec_key))
                self._adopt_process(*adopted)
            log.warning("%s was not in the ledger: %s", instance, "adopted" if adopted else "its processes are ended")
            del self._found[instance]
            self._attach(instance)
            self._mark(instance)
