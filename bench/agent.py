"""Measures the agent on this host: starts, restarts, stops, memory, idle CPU, log throughput.

    python bench/agent.py [--workers 100 1000] [--log-mb 200]

Starts `hsu-agent run` (keeper and agent) as users do, with a small master in this process that speaks the
real session. Workers are a tiny C program that stamps its start (CLOCK_MONOTONIC) into a named pipe and then
sleeps; without a C compiler they are `sleep`, and the times include the report to the master.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hsu_core.model.assignment import Assignment
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.order import OrderSpec
from hsu_core.model.spec import Execution, LogSpec, RestartPolicy, RestartSpec, StopSpec, WorkerSpec
from tests.support.fake_master import TOKEN, FakeMaster

CHILD = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **arguments) {
  struct timespec now; clock_gettime(CLOCK_MONOTONIC, &now);
  char line[100];
  int length = snprintf(line, sizeof line, "%s %d %ld.%09ld\n", getenv("HSU_SLOT"), getpid(),
                        (long)now.tv_sec, now.tv_nsec);
  int pipe = open(arguments[1], O_WRONLY);
  if (pipe >= 0) { if (write(pipe, line, length) < 0) return 1; close(pipe); }
  for (;;) pause();
}
"""


class Stamps:
    """Reads the starts that workers announce: slot -> (pid, time)."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""
        self.seen: list[tuple[int, int, float]] = []
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def _read(self) -> None:
        text = self._rest + os.read(self._pipe, 1 << 20)
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            slot, pid, at = line.split()
            self.seen.append((int(slot), int(pid), float(at)))

    async def wait(self, count: int, within_s: float = 120.0) -> list[tuple[int, int, float]]:
        """Return the next `count` starts."""
        deadline_s = time.monotonic() + within_s
        while len(self.seen) < count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(self.seen)} of {count} starts within {within_s} s")
            await asyncio.sleep(0.0005)
        taken, self.seen = self.seen[:count], self.seen[count:]
        return taken


def memory_kib(pid: int, name: str = "VmRSS") -> int:
    """Return resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def cpu_s(pid: int) -> float:
    """Return processor time used by a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def orders(command: list[str], count: int, app: str = "bench") -> list[tuple[Assignment, OrderSpec]]:
    """Return the orders of `count` instances of one worker."""
    worker = WorkerSpec(
        "web",
        Execution(command[0], tuple(command[1:])),
        replicas=count,
        restart=RestartSpec(RestartPolicy.ALWAYS, base_s=0.01, ceiling_s=0.05, reset_after_s=0.0),
        stop=StopSpec(grace_s=5.0),
        logs=LogSpec(100_000_000, 5),
    )
    spec = OrderSpec(AppId("default", app), 1, worker)
    return [(Assignment(InstanceId("default", app, "web", slot), "bench", 1, 1, "hash"), spec) for slot in range(count)]


class Agent:
    """`hsu-agent run` in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "node.token").write_text(TOKEN)
        config = folder / "agent.yaml"
        config.write_text(
            f"node: bench\nmasters: [{url}]\ndata_dir: {folder / 'data'}\ntoken_file: {folder / 'node.token'}\n"
        )
        self.log = (folder / "agent.log").open("wb")
        self.keeper = subprocess.Popen(
            [sys.executable, "-m", "hsu_agent.keeper", "run", "--config", str(config)], stdout=self.log, stderr=self.log
        )

    def pid(self) -> int:
        """Return the pid of the agent below the keeper."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    parent = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
                    if parent == self.keeper.pid and b"hsu_agent.daemon" in Path(f"/proc/{name}/cmdline").read_bytes():
                        return int(name)
                except OSError:
                    continue
        return 0


async def until(condition: object, within_s: float = 120.0) -> None:
    """Wait until the callable returns true."""
    deadline_s = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline_s:
            raise TimeoutError
        await asyncio.sleep(0.001)


async def measure(count: int, child: Path, idle_s: float, crashes: int) -> dict[str, str]:
    """Return the figures with `count` workers."""
    folder = Path(tempfile.mkdtemp(prefix="hsu-bench-"))
    found: dict[str, str] = {}
    async with FakeMaster(beat_s=2.0, ttl_s=10.0) as master:
        stamps = Stamps(folder / "stamps")
        wanted = orders([str(child), str(stamps.path)], count)
        agent = Agent(folder, master.url)
        try:
            await until(lambda: master.session is not None)
            pid = agent.pid()
            found["memory of agent + keeper, empty"] = (
                f"{(memory_kib(pid) + memory_kib(agent.keeper.pid)) / 1024:.1f} MB"
            )
            began_s = time.monotonic()
            await master.put(*wanted)
            starts = await stamps.wait(count)
            found["start all"] = f"{max(at for _, _, at in starts) - began_s:.2f} s"
            await until(lambda: sum(s.state is State.RUNNING for s in master.statuses.values()) == count)
            found["start all, reported"] = f"{time.monotonic() - began_s:.2f} s"
            pids = {slot: worker for slot, worker, _ in starts}
            await asyncio.sleep(1.0)
            latencies = []
            for slot in random.sample(range(count), min(crashes, count)):
                at = time.monotonic()
                os.kill(pids[slot], signal.SIGKILL)
                ((back, worker, started),) = await stamps.wait(1)
                pids[back] = worker
                latencies.append((started - at) * 1000)
                await asyncio.sleep(0.01)
            latencies.sort()
            found["crash to restarted, median"] = f"{statistics.median(latencies):.2f} ms"
            found["crash to restarted, p99"] = f"{latencies[int(len(latencies) * 0.99)]:.2f} ms"
            before = cpu_s(pid), cpu_s(agent.keeper.pid)
            await asyncio.sleep(idle_s)
            used = cpu_s(pid) - before[0] + cpu_s(agent.keeper.pid) - before[1]
            found["idle CPU (beat every 2 s)"] = f"{used / idle_s * 60:.3f} s/min"
            for _ in range(1):
                at = time.monotonic()
                for worker in pids.values():
                    os.kill(worker, signal.SIGKILL)
                starts = await stamps.wait(count)
                pids = {slot: worker for slot, worker, _ in starts}
                found["all crash, all back"] = f"{max(started for _, _, started in starts) - at:.2f} s"
            await until(lambda: sum(s.state is State.RUNNING for s in master.statuses.values()) == count)
            found["memory of agent"] = f"{memory_kib(pid) / 1024:.1f} MB"
            found["memory of keeper"] = f"{memory_kib(agent.keeper.pid) / 1024:.1f} MB"
            at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            sessions = len(master.hellos)
            await until(lambda: len(master.hellos) > sessions and len(master.statuses) == count)
            found["agent killed -9, session back"] = f"{time.monotonic() - at:.2f} s"
            kept = {s.instance.slot: s.pid for s in master.statuses.values()}
            found["same pids afterwards"] = f"{sum(kept[slot] == worker for slot, worker in pids.items())} of {count}"
            at = time.monotonic()
            await master.drop(*[assignment.instance for assignment, _ in wanted])
            await until(lambda: len(master.gone) == count)
            found["stop all, reported, trees empty"] = f"{time.monotonic() - at:.2f} s"
            await master.put(*wanted)
            starts = await stamps.wait(count)
            master.gone.clear()
            at = time.monotonic()
            await master.drop(*[assignment.instance for assignment, _ in wanted])
            await until(lambda: not any(os.path.exists(f"/proc/{worker}") for _, worker, _ in starts))
            found["stop all, processes gone"] = f"{time.monotonic() - at:.2f} s"
            await until(lambda: len(master.gone) == count)
        finally:
            agent.keeper.terminate()
            await asyncio.to_thread(agent.keeper.wait)
            shutil.rmtree(folder)
    return found


async def measure_logs(megabytes: int) -> dict[str, str]:
    """Return the figures of one worker that writes lines of 100 bytes as fast as it can."""
    folder = Path(tempfile.mkdtemp(prefix="hsu-bench-"))
    lines = megabytes * 10_000
    code = (
        "import os, time\n"
        "block = (b'x' * 99 + b'\\n') * 655\n"
        f"for _ in range({lines} // 655): os.write(1, block)\n"
        "time.sleep(9999)"
    )
    size = lines // 655 * 65500
    async with FakeMaster(beat_s=2.0, ttl_s=10.0) as master:
        agent = Agent(folder, master.url)
        try:
            await until(lambda: master.session is not None)
            pid = agent.pid()
            before = cpu_s(pid)
            wanted = orders([sys.executable, "-I", "-S", "-c", code], 1, "logs")
            await master.put(*wanted)
            logs = folder / "data" / "logs" / "default" / "logs" / "web.0"
            await until(lambda: (logs / "stdout.log").exists())
            at = time.monotonic()
            await until(lambda: sum(path.stat().st_size for path in logs.iterdir() if "stdout" in path.name) >= size)
            took_s, used_s = time.monotonic() - at, cpu_s(pid) - before
            return {
                f"log of {megabytes} MB": f"{took_s:.2f} s, {size / 1e6 / took_s:.0f} MB/s",
                "agent CPU per GiB of log": f"{used_s / size * 2**30:.2f} s",
            }
        finally:
            await master.drop(wanted[0][0].instance)
            await until(lambda: master.gone)
            agent.keeper.terminate()
            await asyncio.to_thread(agent.keeper.wait)
            shutil.rmtree(folder)


def build(folder: Path) -> Path:
    """Compile the worker program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("bench/agent.py: cannot build the worker program: no C compiler; install gcc or clang")
    (folder / "child.c").write_text(CHILD)
    subprocess.run([compiler, "-O2", "-static", "-o", str(folder / "child"), str(folder / "child.c")], check=True)
    return folder / "child"


def main() -> None:
    """Print one table per number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--log-mb", type=int, default=200)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--crashes", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hsu-bench-") as folder:
        child = build(Path(folder))
        for count in options.workers:
            print(f"\n{count} workers")
            for name, text in asyncio.run(measure(count, child, options.idle_s, options.crashes)).items():
                print(f"  {name:<36} {text}")
        if options.log_mb:
            print("\nlogs")
            for name, text in asyncio.run(measure_logs(options.log_mb)).items():
                print(f"  {name:<36} {text}")


if __name__ == "__main__":
    main()
