"""The companion that knows the exit code of a launcher: what it says is for people, not the program's own."""

from __future__ import annotations

from dataclasses import replace

from hsu_agent.host.base import Launch
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.ids import InstanceId

CANNOT = 126
"""The exit code of `hsu_agent.host.launcher` when something cannot be set."""


class LaunchNotes:
    """Names the cause where a process ended before it was its program."""

    def __init__(self) -> None:
        self._with_attributes: set[InstanceId] = set()

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Change nothing."""
        return launch

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Remember whose process went over the launcher."""
        if order.spec.worker.process.is_empty and not order.is_strict:
            self._with_attributes.discard(instance)
        else:
            self._with_attributes.add(instance)

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Return the exit with its reason."""
        if last_exit.code != CANNOT or instance not in self._with_attributes:
            return last_exit
        return replace(last_exit, reason="its `process` settings could not be made (code 126); its stderr says which")

    def forgotten(self, instance: InstanceId) -> None:
        """Forget an instance."""
        self._with_attributes.discard(instance)
