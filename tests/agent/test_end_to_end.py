"""An agent with its keeper, real workers and a fake master: life, death and adoption of processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hsu_core.model.lifecycle import State
from hsu_core.model.spec import ExecCheck, FileSpec, HealthSpec, LogSpec, Probe, RestartPolicy, RestartSpec, StopSpec
from tests.agent.harness import (
    FAST,
    AgentProcess,
    instance,
    is_running,
    marked_pids,
    order,
    python,
    shell,
    status_where,
)
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

Scenario = Callable[[FakeMaster, AgentProcess], Awaitable[None]]


def play(tmp_path: Path, agents: list[AgentProcess], scenario: Scenario, *, extra: str = "") -> None:
    """Run a scenario with a started agent, which then ends cleanly."""

    async def run() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url, extra=extra)
            agents.append(agent)
            agent.start()
            await scenario(master, agent)

    asyncio.run(run())


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_worker_runs_and_is_stopped(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        status = await status_where(master, instance(), state=State.RUNNING, is_ready=True)
        assert status.pid is not None
        assert is_running(status.pid)
        await master.drop(instance())
        await eventually(lambda: instance() in master.gone)
        assert not is_running(status.pid)
        assert await agent.stop() == 0
        assert len(master.goodbyes) == 1

    play(tmp_path, agents, scenario)


def test_placeholders_environment_files_and_ports_reach_the_worker(tmp_path: Path, agents: list[AgentProcess]) -> None:
    out = tmp_path / "out"
    code = (
        f"env | sort > {out}.env; cat {{files}}/etc/web.conf > {out}.conf; pwd > {out}.pwd; "
        f"echo {{slot}} {{app}} {{worker}} {{node}} {{port.http}} {{unknown}} > {out}; exec sleep 1000"
    )

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(
            order(
                *shell(code),
                slot=3,
                epoch=7,
                ports=(("http", 20123),),
                environment=(("URL", "http://x:{port.http}"),),
                files=(FileSpec("etc/web.conf", "listen={port.http}"),),
            )
        )
        await eventually(lambda: out.exists() and out.read_text() != "")
        assert out.read_text().split() == ["3", "shop", "web", "node-1", "20123", "{unknown}"]
        assert Path(f"{out}.conf").read_text() == "listen=20123"
        environment = dict(line.split("=", 1) for line in Path(f"{out}.env").read_text().splitlines() if "=" in line)
        assert environment["URL"] == "http://x:20123"
        assert environment["HSU_PORT_HTTP"] == "20123"
        assert environment["HSU_FENCING_TOKEN"] == environment["HSU_EPOCH"] == "7"
        assert environment["HSU_SLOT"] == "3"
        assert "HSU_KEEPER_PIPE" not in environment
        assert "PYTEST_CURRENT_TEST" not in environment
        assert Path(f"{out}.pwd").read_text().strip() == os.path.realpath("/bin")
        files = Path(environment["HSU_FILES_DIR"])
        assert (files / "etc/web.conf").stat().st_mode & 0o777 == 0o600

    play(tmp_path, agents, scenario)


def test_a_crash_is_restarted_at_once_and_counted(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        first = await status_where(master, instance(), state=State.RUNNING)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        second = await status_where(master, instance(), state=State.RUNNING, restarts=1)
        assert second.pid not in (None, first.pid)
        assert second.last_exit is not None
        assert second.last_exit.signal == "SIGKILL"

    play(tmp_path, agents, scenario)


@pytest.mark.parametrize(
    ("policy", "code", "state"),
    [
        (RestartPolicy.NEVER, 0, State.STOPPED),
        (RestartPolicy.NEVER, 3, State.FAILED),
        (RestartPolicy.ON_FAILURE, 0, State.STOPPED),
    ],
)
def test_a_worker_that_is_done_stays_so_over_a_restart_of_the_agent(
    tmp_path: Path, agents: list[AgentProcess], policy: RestartPolicy, code: int, state: State
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(*shell(f"echo x >> {tmp_path}/ran; exit {code}"), restart=RestartSpec(policy)))
        status = await status_where(master, instance(), state=state)
        assert status.last_exit is not None
        assert status.last_exit.code == code
        os.kill(agent.agent_pid(), signal.SIGKILL)
        await eventually(lambda: len(master.hellos) == 2)
        await status_where(master, instance(), state=state)
        await master.change(instance(), revision=1)  # a new epoch alone starts nothing
        await status_where(master, instance(), state=state, epoch=2)
        assert (tmp_path / "ran").read_text() == "x\n"
        await master.change(instance(), generation=1)
        await eventually(lambda: (tmp_path / "ran").read_text() == "x\nx\n")

    play(tmp_path, agents, scenario)


ESCAPES = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def child(kind):
    if os.fork():
        return
    if kind != "plain":
        os.setsid()
    if kind == "double" and os.fork():
        os._exit(0)
    if kind == "clean":
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    open(sys.argv[1] + "/" + kind, "w").write(str(os.getpid()))
    while True:
        time.sleep(1000)
for kind in ("plain", "session", "double"):
    child(kind)
open(sys.argv[1] + "/main", "w").write(str(os.getpid()))
while True:
    time.sleep(1000)
"""


