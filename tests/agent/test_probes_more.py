"""Checks of files, several checks in one, what a `process` check costs, and endpoints that hang up in the handshake."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from hsu_agent.launch import Preparer
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.observed import Desired
from hsu_agent.probes.runner import ProbeRunner
from hsu_core.model.spec import (
    AllCheck,
    AnyCheck,
    Check,
    ExecCheck,
    FileCheck,
    HealthSpec,
    HttpCheck,
    Probe,
    ProcessCheck,
    TcpCheck,
)
from tests.agent.harness import instance, is_running, order
from tests.support.waiting import eventually

GOOD, BAD = ExecCheck(("true",)), ExecCheck(("sh", "-c", "echo ill; exit 1"))


def check(what: Check, folder: Path, timeout_s: float = 5.0, base: str = "") -> Outcome:
    async def run() -> Outcome:
        assignment, spec = order("sleep", "1", base=base)
        async with asyncio.TaskGroup() as tasks:
            runner = ProbeRunner(Preparer("node-1", "me", folder, os.environ), tasks, lambda *_: None)
            return await runner.check(Desired(assignment, spec), Probe(what, timeout_s=timeout_s))

    return asyncio.run(run())


def test_a_file_passes_while_it_is_there_and_fresh(tmp_path: Path) -> None:
    path = tmp_path / "beat-0"
    asked = FileCheck(f"{tmp_path}/beat-{{slot}}", max_age_s=60.0)
    assert check(asked, tmp_path).text == f"file {path}: No such file or directory"
    path.touch()
    assert check(asked, tmp_path).is_passed
    os.utime(path, (1000, 1000))
    assert "may be 60 s old" in check(asked, tmp_path).text
    assert check(FileCheck(str(path)), tmp_path).is_passed


def test_a_relative_file_starts_at_the_base_directory_or_the_instance_folder(tmp_path: Path) -> None:
    (tmp_path / "beat").touch()
    assert check(FileCheck("beat"), tmp_path / "data", base=str(tmp_path)).is_passed
    assert not check(FileCheck("beat"), tmp_path / "data").is_passed


@pytest.mark.parametrize(
    ("what", "is_passed", "text"),
    [
        (AllCheck((GOOD, ProcessCheck())), True, "exec: 0; process: alive"),
        (AllCheck((GOOD, BAD, GOOD)), False, "exec sh: code 1: ill"),
        (AnyCheck((BAD, GOOD)), True, "exec: 0"),
        (AnyCheck((BAD, TcpCheck("none"))), False, "exec sh: code 1: ill; tcp 127.0.0.1:0"),
        (AnyCheck((ExecCheck(("a\0b",)), GOOD)), True, "exec: 0"),
    ],
)
def test_several_checks(tmp_path: Path, what: Check, is_passed: bool, text: str) -> None:
    found = check(what, tmp_path)
    assert found.is_passed == is_passed
    assert text in found.text


def test_several_checks_share_the_time_limit(tmp_path: Path) -> None:
    slow = ExecCheck(("sleep", "60"))
    assert check(AnyCheck((slow, slow, GOOD)), tmp_path, timeout_s=0.3).text == "no answer within 0.3 s"


def test_a_thousand_process_checks_are_no_tasks(tmp_path: Path) -> None:
    async def run() -> None:
        outcomes: list[Outcome] = []
        probe = Probe(ProcessCheck(), success_threshold=2)
        assignment, spec = order("sleep", "1", health=HealthSpec(readiness=probe))
        async with asyncio.TaskGroup() as tasks:
            preparer = Preparer("node-1", "me", tmp_path, os.environ)
            runner = ProbeRunner(preparer, tasks, lambda which, kind, outcome: outcomes.append(outcome))
            before = len(asyncio.all_tasks())
            for slot in range(1000):
                runner.run(instance(slot=slot), Desired(assignment, spec), (ProbeKind.READINESS,))
            assert len(asyncio.all_tasks()) == before
            await eventually(lambda: len(outcomes) == 2000)
            runner.close()
        assert all(outcome.is_passed for outcome in outcomes)

    asyncio.run(run())


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x03\x00\x50", b"HTTP/1.1 400 no\r\n\r\n"])
def test_a_peer_that_hangs_up_in_the_tls_handshake_is_a_failed_check(tmp_path: Path, greeting: bytes) -> None:
    async def run() -> Outcome:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(greeting)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assignment, spec = order("sleep", "1")
        async with asyncio.TaskGroup() as tasks:
            runner = ProbeRunner(Preparer("node-1", "me", tmp_path, os.environ), tasks, lambda *_: None)
            found = await runner.check(
                Desired(assignment, spec), Probe(HttpCheck(url=f"https://127.0.0.1:{port}/"), timeout_s=5.0)
            )
        server.close()
        return found

    found = asyncio.run(run())
    assert not found.is_passed
    assert found.text.startswith("http https://127.0.0.1")


def test_a_peer_that_never_finishes_the_tls_handshake_is_left_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = HttpCheck(url=f"https://127.0.0.1:{listener.getsockname()[1]}/")
        assert check(asked, tmp_path, timeout_s=0.3).text == "no answer within 0.3 s"


def test_a_command_that_forks_without_end_is_ended_with_all_its_children(tmp_path: Path) -> None:
    code = f"while :; do sleep 1000 & echo $! >> {tmp_path}/pids; sleep 0.02; done"
    assert not check(ExecCheck(("sh", "-c", code)), tmp_path, timeout_s=0.4).is_passed
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) > 3
    asyncio.run(eventually(lambda: not any(is_running(pid) for pid in pids)))


def test_a_command_that_leaves_a_daemon_behind_its_output_does_not_hang_the_check(tmp_path: Path) -> None:
    assert check(ExecCheck(("sh", "-c", "sleep 1000 & exit 0")), tmp_path).is_passed


def test_a_command_that_writes_without_end_is_killed_before_its_time(tmp_path: Path) -> None:
    found = check(ExecCheck(("sh", "-c", f"echo $$ > {tmp_path}/pid; exec yes")), tmp_path, timeout_s=60.0)
    assert found == Outcome(False, "exec sh: wrote more than 16 MiB and was killed")
    pid = int((tmp_path / "pid").read_text())
    asyncio.run(eventually(lambda: not is_running(pid)))


def test_a_hundred_hanging_endpoints_do_not_keep_a_good_one_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        passed: list[int] = []
        async with asyncio.TaskGroup() as tasks:
            preparer = Preparer("node-1", "me", tmp_path, os.environ)
            runner = ProbeRunner(
                preparer, tasks, lambda which, kind, outcome: passed.append(which.slot) if outcome.is_passed else None
            )
            for slot in range(101):
                asked = TcpCheck(port) if slot == 100 else HttpCheck(port)
                probe = Probe(asked, period_s=60.0, timeout_s=30.0)
                assignment, spec = order("sleep", "1", slot=slot, health=HealthSpec(readiness=probe))
                runner.run(instance(slot=slot), Desired(assignment, spec), (ProbeKind.READINESS,))
            await eventually(lambda: passed == [100], within_s=10.0)
            runner.close()
        server.close()

    asyncio.run(run())
