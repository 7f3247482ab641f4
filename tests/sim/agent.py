"""The real agent core on a simulated host: supervisor, ledger and session, started again by a keeper when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

from hsu_agent.fence import Fence
from hsu_agent.launch import Preparer
from hsu_agent.ledger import Ledger
from hsu_agent.loop import Supervisor
from hsu_agent.metrics import AgentMetrics
from hsu_agent.sync import SESSION_PATH, Dial, Sync
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.ambient import Ambient
from hsu_core.runtime.settings import AgentSettings
from hsu_core.wire.frames import Hello
from tests.sim.guard import SimGuard
from tests.sim.host import SimHost
from tests.sim.net import End, Net
from tests.sim.virtual import Program

PROGRAM = "/bin/true"
"""A program that is on every host: it is looked for, and never run."""


class NoOutput:
    """Takes the place of the pipes of workers: what they print is of no interest here."""

    written_bytes = dropped_bytes = 0

    def attach(self, instance: InstanceId, spec: Any) -> None:
        """Read nothing."""

    def open_for_worker(self, instance: InstanceId) -> tuple[int, ...]:
        """Return descriptors that the caller closes."""
        return (os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY))

    def drain_now(self, instance: InstanceId) -> None:
        """Read nothing."""

    detach = remove = drain_now


class SimAgent:
    """One node: its host, its data folder, and the agent that runs now (None: between two)."""

    def __init__(
        self,
        host: SimHost,
        net: Net,
        folder: Path,
        masters: tuple[str, ...],
        rng: Random,
        *,
        make_ledger: Callable[[Path, Ambient], Ledger] = Ledger,
        make_supervisor: Callable[..., Supervisor] = Supervisor,
        make_sync: Callable[..., Sync] = Sync,
        make_fence: Callable[..., Fence] = Fence,
        make_guard: Callable[..., SimGuard] = SimGuard,
    ) -> None:
        self.host = host
        self.name = host.name
        self.program: Program | None = None
        self.supervisor: Supervisor | None = None
        self.starts = 0
        self.loses_unsynced = True
        self.reach: Callable[[str], None] = print
        self._net = net
        self._rng = rng
        self._makers = make_ledger, make_supervisor, make_sync
        self._guard = make_guard(host, rng)
        self._make_fence = make_fence
        self._ledger: Ledger | None = None
        self._starting: asyncio.TimerHandle | None = None
        folder.mkdir(mode=0o700)
        (folder / "ledger").mkdir(mode=0o700)
        (folder / "ledger" / "agent-id").write_text(f"agent{self.name.replace('-', '')}")
        (folder / "token").write_text("token")
        self._settings = AgentSettings(self.name, masters, folder, folder / "token", self.name)

    @property
    def is_running(self) -> bool:
        """Return whether an agent runs and is not stopped."""
        return self.program is not None and not self.program.is_dead and not self.program.is_stopped

    def start(self) -> None:
        """Start the agent."""
        self._starting = None
        if not self.host.is_up or (self.program is not None and not self.program.is_dead):
            return
        self.starts += 1
        self.program = Program(self.host.loop, f"{self.name}#{self.starts}")
        self.host.watcher = self.program
        self.program.start(self._run(self.program), "agent")

    async def _run(self, program: Program) -> None:
        host, folder = self.host, self._settings.data_dir
        make_ledger, make_supervisor, make_sync = self._makers
        now = host.loop.time
        ambient = Ambient(host.wall, now, self._rng.uniform, lambda n: self._rng.randbytes(n).hex(), now)
        ledger = self._ledger = make_ledger(folder, ambient)
        fence = self._make_fence(self._guard, str, ambient=ambient)
        metrics, output = AgentMetrics(), NoOutput()
        async with asyncio.TaskGroup() as tasks:
            supervisor = self.supervisor = make_supervisor(
                node=self.name,
                host=host,
                ledger=ledger,
                capture=output,
                preparer=Preparer(self.name, ledger.agent, folder, {}),
                metrics=metrics,
                tasks=tasks,
                ambient=ambient,
                fence=fence,
            )
            supervisor.load()
            if any(found.is_alive for found in supervisor.observed.values()):
                self.reach("an agent adopts its workers")
            hello = Hello(
                self.name,
                host.capacity(),
                os=host.os,
                arch=host.arch,
                address=self.name,
                boot_id=host.boot_id,
                fence=fence.why_not,
            )
            sync = make_sync(
                settings=self._settings,
                hello=hello,
                supervisor=supervisor,
                ledger=ledger,
                capture=output,
                metrics=metrics,
                dialing=lambda: self._dialing(program),
                ambient=ambient,
                fence=fence,
            )
            await sync.run(asyncio.Event())

    @contextlib.asynccontextmanager
    async def _dialing(self, program: Program) -> AsyncIterator[Dial]:
        async def dial(url: str, token: str) -> End:
            return await self._net.connect(url.removesuffix(SESSION_PATH), self.name, program)

        yield dial

    # -- faults -----------------------------------------------------------------------------------

    def crash(self) -> None:
        """Kill the agent; its keeper starts the next one soon."""
        if self.program is None or self.program.is_dead:
            return
        self.program.kill()
        if self._ledger is not None and self._ledger._descriptor >= 0:
            os.close(self._ledger._descriptor)
            self._ledger._descriptor = -1
        self._ledger = None
        if self.host.is_up and self._starting is None:
            self._starting = self.host.loop.later(self._rng.uniform(0.1, 1.0), self.start)

    def fall(self) -> None:
        """The host loses power: what the ledger had not synced is lost from some byte on."""
        synced = self._ledger._live_bytes if self._ledger is not None and self.loses_unsynced else None
        self.host.is_up = False
        self.crash()
        self._net.set_down(self.name, True)
        self.host.fall()
        path = self._settings.data_dir / "ledger" / "journal.jsonl"
        if synced is not None and path.exists():
            os.truncate(path, self._rng.randint(min(synced, path.stat().st_size), path.stat().st_size))

    def rise(self) -> None:
        """The host comes up again."""
        if self.host.is_up:
            return
        self.host.boot_again()
        self._net.set_down(self.name, False)
        self.start()
