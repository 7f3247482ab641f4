"""What workers say by themselves: rules, the socket and who may speak on it, and a real agent that hears them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from hsu_agent.host.base import Launch
from hsu_agent.notify import NotifySocket
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.notices import Notices, heard, next_look_s, outcome, parse
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import HealthSpec, NotifyCheck, Probe
from tests.agent.harness import AgentProcess, instance, is_running, kill_quietly, order, python, shell, status_where
from tests.agent.test_end_to_end import play
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

NEW = Notices("run-1", 100.0)
READY = Probe(NotifyCheck(), period_s=0.5)
SAY = """
import os, socket, time
def say(text):
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as spoken:
        spoken.sendto(text.encode(), address)
"""


def test_a_message_is_read_line_by_line() -> None:
    assert parse(b"READY=1\nSTATUS=a=b\nnonsense\n=x\nSTATUS=\xff") == {"READY": "1", "STATUS": "\ufffd"}


def test_ready_holds_until_the_worker_stops() -> None:
    assert outcome(NEW, ProbeKind.READINESS, 1.0, 100.0, 100.5) == Outcome(
        False, "notify: the worker has not said READY=1"
    )
    ready = heard(NEW, {"READY": "1", "STATUS": "up\x1b[2J"}, 101.0)
    assert outcome(ready, ProbeKind.STARTUP, 1.0, 100.0, 900.0) == Outcome(True, "notify: ready (its status: up[2J)")
    stopping = heard(ready, {"STOPPING": "1"}, 102.0)
    found = outcome(stopping, ProbeKind.READINESS, 1.0, 100.0, 102.0)
    assert found is not None
    assert not found.is_passed


def test_the_watchdog_bites_after_its_time_and_a_tenth() -> None:
    def is_alive(notices: Notices, now_s: float, since_s: float = 100.0) -> bool:
        found = outcome(notices, ProbeKind.LIVENESS, 2.0, since_s, now_s)
        assert found is not None
        return found.is_passed

    beaten = heard(NEW, {"WATCHDOG": "1"}, 110.0)
    assert is_alive(beaten, 112.1)
    assert not is_alive(beaten, 112.3)
    assert is_alive(beaten, 130.0, since_s=129.0)  # the probe has just begun
    assert not is_alive(heard(beaten, {"WATCHDOG": "trigger"}, 110.0), 110.0)
    assert 1.2 < next_look_s(beaten, ProbeKind.LIVENESS, 2.0, 100.0, 111.0) < 1.3
    assert next_look_s(beaten, ProbeKind.LIVENESS, 2.0, 100.0, 150.0) == 2.0


def test_of_an_adopted_and_silent_process_nothing_is_said() -> None:
    adopted = Notices("run-1", 100.0, is_adopted=True)
    assert outcome(adopted, ProbeKind.READINESS, 1.0, 100.0, 200.0) is None
    assert outcome(adopted, ProbeKind.STARTUP, 1.0, 100.0, 200.0) is not None


def launch_of(run: str = "run-1") -> Launch:
    return Launch(instance(), run, ("x",), "x", {"A": "b"}, "/", 1, 2)


def hearing(folder: Path, pid: int, run: str = "run-1") -> NotifySocket:
    """Return an open socket that takes `pid` for the first process of an instance."""
    notices = NotifySocket(folder, "me")
    assignment, spec = order("sleep", "1", health=HealthSpec(readiness=READY, liveness=Probe(NotifyCheck(), 3.0)))
    given = notices.launch(Desired(assignment, spec), launch_of(run))
    assert given.environment == {"A": "b", "NOTIFY_SOCKET": notices.address, "WATCHDOG_USEC": "3000000"}
    notices.started(instance(), Desired(assignment, spec), Process(pid, 1, "boot", run))
    return notices


def readiness(notices: NotifySocket) -> str:
    found = notices.outcome(instance(), ProbeKind.READINESS, 1.0, 0.0)
    assert found is not None
    return found.text


def send(notices: NotifySocket, payload: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as spoken:
        spoken.sendto(payload, notices.address.replace("@", "\0", 1))


def test_a_worker_without_notices_costs_nothing(tmp_path: Path) -> None:
    notices = NotifySocket(tmp_path, "me")
    assignment, spec = order("sleep", "1")
    launch = launch_of()
    assert notices.launch(Desired(assignment, spec), launch) is launch
    assert list(tmp_path.iterdir()) == []


def test_only_the_instance_is_heard(tmp_path: Path) -> None:
    async def run() -> None:
        stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        try:
            notices = hearing(tmp_path, stranger.pid)
            send(notices, b"READY=1")  # we are not of its session
            send(notices, b"x" * 5000)
            await asyncio.sleep(0.1)
            assert readiness(notices) == "notify: the worker has not said READY=1"
            notices.ended(instance(), LastExit())
            assert "nobody listens" in readiness(notices)
            notices.close()
        finally:
            stranger.kill()
            stranger.wait()

    asyncio.run(run())


def test_the_process_is_heard_and_long_messages_are_not(tmp_path: Path) -> None:
    async def run() -> None:
        notices = hearing(tmp_path, os.getpid())
        assert (
            stat.S_IMODE(os.stat(tmp_path / "notify.sock").st_mode) == 0o622
        )  # its folder is private, and the kernel tells who speaks
        send(notices, b"READY=1\n" + b"x" * 5000)
        send(notices, b"STATUS=half way")
        await eventually(lambda: readiness(notices).endswith("has not said READY=1 (its status: half way)"))
        waiting = asyncio.create_task(notices.wait(instance(), ProbeKind.READINESS, 60.0, 0.0))
        await asyncio.sleep(0)
        send(notices, b"READY=1")
        await asyncio.wait_for(waiting, 5)
        assert readiness(notices) == "notify: ready (its status: half way)"
        notices.close()

    asyncio.run(run())


def test_descriptors_that_are_sent_are_closed(tmp_path: Path) -> None:
    async def run() -> None:
        notices = hearing(tmp_path, os.getpid())
        reader, writer = os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as spoken:
            spoken.connect(notices.address)
            socket.send_fds(spoken, [b"BARRIER=1"], [writer] * 200)
        os.close(writer)
        os.set_blocking(reader, False)

        def is_closed() -> bool:
            try:
                return os.read(reader, 1) == b""
            except BlockingIOError:
                return False

        await eventually(is_closed)
        os.close(reader)
        notices.close()

    asyncio.run(run())


def test_a_data_folder_with_a_long_path_has_an_abstract_socket(tmp_path: Path) -> None:
    async def run() -> None:
        folder = tmp_path / ("a" * 120)
        folder.mkdir()
        notices = hearing(folder, os.getpid())
        assert notices.address == "@hsu-agent-me"
        send(notices, b"READY=1")
        await eventually(lambda: readiness(notices) == "notify: ready")
        notices.close()

    asyncio.run(run())


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-notify"), reason="needs systemd-notify")
def test_the_tool_of_systemd_is_understood(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        code = "systemd-notify --ready --status=good; exec sleep 1000"
        await master.put(order(*shell(code), health=HealthSpec(readiness=READY)))
        await status_where(master, instance(), state=State.RUNNING, is_ready=True)

    play(tmp_path, agents, scenario)


def test_ready_watchdog_and_a_killed_agent(tmp_path: Path, agents: list[AgentProcess]) -> None:
    """A worker is ready when it says so, stays so under the next agent, and is restarted when it falls silent."""
    code = SAY + (
        f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)\n"
        "say('READY=1\\nSTATUS=serving')\n"
        f"while not os.path.exists({str(tmp_path / 'silent')!r}):\n"
        "    try: say('WATCHDOG=1')\n"
        "    except OSError: pass\n"
        "    time.sleep(0.1)\n"
        "time.sleep(1000)\n"
    )

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        watchdog = Probe(NotifyCheck(), period_s=1.5, failure_threshold=1)
        health = HealthSpec(
            startup=Probe(NotifyCheck(), 0.5, failure_threshold=100), readiness=READY, liveness=watchdog
        )
        await master.put(order(*python(code), health=health))
        status = await status_where(master, instance(), state=State.STARTING)
        (tmp_path / "go").touch()
        status = await status_where(master, instance(), state=State.RUNNING, is_ready=True)
        pid, count = status.pid, len(master.hellos)
        kill_quietly(agent.agent_pid(), signal.SIGKILL)
        await eventually(lambda: len(master.hellos) > count)
        assert (await status_where(master, instance(), state=State.RUNNING, is_ready=True)).pid == pid
        (tmp_path / "silent").touch()
        await eventually(lambda: any("no WATCHDOG=1 for" in seen.reason for seen in master.history))
        await eventually(lambda: pid is None or not is_running(pid))

    play(tmp_path, agents, scenario)
