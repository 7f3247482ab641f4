"""One start of an instance: pipes, files, the intent in the ledger, the process, its record.

Decides nothing: `hsu_agent.loop` says what to start, and what a failure means is a rule of `planning.observed`.
"""

from __future__ import annotations

import logging
import os

from hsu_agent.companions import Companions
from hsu_agent.finder import Looker
from hsu_agent.host.base import GUARDED_RUN, Host
from hsu_agent.host.ports import refuse_busy_ports
from hsu_agent.launch import Preparer
from hsu_agent.ledger import Ledger, Run
from hsu_agent.logs.capture import Capture, lend_pipes
from hsu_agent.planning import observed as changes
from hsu_agent.planning.observed import Desired, Observed, Process
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient

log = logging.getLogger(__name__)


class Starter:
    """Starts processes; every start has a run number of its own, by which a later agent recognises it."""

    def __init__(
        self,
        host: Host,
        ledger: Ledger,
        capture: Capture,
        preparer: Preparer,
        companions: Companions,
        looker: Looker,
        ambient: Ambient = REAL,
    ) -> None:
        self._host = host
        self._ledger = ledger
        self._capture = capture
        self._preparer = preparer
        self._companions = companions
        self._looker = looker
        self._run_number = 0
        self._run_prefix = ambient.token(8)

    def attach(self, instance: InstanceId, order: Desired) -> None:
        """Drain the pipes of an instance; if that fails, its first start tells why."""
        if order.spec.worker.unmanaged is not None:
            return  # its output goes where its owner has it
        try:
            self._capture.attach(instance, order.spec.worker.logs)
        except ProcessError as error:
            log.error("output of %s is not read: %s", instance, error)

    def start(self, observed: Observed, order: Desired, spec_key: str) -> Process:
        """Start a process for `order`, or take the unmanaged one that was found, and return it.

        Raises HsuError or OSError: nothing was started, and nothing taken.
        """
        instance = observed.instance
        if order.spec.worker.unmanaged is not None:
            process = self._looker.take(instance, order)
            restarts = changes.restarts_of(observed, order)
            self._ledger.put_intent(Run(instance, process.run, order, spec_key, restarts, observed.failures))
            self._ledger.put_process(instance, process)
            return process
        self._run_number += 1
        run = f"{GUARDED_RUN if order.is_strict else ''}{self._run_prefix}-{self._run_number:x}"
        restarts = changes.restarts_of(observed, order)
        descriptors: tuple[int, ...] = ()
        try:
            refuse_busy_ports(instance, order.assignment.ports)
            self._capture.attach(instance, order.spec.worker.logs)
            descriptors = self._capture.open_for_worker(instance)
            launch = self._companions.launch(order, self._preparer.prepare(order, run, *descriptors))
            if launch.identity is not None:
                lend_pipes(descriptors, launch.identity.uid)
            self._ledger.put_intent(Run(instance, run, order, spec_key, restarts, observed.failures))
            process = self._host.spawn(launch)
            self._ledger.put_process(instance, process)
            return process
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
