"""Runs the probes of all instances: one task per probe, one check of it at a time, phases spread by chance.

A `process` check needs no task: the end of the process is an event of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hsu_agent.host.attributes import identity_of
from hsu_agent.launch import Preparer
from hsu_agent.notify import NotifySocket
from hsu_agent.planning.health import Outcome, ProbeKind, next_delay_s
from hsu_agent.planning.observed import Desired
from hsu_agent.probes.exec import check_exec
from hsu_agent.probes.file import FileChecks
from hsu_agent.probes.http import check_http
from hsu_agent.probes.tcp import check_tcp
from hsu_core.model.checks import parts
from hsu_core.model.errors import HsuError
from hsu_core.model.ids import InstanceId
from hsu_core.model.spec import (
    AllCheck,
    AnyCheck,
    Check,
    ExecCheck,
    FileCheck,
    GrpcCheck,
    HttpCheck,
    NotifyCheck,
    Pairs,
    Probe,
    ProcessCheck,
    TcpCheck,
)
from hsu_core.runtime.ambient import REAL, Ambient

OnOutcome = Callable[[InstanceId, ProbeKind, Outcome], None]

CheckGrpc = Callable[[str, int, str, str, Pairs], Awaitable[Outcome]]

SPREAD_S = 0.02
"""Most that the first check of a probe is put off by chance; later ones drift apart by 5 % of their period."""

PERIOD_JITTER = 0.05

CONNECTIONS = 512
"""Checks over the network under way at once over all instances: ten thousand slow endpoints must not become as many
sockets; and as each is held for its time limit at most, slow ones must not keep the good ones waiting."""

COMMANDS = 32
"""Commands (`exec`) under way at once: each is a process."""


@dataclass(slots=True)
class _Probed:
    order: Desired
    tasks: dict[ProbeKind, asyncio.Task[None] | asyncio.Handle] = field(default_factory=dict)


class ProbeRunner:
    """Owns the probe tasks. They live in the caller's task group and end with it."""

    def __init__(
        self,
        preparer: Preparer,
        tasks: asyncio.TaskGroup,
        on_outcome: OnOutcome,
        notices: NotifySocket | None = None,
        ambient: Ambient = REAL,
    ) -> None:
        self._ambient = ambient
        self._preparer = preparer
        self._tasks = tasks
        self._on_outcome = on_outcome
        self._probed: dict[InstanceId, _Probed] = {}
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._commands = asyncio.Semaphore(COMMANDS)
        self._files = FileChecks()
        self._notices = notices
        self._check_grpc: CheckGrpc | None = None

    def run(self, instance: InstanceId, order: Desired, kinds: tuple[ProbeKind, ...]) -> None:
        """Run exactly these probes for an instance; those that run already for the same order go on."""
        probed = self._probed.get(instance)
        if probed is not None and (probed.order is not order or not kinds):
            self.stop(instance)
            probed = None
        if not kinds:
            return
        if probed is None:
            probed = self._probed[instance] = _Probed(order)
        for kind in [present for present in probed.tasks if present not in kinds]:
            probed.tasks.pop(kind).cancel()
        health = order.spec.worker.health
        for kind in kinds:
            probe = {"startup": health.startup, "readiness": health.readiness, "liveness": health.liveness}[kind]
            if kind in probed.tasks or probe is None:
                continue
            if isinstance(probe.check, ProcessCheck):
                probed.tasks[kind] = asyncio.get_running_loop().call_later(
                    probe.initial_delay_s, self._pass, instance, kind, probe.success_threshold
                )
            else:
                is_told = isinstance(probe.check, NotifyCheck)
                work = self._listen(instance, kind, probe) if is_told else self._repeat(instance, order, kind, probe)
                probed.tasks[kind] = self._tasks.create_task(work, name=f"{kind} probe of {instance}")

    def stop(self, instance: InstanceId) -> None:
        """End the probes of an instance."""
        probed = self._probed.pop(instance, None)
        for task in probed.tasks.values() if probed is not None else ():
            task.cancel()

    def close(self) -> None:
        """End all probes."""
        for instance in list(self._probed):
            self.stop(instance)

    def _pass(self, instance: InstanceId, kind: ProbeKind, times: int) -> None:
        for _ in range(times):
            self._on_outcome(instance, kind, Outcome(True, "process: alive"))

    async def _repeat(self, instance: InstanceId, order: Desired, kind: ProbeKind, probe: Probe) -> None:
        await asyncio.sleep(probe.initial_delay_s + self._ambient.uniform(0, SPREAD_S))
        tries, has_passed = 0, False
        is_command = any(isinstance(check, ExecCheck) for check in parts(probe.check))
        slots = self._commands if is_command else self._connections
        while True:
            async with slots:
                outcome = await self.check(order, probe)
            self._on_outcome(instance, kind, outcome)
            has_passed = has_passed or outcome.is_passed
            delay_s = next_delay_s(probe, tries, has_passed)
            tries += 1
            await asyncio.sleep(delay_s * self._ambient.uniform(1 - PERIOD_JITTER, 1 + PERIOD_JITTER))

    async def _listen(self, instance: InstanceId, kind: ProbeKind, probe: Probe) -> None:
        """Pass on what the worker says, when it says it, and its silence once per period."""
        notices, period_s = self._notices, probe.period_s
        await asyncio.sleep(probe.initial_delay_s)
        since_s = self._ambient.monotonic()
        while notices is not None:
            outcome = notices.outcome(instance, kind, period_s, since_s)
            for _ in range(probe.success_threshold if outcome is not None and outcome.is_passed else 1):
                if outcome is not None:
                    self._on_outcome(instance, kind, outcome)
            await notices.wait(instance, kind, period_s, since_s)

    async def check(self, order: Desired, probe: Probe) -> Outcome:
        """Return the outcome of one check, within its time limit."""
        try:
            async with asyncio.timeout(probe.timeout_s):
                return await self._check(order, probe.check)
        except TimeoutError:
            return Outcome(False, f"no answer within {probe.timeout_s:g} s")
        except (HsuError, ValueError, OSError, OverflowError) as error:
            return Outcome(False, _refusal(error))

    async def _check(self, order: Desired, check: Check) -> Outcome:
        if isinstance(check, AllCheck | AnyCheck):
            return await self._check_several(order, check)
        if isinstance(check, TcpCheck):
            return await check_tcp(check.host, _port(order, check.port))
        if isinstance(check, HttpCheck):
            url = self._preparer.render(order, check.url)
            if not url:
                path = self._preparer.render(order, check.path).lstrip("/")
                url = f"http://127.0.0.1:{_port(order, check.port)}/{path}"
            return await check_http(url, check.method, self._headers(order, check.headers))
        if isinstance(check, ExecCheck):
            command = [self._preparer.render(order, text) for text in check.command]
            base = order.spec.base_directory
            directory = base if base and os.path.isdir(base) else "/"
            environment, attributes = self._preparer.environment(order), order.spec.worker.process
            return await check_exec(command, environment, directory, attributes, identity_of(attributes))
        if isinstance(check, GrpcCheck):
            check_grpc = await self._load_grpc()
            headers = self._headers(order, check.headers)
            return await check_grpc(check.host, _port(order, check.port), check.service, check.method, headers)
        if isinstance(check, FileCheck):
            base = order.spec.base_directory or str(self._preparer.work_folder(order.assignment.instance))
            path = os.path.join(base, self._preparer.render(order, check.path))
            return await self._files.check(path, check.max_age_s)
        return Outcome(True, "process: alive")

    async def _check_several(self, order: Desired, check: AllCheck | AnyCheck) -> Outcome:
        """Ask one after the other (so a probe never has two checks under way) until the outcome is clear."""
        is_all, texts = isinstance(check, AllCheck), []
        for single in check.checks:
            try:
                outcome = await self._check(order, single)
            except (HsuError, ValueError, OSError, OverflowError) as error:
                outcome = Outcome(False, _refusal(error))
            texts.append(outcome.text)
            if outcome.is_passed != is_all:
                return Outcome(outcome.is_passed, outcome.text if is_all or outcome.is_passed else "; ".join(texts))
        return Outcome(is_all, "; ".join(texts))

    def _headers(self, order: Desired, headers: Pairs) -> Pairs:
        return tuple((name, self._preparer.render(order, value)) for name, value in headers)

    async def _load_grpc(self) -> CheckGrpc:
        """Return `check_grpc`; HTTP/2 is loaded (in a thread) when the first check needs it."""
        if self._check_grpc is None:
            module = await asyncio.to_thread(importlib.import_module, "hsu_agent.probes.grpc")
            self._check_grpc = module.check_grpc
        found: CheckGrpc = self._check_grpc
        return found


def _refusal(error: Exception) -> str:
    """Return the text for an address that is none, a port that does not exist, or no descriptor left."""
    return error.sentence if isinstance(error, HsuError) else f"cannot be checked: {error or type(error).__name__}"


def _port(order: Desired, port: str | int) -> int:
    """Return the number of a port given by name or number (0, which nobody listens on, if there is no such name)."""
    if isinstance(port, int):
        return port
    return int(port) if port.isdigit() else dict(order.assignment.ports).get(port, 0)