def escaped(folder: Path) -> list[int]:
    """Return the pids of the whole tree once all four have written theirs."""
    texts = [(folder / kind).read_text() if (folder / kind).exists() else "" for kind in KINDS]
    return [int(text) for text in texts] if all(texts) else []


KINDS = ("main", "plain", "session", "double")


def test_a_stop_ends_the_whole_tree_also_what_ignores_it_or_escaped(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(*python(ESCAPES, str(tmp_path)), stop=StopSpec(grace_s=0.3)))
        pids = await eventually(lambda: escaped(tmp_path))
        await status_where(master, instance(), state=State.RUNNING)
        await master.change(instance(), is_stopped=True)
        status = await status_where(master, instance(), state=State.STOPPED)
        assert status.pid is None
        assert [pid for pid in pids if is_running(pid)] == []
        assert State.STOPPING in [seen.state for seen in master.history]

    play(tmp_path, agents, scenario)


def test_nothing_new_starts_before_the_old_tree_is_empty(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(*python(ESCAPES, str(tmp_path)), restart=FAST))
        pids = await eventually(lambda: escaped(tmp_path))
        first = await status_where(master, instance(), state=State.RUNNING)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await status_where(master, instance(), state=State.RUNNING, restarts=1)
        assert [pid for pid in pids if is_running(pid)] == []

    play(tmp_path, agents, scenario)


def test_a_polite_worker_is_given_its_grace(tmp_path: Path, agents: list[AgentProcess]) -> None:
    trap = f"trap 'sleep 0.3; echo bye > {tmp_path}/bye; exit 0' TERM"
    code = f"{trap}; echo up > {tmp_path}/up; while :; do sleep 0.05; done"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        # the signal goes to the group: the shell's sleep ends, its trap runs to the end
        await master.put(order(*shell(code)))
        await eventually(lambda: (tmp_path / "up").exists())
        await master.drop(instance())
        await eventually(lambda: instance() in master.gone)
        assert (tmp_path / "bye").exists()

    play(tmp_path, agents, scenario)


