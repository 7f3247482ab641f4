"""Limits of workers carried out: set before a process runs, watched while it does, and the reason when they end it.

The companion of `hsu_agent.planning.limits`, which decides. Limits are set through the controllers of the host where
there are any, else by rlimits and samples. A worker without limits costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hsu_agent.host.base import Host, Launch
from hsu_agent.host.controllers import ControllerGroups, disk_of
from hsu_agent.limits.sampler import Sampler
from hsu_agent.limits.throttle import Throttles
from hsu_agent.limits.usage import UsageBook
from hsu_agent.metrics import AgentMetrics
from hsu_agent.planning import limits as rules
from hsu_agent.planning import restart
from hsu_agent.planning.limits import Decision, Measure, Usage, Watch
from hsu_agent.planning.observed import Desired, Fault, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.enforcement import FieldSupport, enforcement, is_held, needed_controllers, shortfalls
from hsu_core.model.ids import InstanceId
from hsu_core.model.limits import LimitsSpec
from hsu_core.model.quantity import format_duration, format_size

log = logging.getLogger(__name__)

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

OnFault = Callable[[InstanceId, Fault], None]

REMOVE_RETRY_S = 0.5
REMOVE_TRIES = 20
"""The kernel keeps a group for a moment after its last process has gone."""

JOIN_ROUNDS = 3
"""Looks for children that a process made while it was put under its limits."""


@dataclass(slots=True)
class _Limited:
    """What is held of one worker with limits."""

    limits: LimitsSpec
    held: tuple[FieldSupport, ...]
    disk: str = ""
    process: Process | None = None
    factor: float = 1.0
    oom_kills: int = 0
    told_oom_kills: int = 0
    watches: dict[str, Watch] = field(default_factory=dict)


class LimitKeeper:
    """The companion that keeps workers within their limits. `fault` ends one; `tasks` owns what runs meanwhile."""

    def __init__(
        self,
        *,
        groups: ControllerGroups,
        host: Host,
        book: UsageBook,
        data_dir: Path,
        metrics: AgentMetrics,
        tasks: asyncio.TaskGroup,
        fault: OnFault,
        worker_files_limit: tuple[int, int] | None = None,
    ) -> None:
        self._groups = groups
        self._book = book
        self._data_dir = data_dir
        self._metrics = metrics
        self._fault = fault
        self._files_limit = worker_files_limit or resource.getrlimit(resource.RLIMIT_NOFILE)
        self._sampler = Sampler(book, self._on_usage)
        self._throttles = Throttles(groups, host, tasks)
        self._limited: dict[InstanceId, _Limited] = {}
        self._removals: set[asyncio.TimerHandle] = set()
        self._is_closed = False
        self._task = tasks.create_task(self._sampler.run(), name="samples of use")

    # -- a companion ------------------------------------------------------------------------------

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Make the groups of a worker and set its limits; it is put into them before it runs, or right after."""
        instance, limits = order.assignment.instance, order.spec.worker.limits
        if limits.is_empty:
            if instance in self._limited:
                self._drop(instance)
            return launch
        limited = self._hold(instance, limits)
        limited.disk = disk_of(Path(launch.working_directory))[0] if "io" in needed_controllers(limits) else ""
        self._set(instance, limited)
        limited.oom_kills = limited.told_oom_kills = self._groups.oom_kills(instance)
        return launch

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Put a process under its limits and watch it; also a process of an earlier agent, and after a change."""
        limits, limited = order.spec.worker.limits, self._limited.get(instance)
        if limits.is_empty and limited is None:
            return
        is_found = limited is None
        if is_found:
            self._groups.find(instance)
            self._throttles.wake(process)
        is_same_process = limited is not None and limited.process == process
        before = limited.limits if limited is not None and is_same_process else LimitsSpec()
        limited = self._hold(instance, limits)
        if is_same_process or is_found:
            self._throttles.release(instance)
            self._set(instance, limited)
        limited.process, limited.watches = process, {}
        if not is_same_process:
            if is_found:
                limited.oom_kills = limited.told_oom_kills = self._groups.oom_kills(instance)
            self._join(instance, process)
        self._set_rlimits(process, limits, before)
        if limits.is_empty:
            self._drop(instance)
            return
        folders = str(self._data_dir / "logs"), str(self._data_dir / "instances")
        own = f"{instance.namespace}/{instance.app}/{instance.worker}.{instance.slot}"
        self._sampler.watch(instance, process, limits, (f"{folders[0]}/{own}", f"{folders[1]}/{own}"))

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Return how a process ended, with the limit that ended it."""
        limited = self._limited.get(instance)
        if limited is None:
            return last_exit
        self._sampler.unwatch(instance)
        self._throttles.release(instance)
        limited.process = None
        killed = self._groups.oom_kills(instance) - limited.oom_kills
        limited.oom_kills += killed
        size = limited.limits.memory.max_rss_bytes
        seconds = limited.limits.cpu.max_time_s
        if last_exit.signal == "SIGKILL" and killed > 0 and size is not None:
            self._metrics.oom_kills.inc()
            text = f"killed: out of memory (limits.memory {format_size(round(size * limited.factor))})"
            return replace(last_exit, reason=text)
        if last_exit.signal == "SIGXCPU" and seconds is not None:
            text = f"killed: out of processor time (limits.cpu.max_time {format_duration(seconds)})"
            return replace(last_exit, reason=text)
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Remove the groups of an instance that is gone."""
        self._book.forget(instance)
        if self._groups.is_left(instance):
            self._groups.find(instance)  # its process ended while no agent ran
            self._remove(instance, REMOVE_TRIES)
        if self._limited.pop(instance, None) is not None:
            self._sampler.unwatch(instance)
            self._throttles.release(instance)
            self._remove(instance, REMOVE_TRIES)

    def supports(self, instance: InstanceId) -> tuple[FieldSupport, ...]:
        """Return how each limit of a worker is held on this host."""
        limited = self._limited.get(instance)
        return limited.held if limited is not None else ()

    def close(self) -> None:
        """Stop watching; limits that the kernel holds stay."""
        self._is_closed = True
        self._task.cancel()
        self._throttles.close()
        for handle in self._removals:
            handle.cancel()
        self._groups.close()

    # -- how --------------------------------------------------------------------------------------

    def _hold(self, instance: InstanceId, limits: LimitsSpec) -> _Limited:
        """Return what is held of a worker, brought to these limits."""
        limited = self._limited.get(instance)
        if limited is None or limited.limits != limits:
            held = enforcement(limits, self._groups.layout)
            for text in shortfalls(held):
                log.warning("%s: %s", instance, text)
            before = limited
            limited = self._limited[instance] = _Limited(limits, held)
            if before is not None:
                limited.oom_kills, limited.told_oom_kills = before.oom_kills, before.told_oom_kills
                limited.disk, limited.process = before.disk, before.process
        return limited

    def _set(self, instance: InstanceId, limited: _Limited) -> None:
        for text in self._groups.apply(instance, limited.limits, limited.factor, limited.disk):
            log.warning("%s: %s", instance, text)

    def _join(self, instance: InstanceId, process: Process) -> None:
        if not self._groups.files(instance):
            return
        joined: set[int] = set()
        for _ in range(JOIN_ROUNDS):
            pids = set(self._book.members_of({instance: process})[instance]) - joined
            if not pids:
                return
            self._groups.join(instance, pids)
            joined |= pids

    def _drop(self, instance: InstanceId) -> None:
        """Hold nothing of a worker any more: its limits are gone."""
        self._groups.apply(instance, LimitsSpec())
        self._sampler.unwatch(instance)
        self._throttles.release(instance)
        del self._limited[instance]

    def _remove(self, instance: InstanceId, tries: int) -> None:
        if instance in self._limited or self._is_closed or self._groups.remove(instance) or not tries:
            return
        handle = asyncio.get_running_loop().call_later(REMOVE_RETRY_S, self._remove, instance, tries - 1)
        self._removals = {held for held in self._removals if held.when() > handle.when() - REMOVE_RETRY_S} | {handle}

    # -- samples ----------------------------------------------------------------------------------

    def _on_usage(self, instance: InstanceId, usage: Usage) -> None:
        limited = self._limited.get(instance)
        if limited is None or limited.process is None:
            return
        killed = self._groups.oom_kills(instance)
        if killed > limited.told_oom_kills:
            log.warning("%s: a process of it was killed: out of memory", instance)
            limited.told_oom_kills = killed
        limited.watches, decisions = rules.judge(limited.limits, limited.held, usage, limited.watches, limited.factor)
        for decision in decisions:
            self._carry_out(instance, limited, limited.process, decision, usage)

    def _carry_out(
        self, instance: InstanceId, limited: _Limited, process: Process, decision: Decision, usage: Usage
    ) -> None:
        measure, text = decision.measure, decision.text
        self._metrics.count_limit(decision.name, measure)
        if measure is Measure.ALERT:
            log.error("%s %s", instance, text)
        elif measure in (Measure.WARN, Measure.LOG):
            log.warning("%s %s", instance, text)
        elif measure is Measure.THROTTLE:
            log.warning("%s is slowed: %s", instance, text)
            self._throttles.slow(instance, process, decision.share, usage.cpu_percent)
        elif measure is Measure.RELEASE:
            limits = limited.limits
            held_milli = limits.cpu.max_milli if is_held("cpu.max_cores", limits.cpu.policy) else None
            self._throttles.release(instance, held_milli)
        else:
            if measure is Measure.RESTART_ADJUSTED:
                limited.factor = rules.next_factor(limited.factor)
                text = f"{text}; its limit is {limited.factor:g} times what is written from the next start on"
            is_final, is_kill = measure is Measure.STOP, measure is Measure.KILL
            self._fault(instance, Fault(text, cause=restart.LIMITS, is_final=is_final, is_kill=is_kill))

    def _set_rlimits(self, process: Process, limits: LimitsSpec, before: LimitsSpec) -> None:
        """Set what each process has for itself, and its priority; a child made before has them not."""
        old, free = _rlimits(before), {resource.RLIMIT_NOFILE: self._files_limit}
        for which, value in _rlimits(limits).items():
            if value is None and old[which] is None:
                continue
            try:
                resource.prlimit(process.pid, which, value or free.get(which, UNLIMITED))
            except ProcessLookupError:
                return
            except (OSError, ValueError) as error:
                log.warning("the limits of process %d are not set: %s", process.pid, error)
        if limits.priority != before.priority:
            try:
                os.setpriority(os.PRIO_PGRP, process.pid, limits.priority or 0)
            except ProcessLookupError:
                return
            except OSError as error:
                log.warning("the priority of process %d is not set: %s", process.pid, error.strerror)


def _rlimits(limits: LimitsSpec) -> dict[int, tuple[int, int] | None]:
    """Return the pair of each limit that a process has for itself; None: free."""
    memory, cpu, process = limits.memory, limits.cpu, limits.process
    seconds = max(1, round(cpu.max_time_s)) if cpu.max_time_s and is_held("cpu.max_time", cpu.policy) else None
    size = memory.max_virtual_bytes if is_held("memory.max_virtual", memory.policy) else None
    files = process.max_file_descriptors if is_held("process.max_file_descriptors", process.policy) else None
    return {
        resource.RLIMIT_AS: None if size is None else (size, size),
        resource.RLIMIT_CPU: None if seconds is None else (seconds, seconds + 1),  # told first, killed a second later
        resource.RLIMIT_NOFILE: None if files is None else (files, files),
    }
