"""Signals to the processes of instances: what people send, and the stop signal. Decides nothing about instances."""

from __future__ import annotations

import logging

from hsu_agent.host.base import Host
from hsu_agent.planning.observed import Observed
from hsu_agent.table import Table
from hsu_core.model.errors import Conflict, Forbidden, NotFound, ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import ALLOWED, Operation
from hsu_core.model.unmanaged import UnmanagedSpec

log = logging.getLogger(__name__)


class Signals:
    """Sends signals to process groups of this host."""

    def __init__(self, host: Host, table: Table) -> None:
        self._host = host
        self._table = table

    def send(self, instance: InstanceId, name: str) -> None:
        """Send a signal to a running instance. Raises NotFound, Conflict, ProcessError."""
        observed = self._table.observed.get(instance)
        if observed is None:
            raise NotFound(f"signal {instance}", f"it is not on node {self._table.node}")
        unmanaged = observed.order.spec.worker.unmanaged if observed.order is not None else None
        if unmanaged is not None and not _is_allowed(unmanaged, name):
            raise Forbidden(
                f"send {name} to {instance}",
                "its unmanaged unit does not allow it",
                "see allowed_signals and can_terminate in the manifest",
                code="unmanaged.not-allowed",
            )
        is_allowed = observed.is_alive and observed.state in ALLOWED[Operation.SIGNAL]
        if observed.process is None or not is_allowed or not self._host.signal(observed.process, name):
            raise Conflict(f"signal {instance}", f"it is {observed.state} and has no process", "start it first")

    def stop(self, observed: Observed, name: str) -> None:
        """Send the stop signal; if the system refuses, the kill after the grace does the rest."""
        try:
            if observed.process is not None:
                self._host.signal(observed.process, name)
        except ProcessError as error:
            log.warning("%s is killed after its grace: %s", observed.instance, error)


ENDING = ("SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "SIGABRT", "SIGSTOP")
"""Signals that end or halt a program: they need `can_terminate`, unless they are named as allowed."""


def _is_allowed(unmanaged: UnmanagedSpec, name: str) -> bool:
    if unmanaged.allowed_signals is not None:
        return unmanaged.may_send(name)
    return unmanaged.can_terminate or name not in ENDING