def test_kill_of_the_agent_leaves_pids_and_the_next_one_adopts_them(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(*(order("sleep", "1000", slot=slot) for slot in range(5)))
        before = {slot: (await status_where(master, instance(slot=slot), state=State.RUNNING)).pid for slot in range(5)}
        os.kill(agent.agent_pid(), signal.SIGKILL)
        await eventually(lambda: len(master.hellos) == 2 and len(master.statuses) == 5)
        after = {slot: (await status_where(master, instance(slot=slot), state=State.RUNNING)).pid for slot in range(5)}
        assert after == before
        assert sorted(marked_pids(agent.identity())) == sorted(pid for pid in before.values() if pid)
        victim = before[0]
        assert victim is not None
        os.kill(victim, signal.SIGTERM)  # adopted ones are restarted too, and it is known how they ended
        status = await status_where(master, instance(slot=0), state=State.RUNNING, restarts=1)
        assert status.last_exit is not None
        assert status.last_exit.signal == "SIGTERM"
        await master.drop(*(instance(slot=slot) for slot in range(5)))
        await eventually(lambda: len(master.gone) == 5)
        assert marked_pids(agent.identity()) == []

    play(tmp_path, agents, scenario)


def test_agent_and_worker_killed_together_gives_one_new_worker_and_its_exit_code(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(*(order("sleep", "1000", slot=slot) for slot in range(2)))
        pids = [(await status_where(master, instance(slot=slot), state=State.RUNNING)).pid for slot in range(2)]
        assert pids[0] is not None
        os.kill(agent.agent_pid(), signal.SIGKILL)
        os.kill(pids[0], signal.SIGKILL)
        status = await status_where(master, instance(slot=0), state=State.RUNNING, restarts=1)
        assert status.last_exit is not None
        assert status.last_exit.signal == "SIGKILL"
        await status_where(master, instance(slot=1), pid=pids[1])
        assert len(marked_pids(agent.identity())) == 2

    play(tmp_path, agents, scenario)


def test_a_clean_stop_leaves_workers_and_the_next_agent_adopts_them(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        before = await status_where(master, instance(), state=State.RUNNING)
        assert await agent.stop() == 0
        assert before.pid is not None
        assert is_running(before.pid)
        agent.start()
        await eventually(lambda: len(master.hellos) == 2)
        await status_where(master, instance(), state=State.RUNNING, pid=before.pid)

    play(tmp_path, agents, scenario)


def test_workers_are_stopped_with_the_agent_if_so_configured(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        before = await status_where(master, instance(), state=State.RUNNING)
        assert await agent.stop() == 0
        assert before.pid is not None
        assert not is_running(before.pid)
        assert master.goodbyes[0].is_stopping_workers

    play(tmp_path, agents, scenario, extra="kill_workers_on_stop: true\n")


def test_the_death_of_the_keeper_ends_the_agent_and_a_new_pair_adopts(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        before = await status_where(master, instance(), state=State.RUNNING)
        pid = agent.agent_pid()
        assert agent.keeper is not None
        agent.keeper.kill()
        agent.keeper.wait(10)
        agent.start()
        await eventually(lambda: not is_running(pid) and len(master.hellos) == 2)
        await status_where(master, instance(), state=State.RUNNING, pid=before.pid)

    play(tmp_path, agents, scenario)


def test_sighup_starts_a_new_agent_at_once(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        before = await status_where(master, instance(), state=State.RUNNING)
        pid = agent.agent_pid()
        assert agent.keeper is not None
        agent.keeper.send_signal(signal.SIGHUP)
        await eventually(lambda: len(master.hellos) == 2 and agent.agent_pid() not in (0, pid))
        await status_where(master, instance(), state=State.RUNNING, pid=before.pid)

    play(tmp_path, agents, scenario)


def test_two_agents_in_one_folder_are_refused_with_the_pid_of_the_first(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await eventually(lambda: master.session is not None)
        second = AgentProcess(tmp_path, master.url)
        second.log = tmp_path / "second.log"
        agents.append(second)
        second.start()
        assert second.keeper is not None
        assert await asyncio.to_thread(second.keeper.wait, 30) == 78
        assert f"another agent (pid {agent.agent_pid()}) holds it" in second.log.read_text()

    play(tmp_path, agents, scenario)


@pytest.mark.parametrize("is_intent_written", [True, False])
def test_a_process_whose_start_was_not_written_is_adopted_never_doubled(
    tmp_path: Path, agents: list[AgentProcess], is_intent_written: bool
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        before = await status_where(master, instance(), state=State.RUNNING)
        assert await agent.stop() == 0
        journal = agent.data_dir / "ledger/journal.jsonl"
        records = [json.loads(line) for line in journal.read_text().splitlines()]
        # as if the agent had been killed between the start and the line about it
        records = [record for record in records if record["t"] != "patch"]
        if not is_intent_written:
            records = [record for record in records if record["t"] != "run"]
        journal.write_text("".join(json.dumps(record) + "\n" for record in records))
        agent.start()
        await eventually(lambda: len(master.hellos) == 2)
        after = await status_where(master, instance(), state=State.RUNNING)
        assert after.pid == before.pid
        assert marked_pids(agent.identity()) == [after.pid]

    play(tmp_path, agents, scenario)


def test_a_missing_executable_is_retried_until_it_is_there(tmp_path: Path, agents: list[AgentProcess]) -> None:
    program = tmp_path / "late"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(str(program)))
        status = await status_where(master, instance(), state=State.RESTARTING)
        assert "there is no such file on this node" in status.reason
        assert str(program) in status.reason
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o700)
        await status_where(master, instance(), state=State.RUNNING)

    play(tmp_path, agents, scenario)


def test_a_new_specification_replaces_the_process_and_a_new_revision_alone_does_not(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        first = await status_where(master, instance(), state=State.RUNNING)
        await master.change(instance(), revision=2)
        await status_where(master, instance(), revision=2, epoch=2, pid=first.pid)
        await master.put(order("sleep", "2000", revision=3, epoch=3))
        second = await status_where(master, instance(), state=State.RUNNING, revision=3, spec_hash="hash-3")
        assert second.pid != first.pid
        assert second.restarts == 0

    play(tmp_path, agents, scenario)


def test_probes_gate_readiness_and_restart_what_is_not_alive(tmp_path: Path, agents: list[AgentProcess]) -> None:
    def probe(name: str) -> Probe:
        return Probe(ExecCheck(("test", "-e", str(tmp_path / name))), period_s=0.1, failure_threshold=2)

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        (tmp_path / "alive").touch()
        health = HealthSpec(
            probe("started").__class__(probe("started").check, 0.1, failure_threshold=200),
            probe("ready"),
            probe("alive"),
        )
        await master.put(order("sleep", "1000", health=health))
        await status_where(master, instance(), state=State.STARTING, is_ready=False)
        (tmp_path / "started").touch()
        await status_where(master, instance(), state=State.RUNNING, is_ready=False)
        (tmp_path / "ready").touch()
        first = await status_where(master, instance(), state=State.RUNNING, is_ready=True)
        (tmp_path / "ready").unlink()
        status = await status_where(master, instance(), is_ready=False)
        assert "readiness probe failed 2 times" in status.reason
        (tmp_path / "ready").touch()
        await status_where(master, instance(), is_ready=True, pid=first.pid)
        (tmp_path / "alive").unlink()
        await eventually(lambda: any("liveness probe failed" in seen.reason for seen in master.history))
        (tmp_path / "alive").touch()
        second = await status_where(master, instance(), state=State.RUNNING, is_ready=True)
        assert second.pid != first.pid
        assert second.restarts >= 1

    play(tmp_path, agents, scenario)


def test_figures_are_served_where_asked_for(tmp_path: Path, agents: list[AgentProcess]) -> None:
    port = free_port()

    async def get(path: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000"))
        await status_where(master, instance(), state=State.RUNNING)
        text = await get("/metrics")
        assert 'hsu_agent_instances{state="running"} 1.0' in text
        assert "hsu_agent_session_connected 1.0" in text
        assert "hsu_agent_spawn_seconds_count 1.0" in text
        assert (await get("/healthz")).endswith("\r\n\r\nok\n")
        assert (await get("/")).startswith("HTTP/1.1 404")

    play(tmp_path, agents, scenario, extra=f"metrics_listen: 127.0.0.1:{port}\n")


def test_standard_output_and_error_are_kept_apart(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(*shell("echo out; echo err >&2; exec sleep 1000")))
        await status_where(master, instance(), state=State.RUNNING)
        folder = agent.data_dir / "logs/default/shop/web.0"
        await eventually(lambda: (folder / "stdout.log").exists() and (folder / "stderr.log").exists())
        await eventually(lambda: (folder / "stdout.log").read_text() == "out\n")
        await eventually(lambda: (folder / "stderr.log").read_text() == "err\n")
        number = await master.ask("logs", instance(), tail=10)
        await eventually(lambda: number in master.answers)
        assert {chunk.stream: chunk.payload for chunk in master.chunks[number]} == {
            "stdout": b"out\n",
            "stderr": b"err\n",
        }

    play(tmp_path, agents, scenario)


def test_a_port_that_another_program_holds_is_reported_and_waited_for(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            port = int(stranger.getsockname()[1])
            await master.put(order("sleep", "1000", ports=(("http", port),), restart=FAST))
            status = await status_where(master, instance(), state=State.RESTARTING, busy_ports=(port,))
            assert f"port {port} of this host is in use by another program" in status.reason
        await status_where(master, instance(), state=State.RUNNING, busy_ports=())

    play(tmp_path, agents, scenario)


def test_a_tail_of_a_fast_writer_is_as_long_as_asked(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("yes", "some-line", logs=LogSpec(segment_bytes=1_000_000, segments=3)))
        await status_where(master, instance(), state=State.RUNNING)
        log = agent.data_dir / "logs/default/shop/web.0/stdout.log"
        await eventually(lambda: log.exists() and log.stat().st_size > 100_000)
        for lines in (0, 2):
            number = await master.ask("logs", instance(), tail=lines, stream="stdout")
            answer = await eventually(lambda n=number: master.answers.get(n))
            assert answer.code == ""
            text = b"".join(chunk.payload for chunk in master.chunks[number])
            assert len(text.splitlines()) == lines

    play(tmp_path, agents, scenario)
