"""The keeper alone, with an agent that cannot start; and the pieces of the host that need no agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hsu_agent.host import exits
from hsu_agent.host.base import Launch, instance_of, marker
from hsu_agent.host.cgroup import find_mount, own_path
from hsu_agent.host.linux import LinuxHost
from hsu_agent.host.procfs import Scanner, read_stat
from hsu_agent.host.unsupported import refuse_host
from hsu_agent.planning.observed import Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from tests.agent.harness import AgentProcess, instance, is_running
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

KEEPER = [sys.executable, "-m", "hsu_agent.keeper"]


def test_a_bad_configuration_ends_keeper_and_agent_with_78_and_every_fault(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("node: 'not a name'\nmastres: []\n")
    ended = subprocess.run([*KEEPER, "run", "--config", str(config)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 78
    assert "mastres" in ended.stderr
    assert "not a name" in ended.stderr
    checked = subprocess.run([*KEEPER, "validate-config", "--config", str(config)], capture_output=True, timeout=60)
    assert checked.returncode == 78


@pytest.mark.parametrize(
    ("line", "text"), [("ca_file: nothing.pem", "cannot use ca_file"), ("metrics_listen: 127.0.0.1:1", "cannot serve")]
)
def test_settings_that_cannot_be_used_end_with_78(tmp_path: Path, line: str, text: str) -> None:
    agent = AgentProcess(tmp_path, "http://127.0.0.1:1", extra=f"{line}\n")
    if "metrics" in line and os.geteuid() == 0:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            agent.config.write_text(agent.config.read_text().replace("0.1:1\n", f"0.1:{taken.getsockname()[1]}\n"))
            agent.start()
            assert agent.keeper is not None
            assert agent.keeper.wait(60) == 78
    else:
        agent.start()
        assert agent.keeper is not None
        assert agent.keeper.wait(60) == 78
    assert text in agent.log.read_text()


AWAY = """
import sys
from hsu_agent import keeper
starts = []
def command(arguments):
    starts.append(1)
    return [sys.executable, "-c", f"raise SystemExit({78 if len(starts) == 4 else 3})"] if len(starts) in (1, 4) else [
        "/no/such/python"]
keeper._agent_command = command
sys.exit(keeper.Keeper(["run"]).run())
"""


def test_an_installation_that_is_away_for_a_moment_does_not_end_the_keeper() -> None:
    ended = subprocess.run([sys.executable, "-c", AWAY], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 78
    assert ended.stderr.count("the agent cannot be started: [Errno 2] No such file or directory") == 2


def test_version_and_help_need_no_configuration() -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        ended = subprocess.run([*KEEPER, *arguments], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0
        assert "hsu-agent" in ended.stdout


def test_the_keeper_loads_nothing_of_ours_and_stays_small(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await eventually(lambda: master.session is not None)
            assert agent.keeper is not None
            status = Path(f"/proc/{agent.keeper.pid}/status").read_text()
            resident_kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
            assert resident_kib < 14_000
            maps = Path(f"/proc/{agent.keeper.pid}/maps").read_text()
            assert "site-packages" not in maps

    asyncio.run(scenario())


def test_orphans_are_reaped_and_their_ends_recorded(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await eventually(lambda: master.session is not None)
            assert agent.keeper is not None
            # a child of a dying child of the agent's session becomes the keeper's
            record = agent.data_dir / "exits.jsonl"
            pid = agent.agent_pid()
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: agent.agent_pid() not in (0, pid))
            assert not record.exists() or all(json.loads(line) for line in record.read_text().splitlines())

    asyncio.run(scenario())


# -- how processes ended --------------------------------------------------------------------------


def test_the_keepers_record_is_found_by_pid_and_start_time(tmp_path: Path) -> None:
    record = tmp_path / "exits.jsonl"
    lines = [
        '{"pid": 12, "start": 5, "status": 256, "at": 1.0}',
        '{"pid": 12, "start": 9, "status": 9, "at": 2.0}',
        '{"pid": 123, "start": 5, "status": 0, "at": 3.0}',
        '{"pid": 12, "start": 5, "sta',
    ]
    record.write_text("\n".join(lines))
    assert exits.read_keeper(tmp_path, 12, 5) == LastExit(1, at=1.0)
    assert exits.read_keeper(tmp_path, 12, 9) == LastExit(signal="SIGKILL", at=2.0)
    assert exits.read_keeper(tmp_path, 12, 7) is None
    assert exits.read_keeper(tmp_path / "nowhere", 12, 5) is None


# -- identity and trees ---------------------------------------------------------------------------


def test_a_marker_is_read_back() -> None:
    for which in (instance(), InstanceId("a-b", "c_d", "e", 12)):
        assert instance_of(marker(which)) == which
    assert instance_of("rubbish") is None
    assert instance_of("a/b/c.x") is None


def test_cgroup_mounts_and_paths_are_found_in_the_kernels_texts() -> None:
    hybrid = (
        "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "32 23 0:28 / /sys/fs/cgroup/unified rw,x - cgroup2 cgroup2 rw\n"
    )
    assert find_mount(hybrid) == Path("/sys/fs/cgroup/unified")
    assert find_mount("31 23 0:27 / /sys rw - sysfs sysfs rw\n") is None
    assert own_path("4:memory:/x\n0::/system.slice/hsu.service\n") == "/system.slice/hsu.service"
    assert own_path("4:memory:/x\n") == ""


def test_other_platforms_are_refused_with_the_reason() -> None:
    assert "kqueue" in str(refuse_host("darwin"))
    assert "job objects" in str(refuse_host("win32"))


class Sandbox:
    """A host of its own with one process."""

    def __init__(self, folder: Path, *, has_cgroups: bool = True) -> None:
        self.agent = f"test-{os.getpid()}-{folder.name}"[:60].replace("/", "-")
        self.host = LinuxHost(agent=self.agent, data_dir=folder)
        if not has_cgroups:
            self.host._cgroups = None
        self.ended: list[LastExit] = []

    def spawn(self, *argv: str) -> Process:
        """Start a process with our mark."""
        environment = {
            "HSU_INSTANCE": marker(instance()),
            "HSU_AGENT": self.agent,
            "HSU_RUN": "r",
            "PATH": os.environ["PATH"],
        }
        null = os.open(os.devnull, os.O_RDWR)
        try:
            return self.host.spawn(Launch(instance(), "r", argv, argv[0], environment, "/", null, null))
        finally:
            os.close(null)


def test_an_identity_that_does_not_match_is_neither_watched_nor_signalled(tmp_path: Path) -> None:
    async def scenario() -> None:
        sandbox = Sandbox(tmp_path)
        process = sandbox.spawn("/bin/sleep", "1000")
        for other in (
            replace(process, start_time=process.start_time + 1),
            replace(process, boot_id="another"),
            replace(process, pid=2**22 - 1),
        ):
            assert not sandbox.host.watch(instance(), other, sandbox.ended.append)
            assert not sandbox.host.signal(other, "SIGKILL")
        assert is_running(process.pid)
        assert sandbox.host.watch(instance(), process, sandbox.ended.append)
        assert not sandbox.host.signal(replace(process, start_time=1), "SIGKILL")
        with pytest.raises(ProcessError, match="there is no such signal"):
            sandbox.host.signal(process, "SIGNONE")
        assert sandbox.host.signal(process, "SIGTERM")
        await eventually(lambda: sandbox.ended)
        assert sandbox.ended[0].signal == "SIGTERM"
        await sandbox.host.end_tree(instance(), process)
        sandbox.host.release(instance())
        sandbox.host.close()

    asyncio.run(scenario())


ESCAPE = """
import os, sys, time
for kind in ("session", "clean"):
    if os.fork() == 0:
        if kind == "session":
            os.setsid()
        if kind == "clean":
            os.execve("/bin/sleep", ["sleep", "1001"], {})
        time.sleep(1000)
