"""Processes that somebody else started: found, watched, and touched only as far as it is allowed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.local_harness import LocalAgent, is_alive, local_agent, manifest, worker

Stranger = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Start processes that no agent knows of, in sessions of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait(10)


def unmanaged(discovery: str, control: str = "{}", more: str = "") -> str:
    unit = f"unit: {{unmanaged: {{discovery: {discovery}, control: {control}}}}}"
    return f"{{id: db, type: unmanaged, {unit}{', ' + more if more else ''}}}"


def pid_file(tmp_path: Path, pid: int, interval: str = "200ms") -> str:
    path = tmp_path / "db.pid"
    path.write_text(f"{pid}\n")
    return f"{{method: pid-file, pid_file: {path}, check_interval: {interval}}}"


def db(agent: LocalAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.instances()["shop/db.0"]
    return found


def run(agent: LocalAgent, *workers: str) -> None:
    agent.file.write_text(manifest(*workers))
    agent.start()


def is_found(agent: LocalAgent, pid: int) -> None:
    agent.until(lambda: (found := db(agent))["ready"] and found["pid"] == pid, f"process {pid} is found")


def test_a_pid_file_and_no_permission_to_end_it(agent: LocalAgent, tmp_path: Path, stranger: Stranger) -> None:
    process = stranger("sleep", "1000")
    run(agent, unmanaged(pid_file(tmp_path, process.pid)))
    is_found(agent, process.pid)
    assert db(agent)["restarts"] == 0
    for command in ("stop", "restart"):
        refused = agent.run(command, "db")
        assert refused.returncode == 1
        assert "its process is not ours" in refused.stderr
    refused = agent.run("signal", "db", "-s", "TERM")
    assert "does not allow it" in refused.stderr
    assert agent.end() == 0
    assert process.poll() is None


def test_it_is_found_when_it_comes_and_again_after_its_end(
    agent: LocalAgent, tmp_path: Path, stranger: Stranger
) -> None:
    first = stranger("sleep", "1000")
    discovery = pid_file(tmp_path, first.pid)
    (tmp_path / "db.pid").unlink()
    run(agent, unmanaged(discovery), worker("web", "exec sleep 1000", "depends_on: [db]"))
    agent.until(lambda: "no such file" in db(agent)["reason"], "it says that the pid file is missing")
    (tmp_path / "db.pid").write_text(str(first.pid))
    is_found(agent, first.pid)
    agent.until(lambda: agent.instances()["shop/web.0"]["ready"], "who waited for it runs")
    first.kill()
    first.wait(10)
    agent.until(lambda: db(agent)["pid"] is None, "its end is seen")
    second = stranger("sleep", "1001")
    (tmp_path / "db.pid").write_text(str(second.pid))
    is_found(agent, second.pid)
    assert db(agent)["restarts"] == 1


def test_the_next_agent_holds_the_same_process(agent: LocalAgent, tmp_path: Path, stranger: Stranger) -> None:
    process = stranger("sleep", "1000")
    run(agent, unmanaged(pid_file(tmp_path, process.pid)))
    is_found(agent, process.pid)
    os.kill(agent.agent_pid(), signal.SIGKILL)
    agent.until(lambda: agent.run("status").returncode != 3, "another agent answers")
    is_found(agent, process.pid)
    (tmp_path / "db.pid").unlink()
    process.kill()
    process.wait(10)
    agent.until(lambda: db(agent)["pid"] is None, "its end is seen")


def test_a_stale_pid_file_never_leads_to_a_stranger(agent: LocalAgent, tmp_path: Path, stranger: Stranger) -> None:
    """HSU adopted whoever had the number now, and killed it at its end."""
    process = stranger("sleep", "1000")
    discovery = pid_file(tmp_path, process.pid)
    long_ago = time.time() - 3600
    os.utime(tmp_path / "db.pid", (long_ago, long_ago))
    run(agent, unmanaged(discovery, "{can_terminate: true}"))
    agent.until(lambda: "younger than the file" in db(agent)["reason"], "the stranger is named")
    assert db(agent)["pid"] is None
    assert agent.end() == 0
    assert process.poll() is None


@pytest.mark.parametrize("content", ["", "nonsense", "0", "1", "-5", "99999999", "4294967297", "self"])
def test_a_broken_pid_file_names_nobody(agent: LocalAgent, tmp_path: Path, content: str) -> None:
    discovery = pid_file(tmp_path, 1)
    (tmp_path / "db.pid").write_text(content)
    run(agent, unmanaged(discovery, "{can_terminate: true}"))
    agent.until(lambda: "by pid file" not in (found := db(agent))["reason"] and found["reason"], "it says why")
    assert db(agent)["pid"] is None


def test_a_pid_file_that_a_link_or_everybody_made_is_not_believed(
    agent: LocalAgent, tmp_path: Path, stranger: Stranger
) -> None:
    process = stranger("sleep", "1000")
    discovery = pid_file(tmp_path, process.pid)
    (tmp_path / "db.pid").rename(tmp_path / "other")
    (tmp_path / "db.pid").symlink_to(tmp_path / "other")
    run(agent, unmanaged(discovery))
    agent.until(lambda: "symbolic links" in db(agent)["reason"], "the link is named")
    (tmp_path / "db.pid").unlink()
    (tmp_path / "other").chmod(0o666)
    (tmp_path / "other").rename(tmp_path / "db.pid")
    agent.until(lambda: "written by everybody" in db(agent)["reason"], "the mode is named")


def test_a_worker_of_ours_is_never_taken(agent: LocalAgent, tmp_path: Path) -> None:
    run(agent, worker("web", "exec sleep 987654"), unmanaged("{method: process-name, process_name: sleep, "
        "process_args: ['987654'], check_interval: 200ms}"))  # fmt: skip
    agent.until(lambda: agent.instances()["shop/web.0"]["ready"], "our own runs")
    agent.until(lambda: "no process is found" in db(agent)["reason"], "it is not taken")


def test_a_name_with_arguments_and_an_ambiguous_one(agent: LocalAgent, stranger: Stranger) -> None:
    one, other = stranger("sleep", "876541"), stranger("sleep", "876542")
    discovery = "{method: process-name, process_name: sleep, process_args: ['%s'], check_interval: 200ms}"
    run(agent, unmanaged(discovery % "876541"))
    is_found(agent, one.pid)
    agent.file.write_text(manifest(unmanaged(discovery % "876542")))
    agent.said("reload")
    is_found(agent, other.pid)
    assert one.poll() is None
    third = stranger("sleep", "876542")
    other.kill()
    other.wait(10)
    is_found(agent, third.pid)
    fourth = stranger("sleep", "876541")
    agent.file.write_text(manifest(unmanaged(discovery % "876541")))
    agent.said("reload")
    agent.until(lambda: "2 processes are found" in db(agent)["reason"], "it is ambiguous")
    assert fourth.poll() is None


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_holds_a_port(agent: LocalAgent, stranger: Stranger, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as opened:
        opened.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            opened.listen()
        number = opened.getsockname()[1]
        os.set_inheritable(opened.fileno(), True)
        holder = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(1000)"], pass_fds=[opened.fileno()], start_new_session=True
        )
    try:
        run(agent, unmanaged(f"{{method: port, port: {number}, protocol: {protocol}, check_interval: 200ms}}"))
        is_found(agent, holder.pid)
    finally:
        holder.kill()
        holder.wait(10)


def test_a_service_is_asked_for_its_main_process(
    agent: LocalAgent, tmp_path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl show --property=MainPID --value -- NAME`, as systemd documents it; the answer is written out here."""
    process = stranger("sleep", "1000")
    answer = tmp_path / "answer"
    answer.write_text("0\n")
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "show --property=MainPID --value -- db.service" ] || exit 1\ncat {answer}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run(agent, unmanaged("{method: service-name, service_name: db.service, check_interval: 200ms}"))
    agent.until(lambda: "has no process" in db(agent)["reason"], "the service does not run")
    answer.write_text(f"{process.pid}\n")
    is_found(agent, process.pid)


