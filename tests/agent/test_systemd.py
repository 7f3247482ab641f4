"""What the agent tells the service manager that started it, heard on a real socket; and the keeper's part in it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsu_agent.systemd import taken_from
from tests.agent.harness import AgentProcess, order
from tests.agent.local_harness import LocalAgent, is_alive, kill, local_agent, manifest, worker
from tests.support.fake_master import FakeMaster
from tests.support.service_manager import ServiceManagerSocket, service_manager

FOREVER = "exec sleep 1000"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


@pytest.fixture
def manager(agent: LocalAgent) -> Iterator[ServiceManagerSocket]:
    with service_manager(agent.data_dir.parent / "manager") as found:
        yield found


def environment(manager: ServiceManagerSocket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


def has_time(lines: tuple[str, ...]) -> bool:
    name, _, text = lines[1].partition("=")
    return name == "MONOTONIC_USEC" and 0 < int(text) <= int(_now_s() * 1_000_000)


def _now_s() -> float:
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0]) + 1


def test_it_is_ready_when_it_answers_and_says_how_many_instances_run(
    agent: LocalAgent, manager: ServiceManagerSocket
) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: 3")))
    agent.start(environment=environment(manager))
    ready = manager.says("READY=1")
    assert ready.lines[1].startswith("STATUS=")
    assert ready.pid == agent.agent_pid()
    manager.says("STATUS=3 of 3 instances run")
    agent.said("stop", "web.1", "--wait")
    manager.says("STATUS=2 of 3 instances run")
    assert agent.end() == 0
    manager.says("STOPPING=1")
    assert not any("WATCHDOG=1" in message.lines for message in manager.heard)


def test_when_ready_is_heard_the_control_socket_answers_and_workers_are_adopted(
    agent: LocalAgent, manager: ServiceManagerSocket
) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start(environment=environment(manager))
    agent.until(agent.all_run, "web runs")
    pid, first = agent.instances()["shop/web.0"]["pid"], agent.agent_pid()
    manager.silence(0.0)
    count = len(manager.heard)
    kill(first)
    ready = manager.says("READY=1", after=count)
    assert ready.lines[1] == "STATUS=1 of 1 instances run"
    assert agent.run("status").returncode == 0
    assert agent.instances()["shop/web.0"]["pid"] == pid
    assert ready.pid == agent.agent_pid() != first


@pytest.mark.parametrize("by", ["command", "signal", "broken file"])
def test_a_reload_is_announced_and_ends_with_ready(agent: LocalAgent, manager: ServiceManagerSocket, by: str) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start(environment=environment(manager))
    agent.until(agent.all_run, "web runs")
    manager.says("READY=1")
    count = len(manager.heard)
    agent.said("reload", "--dry-run")
    if by == "command":
        agent.said("reload")
    else:
        if by == "broken file":
            agent.file.write_text("workers: 7\n")
        assert agent.keeper is not None
        agent.keeper.send_signal(signal.SIGHUP)
    announced = manager.says("RELOADING=1", after=count)
    assert has_time(announced.lines)
    manager.says("READY=1", after=manager.heard.index(announced))
    assert [message.lines[0] for message in manager.heard[count:]].count("RELOADING=1") == 1


def test_it_beats_at_half_the_time_and_is_silent_while_it_is_stopped(
    agent: LocalAgent, manager: ServiceManagerSocket
) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start(environment=environment(manager, WATCHDOG_USEC="200000"))
    manager.says("WATCHDOG=1")
    beats = [message for message in manager.silence(1.0) if message.lines == ("WATCHDOG=1",)]
    assert 3 <= len(beats) <= 11
    pid = agent.agent_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert manager.silence(1.0) == []
    finally:
        os.kill(pid, signal.SIGCONT)
    count = len(manager.heard)
    manager.says("WATCHDOG=1", after=count)


def test_the_watchdog_of_systemd_ends_a_hung_agent_and_the_next_one_takes_the_workers(
    agent: LocalAgent, manager: ServiceManagerSocket
) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start(environment=environment(manager, WATCHDOG_USEC="60000000"))
    agent.until(agent.all_run, "web runs")
    pid, hung = agent.instances()["shop/web.0"]["pid"], agent.agent_pid()
    os.kill(hung, signal.SIGSTOP)
    assert agent.keeper is not None
    agent.keeper.send_signal(signal.SIGABRT)  # what systemd sends then
    assert agent.keeper.wait(30) == 128 + signal.SIGKILL
    assert not is_alive(hung)
    assert is_alive(pid)
    agent.start(environment=environment(manager))
    assert agent.instances()["shop/web.0"]["pid"] == pid


def test_workers_and_hooks_have_neither_socket_nor_watchdog(
    agent: LocalAgent, manager: ServiceManagerSocket, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    hook = f'hooks: {{pre_start: ["/bin/sh", "-c", "env > {told}.hook"]}}'
    agent.file.write_text(manifest(worker("web", f"env > {told}.worker; {FOREVER}", hook)))
    usec = "60000000"
    agent.start(environment=environment(manager, WATCHDOG_USEC=usec, WATCHDOG_PID=str(os.getpid())))
    agent.until(agent.all_run, "web runs")
    for kind in ("hook", "worker"):
        found = agent.until(lambda kind=kind: (f := Path(f"{told}.{kind}")).exists() and f.read_text(), kind)  # type: ignore[misc]
        assert "HSU_INSTANCE=" in found
        assert "NOTIFY_SOCKET" not in found
        assert "WATCHDOG" not in found


def test_an_abstract_socket_is_spoken_to(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    with service_manager(f"@hsu-test-{os.getpid()}") as manager:
        agent.start(environment=environment(manager))
        manager.says("READY=1")
        manager.until(lambda message: message.lines[-1] == "STATUS=1 of 1 instances run")


def test_an_agent_of_a_cluster_is_ready_without_its_masters_and_again_after_a_reload(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    with service_manager(tmp_path / "manager") as manager:
        agent = AgentProcess(tmp_path, "http://127.0.0.1:1")
        agents.append(agent)
        agent.start(environment(manager))
        first = manager.says("READY=1")
        assert agent.keeper is not None
        agent.keeper.send_signal(signal.SIGHUP)  # the keeper starts the next agent
        announced = manager.says("RELOADING=1")
        assert has_time(announced.lines)
        again = manager.says("READY=1", after=manager.heard.index(announced))
        assert again.pid != first.pid
        assert not any("STOPPING=1" in message.lines for message in manager.heard)
        assert asyncio.run(agent.stop()) == 0
        manager.says("STOPPING=1")


def test_workers_of_a_cluster_are_told_of(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(manager: ServiceManagerSocket) -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start(environment(manager))
            await master.put(order("sleep", "1000"))
            await asyncio.to_thread(manager.says, "STATUS=1 of 1 instances run")

    with service_manager(tmp_path / "manager") as manager:
        asyncio.run(scenario(manager))


# -- what the environment says --------------------------------------------------------------------


def test_the_variables_are_taken_out_of_the_environment() -> None:
    known = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    assert taken_from(known, 8, 7)._beat_s == 1.5
    assert known == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("address", "usec", "owner", "beat_s"),
    [
        ("/run/x", "3000000", "", 1.5),
        ("/run/x", "3000000", "8", 1.5),
        ("@x", "3000000", "7", 1.5),
        ("/run/x", "3000000", "9", None),
        ("/run/x", "0", "7", None),
        ("/run/x", "soon", "7", None),
        ("", "3000000", "7", None),
        ("vsock:2:1", "3000000", "7", None),
    ],
)
def test_beats_are_owed_to_who_is_waited_for(address: str, usec: str, owner: str, beat_s: float | None) -> None:
    known = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": usec, "WATCHDOG_PID": owner}
    assert taken_from(known, 8, 7)._beat_s == beat_s
    assert known == {}


def test_what_cannot_be_sent_is_sent_later_in_order(tmp_path: Path) -> None:
    address = tmp_path / "manager"
    told = taken_from({"NOTIFY_SOCKET": str(address)}, 8, 7)
    told._send("READY=1")
    with service_manager(address) as manager:
        told._send("STATUS=x")
        manager.says("STATUS=x")
        assert [message.lines for message in manager.heard] == [("READY=1",), ("STATUS=x",)]


def test_a_service_manager_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = "import socket, sys\nfrom hsu_agent.systemd import taken_from\ntold = taken_from({'NOTIFY_SOCKET':"
    code += " sys.argv[1]}, 8, 7)\nfor number in range(5000): told._send(f'STATUS={number}')\nprint(len(told._unsent))"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "manager"))
        command = [sys.executable, "-c", code, str(tmp_path / "manager")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "16\n", done.stderr
