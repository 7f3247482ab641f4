"""What goes along with every process of a worker: limits, a socket for its notices, figures.

A companion is told of each process that the supervisor holds, and may shape its launch. It decides nothing about
instances: what it finds wrong it hands to `Supervisor.fault`. Calls are made from the event loop's thread, must not
block, and cost nothing for a worker that does not use the companion.
"""

from __future__ import annotations

from typing import Protocol

from hsu_agent.host.base import Launch
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.ids import InstanceId


class Companion(Protocol):
    """Goes along with processes from their launch to their end."""

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Return the launch, changed where this worker needs it. Raises ProcessError: the start is tried again."""

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Take note of a process: it was started, adopted from an earlier agent, or is held to a newer order."""

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Take note of the end of a process; return how it ended, with a reason if the companion knows it."""

    def forgotten(self, instance: InstanceId) -> None:
        """Give back what was kept for an instance that is gone."""


class Companions:
    """All companions as one, in a fixed order."""

    def __init__(self) -> None:
        self._members: list[Companion] = []

    def add(self, companion: Companion) -> None:
        """Have another companion go along from now on; called before anything is started."""
        self._members.append(companion)

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Return the launch after every companion has shaped it."""
        for member in self._members:
            launch = member.launch(order, launch)
        return launch

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Tell every companion of a process."""
        for member in self._members:
            member.started(instance, order, process)

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Tell every companion of an end; return it with the reasons that they know."""
        for member in self._members:
            last_exit = member.ended(instance, last_exit)
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Tell every companion that an instance is gone."""
        for member in self._members:
            member.forgotten(instance)
