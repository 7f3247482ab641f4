"""Runs the hooks of instances: commands that go along with starts and stops, each as an owned task.

Decides nothing: the rows of `planning.reconcile` say when a hook runs, `planning.hook_changes` what its end means.
A hook has the environment, folder and output of its worker and its mark, so a kill of the worker's tree finds it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from hsu_agent.fence import Fence
from hsu_agent.host.base import HOOK_RUN
from hsu_agent.host.starting import start_process
from hsu_agent.launch import Preparer
from hsu_agent.logs.capture import Capture
from hsu_agent.planning import hook_changes, reconcile
from hsu_agent.planning.observed import Desired, Fault, Observed
from hsu_agent.table import Table
from hsu_core.model.errors import HsuError
from hsu_core.model.hooks import HookName, HookSpec
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import REAL, Ambient

log = logging.getLogger(__name__)

TAIL_BYTES = 4096
"""Most of the output of a failed hook that is looked at for its last line."""

LINE_LIMIT = 200
"""Most characters of that line in a reason."""


class Hooks:
    """Applies the actions about hooks. `mark` has an instance planned anew, `fault` ends its process."""

    def __init__(
        self,
        table: Table,
        preparer: Preparer,
        capture: Capture,
        tasks: asyncio.TaskGroup,
        mark: Callable[[InstanceId], None],
        fault: Callable[[InstanceId, Fault], None],
        settled: Callable[[Observed], None],
        ambient: Ambient = REAL,
        fence: Fence | None = None,
    ) -> None:
        self._ambient = ambient
        self._fence = fence
        self._table = table
        self._preparer = preparer
        self._capture = capture
        self._tasks = tasks
        self._mark = mark
        self._fault = fault
        self._settled = settled
        self._running: dict[InstanceId, asyncio.Task[None]] = {}
        self._is_closed = False

    def apply(self, observed: Observed, action: reconcile.RunHook | reconcile.EndHook) -> None:
        """Begin a hook (the instance is planned anew when it has ended), or kill one for an order of the past."""
        if isinstance(action, reconcile.EndHook):
            self.stop(observed.instance)
            self._table.put(hook_changes.cut_short(observed))
            return
        self._table.put(hook_changes.begun(observed, action.name, action.order))
        self.begin(observed.instance, action.name, action.order)

    def begin(self, instance: InstanceId, name: HookName, order: Desired) -> None:
        """Run a hook that the instance is already held to run; one that still runs is ended."""
        self.stop(instance)
        work = self._perform(instance, name, order)
        self._running[instance] = self._tasks.create_task(work, name=f"{name} of {instance}")

    def stop(self, instance: InstanceId) -> None:
        """Kill the hook that runs for an instance, if one does; nothing is told of its end."""
        if self._running and (task := self._running.pop(instance, None)) is not None:
            task.cancel()

    def close(self) -> None:
        """Wait for no hook any more: those under way run on."""
        self._is_closed = True
        for instance in list(self._running):
            self.stop(instance)

    async def _perform(self, instance: InstanceId, name: HookName, order: Desired) -> None:
        spec = order.spec.worker.hooks.get(name)
        why = await self._why_failed(instance, name, order, spec) if spec is not None else ""
        if self._running.get(instance) is asyncio.current_task():
            del self._running[instance]
            self._has_ended(instance, name, order, f"{name} failed: {why}" if why else "")

    async def _why_failed(self, instance: InstanceId, name: HookName, order: Desired, spec: HookSpec) -> str:
        """Run the command; return an empty text, or why it failed."""
        log.debug("%s of %s runs", name, instance)
        try:
            self._capture.attach(instance, order.spec.worker.logs)
            sizes = self._log_sizes(instance)
            started = self._start(instance, name, order, spec)
        except (HsuError, OSError, ValueError) as error:
            return error.sentence if isinstance(error, HsuError) else str(error)
        try:
            async with asyncio.timeout(spec.timeout_s):
                code = await self._ended(started)
        except TimeoutError:
            why = f"was ended after its timeout of {spec.timeout_s:g} s"
        else:
            why = "" if code == 0 else f"ended with code {code}" if code > 0 else f"was ended by signal {-code}"
        if not why:
            return ""
        self._capture.drain_now(instance)
        line = self._last_line(instance, sizes)
        return f"{why}: {line}" if line else why

    def _start(self, instance: InstanceId, name: HookName, order: Desired, spec: HookSpec) -> subprocess.Popen[bytes]:
        descriptors = self._capture.open_for_worker(instance)
        try:
            launch = self._preparer.prepare_hook(
                order, f"{HOOK_RUN}{name}", spec.command, *descriptors, is_first=name is HookName.PRE_START
            )
            launch = launch if self._fence is None else self._fence.launch(order, launch)
            return start_process(
                launch.argv,
                executable=launch.executable,
                environment=launch.environment,
                directory=launch.working_directory,
                stdout=launch.stdout,
                stderr=launch.stderr,
                attributes=launch.attributes,
                identity=launch.identity,
                guarded_by=None if launch.guarded_by is None else (launch.guarded_by.group, launch.guarded_by.until_s),
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _ended(self, started: subprocess.Popen[bytes]) -> int:
        """Return the exit code of a hook (negative: a signal), and kill what is left of its group then.

        When cancelled the group is killed, but for the end of the agent: then it runs on.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        pidfd = os.pidfd_open(started.pid)
        loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
        try:
            await ended
        finally:
            loop.remove_reader(pidfd)
            if not self._is_closed:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(started.pid, signal.SIGKILL)  # not reaped yet, so the group is still its own
            found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - does not wait
            if found is None and not self._is_closed:
                loop.add_reader(pidfd, _reap, loop, pidfd)
            else:
                os.close(pidfd)
        assert found is not None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _log_sizes(self, instance: InstanceId) -> dict[Path, int]:
        paths = [self._capture.log_path(instance, stream) for stream in ("stderr", "stdout")]
        return {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def _last_line(self, instance: InstanceId, sizes: dict[Path, int]) -> str:
        """Return the last line written since then, of stderr if there is any."""
        for path, before in sizes.items():
            try:
                with path.open("rb") as stream:
                    size = stream.seek(0, os.SEEK_END)
                    stream.seek(max(size - TAIL_BYTES, before if before <= size else 0))
                    lines = stream.read().decode("utf-8", "replace").strip().splitlines()
            except OSError:
                continue
            if lines:
                return lines[-1].strip()[:LINE_LIMIT]
        return ""

    def _has_ended(self, instance: InstanceId, name: HookName, order: Desired, failure: str) -> None:
        observed = self._table.observed.get(instance)
        is_beside = name is HookName.POST_START
        if observed is None or observed.hooks.running is not (None if is_beside else name):
            return
        if failure:
            log.warning("%s: %s", instance, failure)
        if not failure or name is HookName.PRE_STOP:
            self._table.put(hook_changes.passed(observed, name))
        elif name is HookName.PRE_START:
            now = self._ambient
            times = now.monotonic(), now.wall(), now.uniform(0, 1)
            self._table.put(hook_changes.not_prepared(observed, order, failure, *times))
        elif name is HookName.POST_START:
            self._fault(instance, Fault(failure))
        else:
            self._table.put(hook_changes.broken(observed, name, failure))
        if name is HookName.POST_STOP:
            self._settled(self._table.observed[instance])
        self._mark(instance)


def _reap(loop: asyncio.AbstractEventLoop, pidfd: int) -> None:
    loop.remove_reader(pidfd)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    os.close(pidfd)
