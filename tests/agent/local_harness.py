"""A real agent without a cluster, as its user runs it: the program, a file, and the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-m", "hsu_agent.keeper"]
PATIENCE_S = 30.0


def manifest(*workers: str) -> str:
    """Return a manifest of these workers, each written in flow style."""
    return "app: shop\nworkers:\n" + "".join(f"  - {worker}\n" for worker in workers)


def worker(name: str, code: str, more: str = "") -> str:
    """Return a worker that runs shell code; `more` are further keys, such as `replicas: 2`."""
    execution = json.dumps({"executable_path": "/bin/sh", "args": ["-c", code]})
    unit = f"unit: {{managed: {{control: {{execution: {execution}}}}}}}"
    return f"{{id: {name}, {unit}{', ' + more if more else ''}}}"


class LocalAgent:
    """`hsu-agent run --local FILE` with a data folder of its own; the file is written before the start."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.file = folder / "shop.yaml"
        self.data_dir = data_dir
        self.log = folder / "agent.log"
        self.keeper: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()) -> None:
        """Start it (by a command that becomes it) and wait until it answers; `environment` is beside ours."""
        with open(self.log, "ab") as log:
            command = [
                *wrapper,
                *PROGRAM,
                "run",
                "--local",
                str(self.file),
                "--data-dir",
                str(self.data_dir),
                *arguments,
            ]
            known = os.environ | (environment or {})
            self.keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=known)
        self.until(lambda: self.run("status").returncode != 3, "it answers")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent and return how it ended."""
        command = [*PROGRAM, *arguments]
        if arguments[0] not in ("validate", "convert", "schema"):
            command += ["--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)

    def said(self, *arguments: str) -> str:
        """Return what a command that must succeed prints."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr + self.log.read_text()
        return done.stdout

    def instances(self) -> dict[str, Any]:
        """Return the instances by name."""
        answer = json.loads(self.run("status", "-o", "json").stdout)
        return {each["id"]: each for each in answer["instances"]}

    def agent_pid(self) -> int:
        """Return the process of the agent itself (its keeper is its parent)."""
        return int(json.loads(self.run("status", "-o", "json").stdout)["pid"])

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """Return the first true answer of `look`."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            found = look()
            if found:
                return found
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}\n{self.log.read_text()}"
            time.sleep(0.02)

    def all_run(self) -> bool:
        """Return whether every instance runs and is ready."""
        found = self.instances()
        return bool(found) and all(each["ready"] for each in found.values())

    def end(self) -> int:
        """End it with SIGTERM; return its exit code."""
        assert self.keeper is not None
        self.keeper.send_signal(signal.SIGTERM)
        return self.keeper.wait(60)


@contextmanager
def local_agent(folder: Path) -> Iterator[LocalAgent]:
    """Yield an agent that is not started yet; at the end it and its workers are gone."""
    with tempfile.TemporaryDirectory(prefix="hsu-", dir="/tmp") as short:  # a socket's path is short
        agent = LocalAgent(folder, Path(short) / "data")
        try:
            yield agent
        finally:
            if agent.keeper is not None and agent.keeper.poll() is None:
                agent.end()
            left = survivors(agent.data_dir)
            for pid in left:
                kill(pid)
        assert not left, f"workers outlived their agent: {left}\n{agent.log.read_text()}"


def survivors(data_dir: Path) -> dict[int, str]:
    """Return the command lines of living workers of this data folder, by process."""
    mark, found = f"HSU_FILES_DIR={data_dir}/".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and is_alive(int(folder.name)):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended, or is another user's
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def kill(pid: int) -> None:
    """Kill a process."""
    os.kill(pid, signal.SIGKILL)