open(sys.argv[1], "w").write("up")
time.sleep(1000)
"""


@pytest.mark.parametrize("has_cgroups", [True, False])
def test_a_tree_is_ended_with_and_without_cgroups(tmp_path: Path, has_cgroups: bool) -> None:
    async def scenario() -> None:
        sandbox = Sandbox(tmp_path, has_cgroups=has_cgroups)
        process = sandbox.spawn(sys.executable, "-I", "-S", "-c", ESCAPE, str(tmp_path / "up"))
        assert sandbox.host.watch(instance(), process, sandbox.ended.append)
        await eventually(lambda: (tmp_path / "up").exists())
        tree = Scanner(sandbox.agent).look().tree(marker(instance()), (process.pid, process.start_time))
        assert len(tree) == 3
        assert not sandbox.host.is_tree_empty(instance(), process)
        await sandbox.host.end_tree(instance(), process)
        assert not [pid for pid in tree if is_running(pid)]
        await eventually(lambda: sandbox.ended)
        sandbox.host.release(instance())
        sandbox.host.close()

    asyncio.run(scenario())


def test_a_pid_given_to_somebody_else_is_not_in_the_tree(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        stat = read_stat(bystander.pid)
        assert stat is not None
        tree = Scanner("nobody").look().tree(marker(instance()), (bystander.pid, stat.start_time - 1))
        assert tree == {}
        assert bystander.pid in Scanner("nobody").look().tree(marker(instance()), (bystander.pid, stat.start_time))
    finally:
        bystander.kill()
        bystander.wait()


def test_a_look_that_is_short_of_files_proves_nothing(tmp_path: Path) -> None:
    taken: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        assert read_stat(os.getpid()) is None
        with pytest.raises(OSError, match="Too many open files"):
            read_stat(os.getpid(), is_proof=True)
        with pytest.raises(OSError, match="Too many open files"):
            Scanner("nobody").look()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_program_that_cannot_be_executed_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        sandbox = Sandbox(tmp_path)
        program = tmp_path / "program"
        program.write_bytes(b"\x7fELF rubbish")
        program.chmod(0o700)
        with pytest.raises(ProcessError, match="Exec format error"):
            sandbox.spawn(str(program))
        with pytest.raises(ProcessError, match="check the path and, for a script, its first line"):
            sandbox.spawn(str(tmp_path / "nothing"))
        sandbox.host.close()

    asyncio.run(scenario())
