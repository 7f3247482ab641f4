"""Use of workers: what is read, its history, and how a worker is slowed where there is no controller."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsu_agent.commands import main
from hsu_agent.host.controllers import ControllerGroups, describe_host
from hsu_agent.host.procfs import read_boot_id, read_stat
from hsu_agent.limits.report import shortfalls_here
from hsu_agent.limits.sampler import folder_bytes
from hsu_agent.limits.throttle import Throttles
from hsu_agent.limits.usage import HISTORY_POINTS, History, UsageBook
from hsu_agent.planning.limits import Usage
from hsu_agent.planning.observed import Observed, Process
from hsu_core.model.enforcement import HostLayout, host_support
from hsu_core.model.ids import InstanceId
from hsu_core.model.limits import IoLimits, LimitsSpec
from hsu_core.model.spec import Execution, WorkerSpec
from tests.agent.harness import instance, python
from tests.support.waiting import eventually

NO_GROUPS = ControllerGroups("test", HostLayout())


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of a test; they are killed at its end."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen[bytes]], *command: str) -> Process:
    """Start a process in a session of its own."""
    begun = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    started.append(begun)
    stat = read_stat(begun.pid)
    assert stat is not None
    return Process(begun.pid, stat.start_time, read_boot_id(), "", time.time())


def book_of(*processes: Process) -> UsageBook:
    """Return the book of an agent that runs these."""
    observed = {
        instance(slot=slot): Observed(instance(slot=slot), process=process, is_alive=True)
        for slot, process in enumerate(processes)
    }
    return UsageBook("test", NO_GROUPS, lambda: observed)


def test_a_snapshot_has_every_running_worker(started: list[subprocess.Popen[bytes]]) -> None:
    busy = start(started, *python("x = bytearray(50 * 2**20)\nopen('/dev/null')\nwhile True: pass"))
    quiet = start(started, "sleep", "1000")
    book = book_of(busy, quiet)

    async def look() -> None:
        def is_seen() -> bool:
            found = book.snapshot()
            of_busy, of_quiet = found[instance(slot=0)], found[instance(slot=1)]
            return of_busy.memory_bytes > 50 * 2**20 and of_busy.cpu_percent > 10 * of_quiet.cpu_percent > -1

        await eventually(is_seen)

    asyncio.run(look())
    quiet_usage = book.snapshot()[instance(slot=1)]
    assert quiet_usage.processes == quiet_usage.threads == 1
    assert quiet_usage.descriptors == 3
    assert quiet_usage.memory_bytes < 10 * 2**20
    assert book.of(instance(slot=1)).latest is not None
    assert set(book.latest()) == {instance(slot=0), instance(slot=1)}


def test_a_worker_that_has_ended_uses_nothing(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, "true")
    started[0].wait()
    assert book_of(process).snapshot()[instance()].processes == 0


def test_children_count(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    book = book_of(process)
    asyncio.run(eventually(lambda: book.snapshot()[instance()].processes == 3))
    os.killpg(process.pid, signal.SIGKILL)


def test_a_history_is_bounded_and_covers_its_retention() -> None:
    history = History(3600)
    for second in range(0, 4 * 3600, 2):
        history.add(Usage(float(second), cpu_percent=second, memory_bytes=second))
    points = history.points()
    assert len(points) <= HISTORY_POINTS + 1
    assert points[-1].at_s - points[0].at_s == pytest.approx(3600, abs=30)
    assert points[0].memory_bytes == points[0].at_s


def test_no_retention_keeps_nothing() -> None:
    history = History(0)
    history.add(Usage(1.0))
    assert history.points() == ()


def test_a_thousand_workers_are_read_fast(started: list[subprocess.Popen[bytes]]) -> None:
    """One process stands for all: the reads are the same. A bound that only a mistake in the order of cost breaks."""
    process = start(started, "sleep", "1000")
    book = UsageBook("test", NO_GROUPS, lambda: {})
    before = resource.getrusage(resource.RUSAGE_SELF)
    for slot in range(1000):
        book.sample(InstanceId("default", "shop", "web", slot), process, [process.pid])
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


class SignallingHost:
    """Sends signals as the host of Linux does."""

    def signal(self, process: Process, name: str) -> bool:
        """Send a signal to the group of a process."""
        try:
            os.killpg(process.pid, signal.Signals[name])
        except ProcessLookupError:
            return False
        return True


def test_a_worker_is_slowed_by_turns_and_runs_on_after(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, *python("while True: pass"))

    def state() -> str:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            throttles = Throttles(NO_GROUPS, SignallingHost(), tasks)
            throttles.slow(instance(), process, 0.1, 100)
            await eventually(lambda: state() == "T")
            await eventually(lambda: state() == "R")
            throttles.release(instance())
            await eventually(lambda: not throttles._turns)
        assert state() != "T"

    asyncio.run(scenario())


def test_the_size_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("/usr")
    assert 100_000 <= folder_bytes(str(tmp_path)) < 200_000
    assert folder_bytes(str(tmp_path / "none")) == 0


def test_validation_tells_what_this_host_cannot_hold(tmp_path: Path) -> None:
    plain = WorkerSpec("plain", Execution("true"))
    limited = WorkerSpec("web", Execution("true"), limits=LimitsSpec(io=IoLimits(max_read_bps=1)))
    assert shortfalls_here([plain], tmp_path) == []
    told = shortfalls_here([plain, limited], Path("/proc"))
    assert len(told) == 1
    assert told[0].startswith("web: limits.io.max_read_bps is not held on this host: ")


def test_the_doctor_tells_how_this_host_holds_each_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["doctor", "--data-dir", str(tmp_path / "not" / "there")]
    assert main([*line, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = [
        {"limit": each.name, "how": str(each.how), "reason": each.reason}
        for each in host_support(describe_host(tmp_path))
    ]
    assert found == expected
    assert main(line) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["LIMIT", "HELD", "BY", "REASON"]
    assert [row.split()[0] for row in rows[1:]] == [each["limit"] for each in expected]
