"""Builders and real agents for these tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsu_agent.host.cgroup import find_mount
from hsu_agent.host.controllers import describe_host
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.order import OrderSpec
from hsu_core.model.spec import Execution, RestartPolicy, RestartSpec, StopSpec, WorkerSpec
from tests.support.fake_master import TOKEN, FakeMaster
from tests.support.waiting import eventually

NODE = "node-1"
FAST = RestartSpec(policy=RestartPolicy.ALWAYS, base_s=0.05, ceiling_s=0.2)


def instance(worker: str = "web", slot: int = 0, app: str = "shop") -> InstanceId:
    """Return an instance id."""
    return InstanceId("default", app, worker, slot)


def order(
    *command: str,
    worker: str = "web",
    slot: int = 0,
    epoch: int = 1,
    revision: int = 1,
    base: str = "",
    ports: tuple[tuple[str, int], ...] = (),
    environment: tuple[tuple[str, str], ...] = (),
    **fields: Any,
) -> tuple[Assignment, OrderSpec]:
    """Return an assignment and specification that run `command`."""
    fields.setdefault("restart", FAST)
    fields.setdefault("stop", StopSpec(grace_s=5.0))
    spec = WorkerSpec(worker, Execution(command[0], tuple(command[1:]), environment), **fields)
    which = InstanceId("default", "shop", worker, slot)
    assignment = Assignment(which, NODE, epoch, revision, f"hash-{revision}", ports=ports)
    return assignment, OrderSpec(AppId("default", "shop"), revision, spec, base)


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs Python code."""
    return (sys.executable, "-I", "-S", "-c", code, *arguments)


def shell(code: str) -> tuple[str, ...]:
    """Return the command that runs shell code."""
    return ("/bin/sh", "-c", code)


class AgentProcess:
    """`hsu-agent run` as users start it: keeper and agent, with a configuration file of its own."""

    def __init__(self, folder: Path, *urls: str, extra: str = "", name: str = "agent") -> None:
        self.data_dir = folder / name
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        (folder / "node.token").write_text(TOKEN)
        self.config = folder / f"{name}.yaml"
        masters = ", ".join(urls)
        self.config.write_text(
            f"node: {NODE}\nmasters: [{masters}]\ndata_dir: {self.data_dir}\n"
            f"token_file: {folder / 'node.token'}\nlog_level: debug\n{extra}"
        )
        self.log = folder / f"{name}.log"
        self.keeper: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start keeper and agent; `environment` is beside ours."""
        with self.log.open("ab") as output:
            self.keeper = subprocess.Popen(
                [sys.executable, "-m", "hsu_agent.keeper", "run", "--config", str(self.config)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | (environment or {}),
            )

    def agent_pid(self) -> int:
        """Return the pid of the agent proper (0: there is none now)."""
        assert self.keeper is not None
        for pid in children(self.keeper.pid):
            if b"hsu_agent." in command_line(pid):
                return pid
        return 0

    async def stop(self) -> int:
        """End it as systemd would; return its exit code."""
        assert self.keeper is not None
        self.keeper.terminate()
        return await asyncio.to_thread(self.keeper.wait, 20)

    def identity(self) -> str:
        """Return the mark of this agent's processes."""
        path = self.data_dir / "ledger" / "agent-id"
        return path.read_text() if path.exists() else "none"

    def kill_all(self) -> None:
        """Kill keeper, agent and every worker; they are ours by their mark."""
        if self.keeper is not None and self.keeper.poll() is None:
            pid = self.agent_pid()
            self.keeper.kill()
            self.keeper.wait(10)
            if pid:
                kill_quietly(pid)
        deadline_s = time.monotonic() + 10
        while (pids := marked_pids(self.identity())) and time.monotonic() < deadline_s:
            for pid in pids:
                kill_quietly(pid)
            time.sleep(0.02)
        remove_cgroups(self.identity())


def remove_cgroups(agent: str) -> None:
    """Remove the empty cgroups that an agent left because it was killed."""
    for _, controller in describe_host(Path("/")).controllers:
        for path in [*Path(controller.folder, f"hsu-{agent}").glob("*/"), Path(controller.folder, f"hsu-{agent}")]:
            with contextlib.suppress(OSError):
                path.rmdir()
    mount = find_mount(Path("/proc/self/mountinfo").read_text())
    if mount is None:
        return
    for folder, names, _ in os.walk(mount):  # passes over folders that other tests remove meanwhile
        if os.path.basename(folder) == f"hsu-{agent}":
            for path in [*(Path(folder, name) for name in names), Path(folder)]:
                with contextlib.suppress(OSError):
                    path.rmdir()


def kill_quietly(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to one of our processes, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rsplit(b")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(name))
    return found


def command_line(pid: int) -> bytes:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """Return whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def marked_pids(agent: str) -> list[int]:
    """Return the living processes with the mark of an agent."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if f"HSU_AGENT={agent}".encode() in text.split(b"\0") and is_running(int(name)):
                found.append(int(name))
    return found


async def status_where(master: FakeMaster, which: InstanceId, **fields: Any) -> InstanceStatus:
    """Return the reported status once it has these fields."""

    def look() -> InstanceStatus | None:
        status = master.statuses.get(which)
        if status is None or any(getattr(status, name) != value for name, value in fields.items()):
            return None
        return status

    try:
        return await eventually(look)  # type: ignore[return-value]
    except AssertionError as error:
        raise AssertionError(f"{which} is {master.statuses.get(which)}, wanted {fields}") from error
