"""The fence of strict workers: nothing of them runs on this node without a lease, and somebody else ends it in time.

Before a strict process is started its cgroup is told to the guard, and the guard has said that it holds it; the process
puts itself into that cgroup before it becomes the worker, and looks at the clock then. So there is no moment, whatever
is stopped or killed in it, at which one runs that the guard does not know. Rules are in `hsu_agent.planning.lease`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hsu_agent.guard import Guard, GuardGone
from hsu_agent.host.base import GUARDED_RUN, Found, Launch, Ticket
from hsu_agent.planning.lease import ENDING, FENCED, NOT_CONFIRMED, Lease
from hsu_agent.planning.observed import Desired, Observed, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import ProcessError
from hsu_core.model.fencing import lease_s
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient

log = logging.getLogger(__name__)

NO_CGROUPS = "no cgroup v2 with cgroup.kill that its agent may write (run it as root, or with Delegate=yes)"

_KILLED = "SIGKILL"


class Fence:
    """The fence of one agent; a companion of its processes. `why_not`: why this host cannot fence (empty: it can).

    Without a guard there is no cluster, and so nobody else who could run what is strict: nothing is held back.
    `group_of` makes the cgroup of an instance and returns its path. Raises OSError.
    """

    def __init__(
        self,
        guard: Guard | None,
        group_of: Callable[[InstanceId], str] = str,
        why_not: str = "",
        ambient: Ambient = REAL,
    ) -> None:
        self.why_not = why_not
        self._guard = guard
        self._group_of = group_of
        self._boottime = ambient.boottime
        self._lease = Lease()
        self._held: dict[InstanceId, str] = {}
        self._is_ending = False
        self.listeners: list[Callable[[], None]] = []

    # -- the session ------------------------------------------------------------------------------

    def begin_session(self, ttl_s: float) -> None:
        """Listen to a leader that gives this node up after `ttl_s` of silence."""
        self._lease.begin_session(lease_s(ttl_s), self._boottime())

    def name(self, orders: Iterable[Desired]) -> None:
        """Take note of the orders in force that the leader of this session has named."""
        self._lease.name((order.assignment.instance, order.assignment.epoch) for order in orders if order.is_strict)
        self._tell()

    def acknowledged(self, sent_s: float) -> None:
        """Renew the lease by a beat of this session that was sent at `sent_s`."""
        if not self._lease.acknowledged(sent_s, self._boottime()):
            return
        if self._guard is not None:
            try:
                self._guard.push(self._lease.until_s)
            except GuardGone as error:
                self._lose_guard(error)
        self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()

    # -- decisions --------------------------------------------------------------------------------

    def hold(self, order: Desired | None) -> str:
        """Return why an order's process must not be started now; empty if it may."""
        if order is None or not order.is_strict or self._guard is None:
            return ""
        if self._is_ending:
            return ENDING
        instance, epoch = order.assignment.instance, order.assignment.epoch
        if self.why_not:  # no leader gives its slot away on a guess; but it has to have heard that we cannot fence
            return "" if self._lease.is_named(instance, epoch) else NOT_CONFIRMED
        return self._lease.hold(instance, epoch, self._boottime())

    def why_ended(self, observed: Observed, last_exit: LastExit) -> str:
        """Return the reason if it was the fence that ended a process, else an empty text."""
        if observed.order is None or not self._is_guarded(observed.order):
            return ""
        is_unknown = last_exit.code is None and last_exit.signal is None
        is_killed = last_exit.signal == _KILLED or is_unknown
        return FENCED if is_killed and self._lease.is_over(self._boottime()) else ""

    # -- processes --------------------------------------------------------------------------------

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Have the group of a strict worker guarded, and its launcher told. Raises ProcessError: it must not start."""
        if not self._is_guarded(order):
            return launch
        instance = order.assignment.instance
        why = self.hold(order)
        if not why and not self._hold(instance):
            why = "its guard does not hold it"
        if why:
            raise ProcessError(f"start {instance}", why, "it is tried again", code="process.fence")
        return replace(launch, guarded_by=Ticket(self._held[instance], self._lease.until_s))

    def _is_guarded(self, order: Desired) -> bool:
        is_ours = order.spec.worker.unmanaged is None
        return order.is_strict and is_ours and not self.why_not and self._guard is not None

    def _hold(self, instance: InstanceId) -> bool:
        """Have the group of an instance guarded; what is in it is killed if nobody does. Returns whether it is held."""
        try:
            group = self._group_of(instance)
        except OSError as error:
            log.error("%s has no cgroup: %s", instance, error)
            return False
        assert self._guard is not None
        try:
            is_held = self._guard.hold(group)
        except GuardGone as error:
            log.error("%s is not guarded and is killed: %s", instance, error)
            is_held = False
        if not is_held:
            _kill(group)
            return False
        self._held[instance] = group
        return True

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Have an adopted process guarded; one without a lease is killed by that."""
        if not order.is_strict:
            self._release(instance)
        elif self._is_guarded(order) and instance not in self._held:
            self._hold(instance)

    def take_strays(self, strays: Mapping[InstanceId, Sequence[Found]]) -> None:
        """Have processes guarded of which the ledger does not tell, and whose mark says that they are strict."""
        for instance, found in strays.items() if self._guard is not None else ():
            if any(item.process.run.startswith(GUARDED_RUN) for item in found):
                self._hold(instance)

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Change nothing: the group is held until the instance is forgotten."""
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Have the group of an instance guarded no more."""
        self._release(instance)

    def _release(self, instance: InstanceId) -> None:
        group = self._held.pop(instance, None)
        if group is not None and self._guard is not None:
            with contextlib.suppress(GuardGone):  # then nothing is held by anybody
                self._guard.release(group)

    # -- the end ----------------------------------------------------------------------------------

    @property
    def is_guarded(self) -> bool:
        """Return whether somebody ends strict workers when we are gone."""
        return self._guard is not None and self._guard.is_there

    def end(self) -> None:
        """Start no strict worker any more: the agent ends, and its guard with it."""
        self._is_ending = True

    def kill_all(self, why: str) -> None:
        """Kill every strict process at once: nobody guards them any more."""
        self._is_ending = True
        if self._held:
            log.error("%d strict workers are killed: %s", len(self._held), why)
        for group in self._held.values():
            _kill(group)

    def _lose_guard(self, error: GuardGone) -> None:
        """Do at once what the guard would have done at the end of the lease; the next start finds another guard."""
        log.error("the guard of strict workers is gone, they are killed: %s", error)
        for group in self._held.values():
            _kill(group)
        self._held.clear()


def _kill(group: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(group, "cgroup.kill").write_text("1")
    except OSError as error:
        log.error("cannot kill what is in %s: %s", group, error)
