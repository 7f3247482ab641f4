"""What the agent asks of an operating system, as one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hsu_agent.host.attributes import Identity
from hsu_agent.planning.observed import Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.attributes import NO_ATTRIBUTES, ProcessAttributes
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import Capacity

INSTANCE_VARIABLE = "HSU_INSTANCE"
AGENT_VARIABLE = "HSU_AGENT"
RUN_VARIABLE = "HSU_RUN"
"""Environment variables that mark every process of a worker: instance, agent, and which start it belongs to."""

GUARDED_RUN = "strict-"
"""Begins the run of a worker that a guard holds: found without a ledger, it must be guarded, or end."""

HOOK_RUN = "hook-"
"""Begins the run of a hook's processes: they are of the instance, but none of them is its worker."""


def marker(instance: InstanceId) -> str:
    """Return the value of HSU_INSTANCE: `namespace/app/worker.slot`."""
    return f"{instance.namespace}/{instance.app}/{instance.worker}.{instance.slot}"


def instance_of(text: str) -> InstanceId | None:
    """Return the instance of a marker, or None if it is not one."""
    parts = text.split("/")
    worker, dot, slot = parts[-1].rpartition(".")
    if len(parts) != 3 or not dot or not slot.isdigit():
        return None
    return InstanceId(parts[0], parts[1], worker, int(slot))


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the launcher of a strict worker needs. `until_s`: end of the lease, CLOCK_BOOTTIME."""

    group: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Launch:
    """One start: everything is resolved. `stdout` and `stderr` are descriptors that the caller closes."""

    instance: InstanceId
    run: str
    argv: Sequence[str]
    executable: str
    environment: Mapping[str, str]
    working_directory: str
    stdout: int
    stderr: int
    attributes: ProcessAttributes = NO_ATTRIBUTES
    identity: Identity | None = None
    """Who it runs as; None: the agent's own user."""
    guarded_by: Ticket | None = None
    """The cgroup that it has to be in before it is the worker, and until when it may become that; None: not strict."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process with our mark, found by looking through the host. `is_leader`: first of its session."""

    instance: InstanceId
    process: Process
    is_leader: bool


OnExit = Callable[[LastExit], None]


class Host(Protocol):
    """Processes of one machine. All calls are made from the event loop's thread and do not block."""

    boot_id: str
    os: str
    arch: str

    def capacity(self) -> Capacity:
        """Return what the machine has, before any reserve."""

    def spawn(self, launch: Launch) -> Process:
        """Start a process in a session of its own. Raises ProcessError."""

    def watch(self, instance: InstanceId, process: Process, on_exit: OnExit) -> bool:
        """Call `on_exit` once when the process ends; False if it (or its identity) is not there any more."""

    def unwatch(self, process: Process) -> None:
        """Tell nobody of the end of this process any more."""

    def signal(self, process: Process, name: str) -> bool:
        """Send a signal to the process group of a watched process (a foreign one: to it alone); False if it has ended.

        Raises ProcessError for an unknown signal or a refusal.
        """

    def is_tree_empty(self, instance: InstanceId, process: Process) -> bool:
        """Return True only if it is proven at once that no process of the instance is left."""

    async def end_tree(self, instance: InstanceId, process: Process | None) -> None:
        """Kill every process of the instance; return when none is left."""

    def find_marked(self) -> list[Found]:
        """Return all processes that carry this agent's mark."""

    def exit_of(self, process: Process) -> LastExit | None:
        """Return how a process that ended earlier did so, if anybody kept it."""

    def release(self, instance: InstanceId) -> None:
        """Give back what was kept for an instance that is forgotten."""

    def close(self) -> None:
        """Stop watching; processes run on."""
