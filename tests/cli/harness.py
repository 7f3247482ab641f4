"""Runs the command line against a real API server in this process, with the leader's part played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hsu_cluster.cli.main import run
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, LastExit, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from tests.api.harness import ADMIN, Api, running_api

ROOT = Path(__file__).resolve().parents[2]

SHOP = """\
app: shop
workers:
  - id: web
    type: managed
    replicas: 2
    unit: {managed: {control: {execution: {executable_path: /bin/sleep, args: ["3600"]}}}}
  - id: db
    type: managed
    unit: {managed: {control: {execution: {executable_path: /bin/sleep, args: ["60"]}}}}
"""

SLOTS = (("db", 0), ("web", 0), ("web", 1))


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended and what it wrote."""

    status: int
    output: str
    errors: str


class Cli:
    """Types commands for a server; `folder` is where its files are."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.token_file = folder / "cli.token"
        self.token_file.write_text(f"{ADMIN}\n")
        self.shop = folder / "shop.yaml"
        self.shop.write_text(SHOP)

    @property
    def options(self) -> list[str]:
        """Return the connection options."""
        return ["--server", self.api.url, "--token-file", str(self.token_file)]

    async def run(self, *arguments: str, expect: int = 0) -> Result:
        """Run a command and return its result; its status must be as expected."""
        result = await asyncio.to_thread(run_here, *arguments, *self.options)
        assert result.status == expect, result
        return result

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a command as a process of its own."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "hsu_cluster.cli.main", *arguments, *self.options),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def place(
        self,
        state: State = State.RUNNING,
        *,
        ready: bool = True,
        restarts: int = 0,
        pid: int = 4000,
        app: str = "shop",
        generation: int = 0,
    ) -> None:
        """Assign every slot of the app to node-a as the leader would, and report `state` as its agent would."""
        entries = await self.api.store.range(keys.revisions(AppId("default", app)))
        revision = decode(Revision, entries.entries[-1].value)
        hashes = dict(revision.spec_hashes)
        for worker, slot in SLOTS:
            instance = InstanceId("default", app, worker, slot)
            order = Assignment(instance, "node-a", 1, revision.number, hashes[worker], generation)
            status = InstanceStatus(
                *(instance, "node-a", 1, state, ready, revision.number, hashes[worker], generation),
                pid=pid + slot if state is State.RUNNING else None,
                restarts=restarts,
                last_exit=LastExit(code=1) if restarts else None,
                started_at=5.0,
                changed_at=5.0,
            )
            await self.api.store.put(keys.assignment(instance), encode(order))
            await self.api.store.put(keys.status(instance, "node-a"), encode(status))

    async def clear(self, app: str = "shop") -> None:
        """Take away assignments and status of every slot, as leader and agent do after a removal."""
        for worker, slot in SLOTS:
            instance = InstanceId("default", app, worker, slot)
            await self.api.store.delete(keys.assignment(instance))
            await self.api.store.delete(keys.status(instance, "node-a"))

    async def until_deployed(self, app: str = "shop") -> None:
        """Wait until the app is in the store; the test's own deadline ends it."""
        while await self.api.store.get(keys.app(AppId("default", app))) is None:
            await asyncio.sleep(0.005)

    async def until_restarted(self, worker: str, app: str = "shop") -> None:
        """Wait until a restart of the worker is asked for in the store."""
        while True:
            entry = await self.api.store.get(keys.app(AppId("default", app)))
            if entry is not None and decode(AppRecord, entry.value).intent(worker).restart_generation:
                return
            await asyncio.sleep(0.005)


def run_here(*arguments: str) -> Result:
    """Run a command in this thread and return its result. Not for two threads at once: it redirects the streams."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = run(arguments)
    return Result(status, output.getvalue(), errors.getvalue())


@asynccontextmanager
async def running_cli(folder: Path) -> AsyncIterator[Cli]:
    """Run a server with one node, and a command line for it."""
    async with running_api(folder) as api:
        await api.add_node("node-a")
        yield Cli(api, folder)