def test_an_end_that_is_allowed_reaches_this_process_alone(
    agent: LocalAgent, tmp_path: Path, stranger: Stranger
) -> None:
    """The process leads a session with a child: only a process of ours is ended with all that belongs to it."""
    child = tmp_path / "child"
    process = stranger("/bin/sh", "-c", f"sleep 1000 & echo $! > {child}; wait")
    agent.until(lambda: child.exists() and child.read_text().strip(), "the child runs")
    run(agent, unmanaged(pid_file(tmp_path, process.pid), "{can_terminate: true}"))
    is_found(agent, process.pid)
    try:
        assert agent.said("stop", "db", "--wait") == "shop/db.0 is stopped\n"
        assert process.wait(10) == -signal.SIGTERM
        assert is_alive(int(child.read_text()))
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def test_signals_that_are_not_allowed_are_never_sent(agent: LocalAgent, tmp_path: Path, stranger: Stranger) -> None:
    """SIGTERM is allowed and ignored; SIGKILL is not, so the process lives on, whatever its grace is."""
    deaf = "trap '' TERM; trap 'exit 7' USR1; while :; do sleep 0.02; done"
    process = stranger("/bin/sh", "-c", deaf)
    agent.until(lambda: "SigIgn" in Path(f"/proc/{process.pid}/status").read_text(), "it is there")
    agent.until(lambda: int(_status(process.pid, "SigIgn"), 16) & 1 << 14, "it ignores SIGTERM")
    control = "{can_terminate: true, allowed_signals: [SIGTERM, SIGUSR1], graceful_timeout: 200ms}"
    run(agent, unmanaged(pid_file(tmp_path, process.pid), control))
    is_found(agent, process.pid)
    assert agent.run("stop", "db", "--wait", "--timeout", "1s").returncode == 1
    assert db(agent)["state"] == "stopping"
    assert process.poll() is None
    assert "does not allow it" in agent.run("signal", "db", "-s", "KILL").stderr
    agent.said("signal", "db", "-s", "USR1")
    assert process.wait(10) == 7
    agent.until(lambda: db(agent)["state"] == "stopped", "it is stopped")


def test_a_restart_ends_it_and_takes_what_its_owner_starts(
    agent: LocalAgent, tmp_path: Path, stranger: Stranger
) -> None:
    first = stranger("sleep", "1000")
    run(agent, unmanaged(pid_file(tmp_path, first.pid), "{can_terminate: true, can_restart: true}"))
    is_found(agent, first.pid)
    agent.said("restart", "db")
    assert first.wait(10) == -signal.SIGTERM
    second = stranger("sleep", "1000")
    pid_file(tmp_path, second.pid)
    is_found(agent, second.pid)


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
