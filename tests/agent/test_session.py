"""The session with masters: whom to obey, whom to dial, and what goes on while nobody is there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from hsu_agent.host.controllers import describe_host
from hsu_core.model.lifecycle import State
from hsu_core.wire import frames
from tests.agent.harness import AgentProcess, instance, is_running, order, shell, status_where
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

Scenario = Callable[[FakeMaster, FakeMaster, AgentProcess], Awaitable[None]]


def play(tmp_path: Path, agents: list[AgentProcess], scenario: Scenario, *, dials_both: bool = False) -> None:
    """Run a scenario with two masters and an agent that is not started yet; it knows the first (or both)."""

    async def run() -> None:
        async with FakeMaster(beat_s=0.1, ttl_s=1.0) as one, FakeMaster(beat_s=0.1, ttl_s=1.0) as two:
            agent = AgentProcess(tmp_path, *([one.url, two.url] if dials_both else [one.url]))
            agents.append(agent)
            await scenario(one, two, agent)

    asyncio.run(run())


def test_a_redirect_is_followed_at_once(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        one.answer = frames.Redirect((two.url,), retry_s=60.0)
        await two.put(order("sleep", "1000"))
        agent.start()
        await status_where(two, instance(), state=State.RUNNING)
        assert one.statuses == {}
        hello = two.hellos[0]
        assert (hello.node, hello.os, hello.term, hello.incarnation) == ("node-1", "linux", 0, "")
        assert hello.agent == agent.identity()
        assert hello.capacity.cpu_milli >= 1000
        assert hello.capacity.memory_bytes > 0
        assert hello.host is not None
        assert hello.host == describe_host(agent.data_dir).without_folders()

    play(tmp_path, agents, scenario)


def test_the_other_master_is_dialled_when_one_is_gone_and_workers_run_on(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order("sleep", "1000"))
        await two.put(order("sleep", "1000"))
        agent.start()
        first = await eventually(lambda: one if one.statuses else two if two.statuses else None)
        other = two if first is one else one
        other.term = 2
        before = await status_where(first, instance(), state=State.RUNNING)
        await first.stop()
        await status_where(other, instance(), state=State.RUNNING, pid=before.pid)
        assert other.hellos[0].term == 1

    play(tmp_path, agents, scenario, dials_both=True)


def test_without_any_master_crashed_workers_are_restarted_from_the_ledger(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order(*shell(f"echo $$ >> {tmp_path}/pids; exec sleep 1000")))
        agent.start()
        first = await status_where(one, instance(), state=State.RUNNING)
        await one.stop()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await eventually(lambda: len((tmp_path / "pids").read_text().split()) == 2)
        os.kill(agent.agent_pid(), signal.SIGKILL)  # and it starts from the ledger alone
        second = int((tmp_path / "pids").read_text().split()[1])
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: len((tmp_path / "pids").read_text().split()) == 3)
        await one.start()
        await status_where(one, instance(), state=State.RUNNING, restarts=2)

    play(tmp_path, agents, scenario)


def test_a_silent_master_is_left_and_dialled_again(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        agent.start()
        await eventually(lambda: one.session is not None)
        one.is_silent = True
        await eventually(lambda: len(one.hellos) >= 2)
        one.is_silent = False
        beats = one.beats
        await eventually(lambda: one.beats > beats + 15)
        assert "it was silent for 0.5 s" in agent.log.read_text(), "in time to be heard elsewhere before its TTL of 1 s"

    play(tmp_path, agents, scenario)


def test_an_agent_that_was_stopped_does_not_blame_its_master(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        agent.start()
        await eventually(lambda: one.beats > 3)
        process = psutil.Process(agent.agent_pid())
        process.suspend()
        await eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        await asyncio.sleep(1.5)  # three times what it allows its master
        beats = one.beats
        process.resume()
        await eventually(lambda: one.beats > beats + 5)
        assert len(one.hellos) == 1

    play(tmp_path, agents, scenario)


def test_an_agent_in_the_line_waits_to_be_let_in(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        one.queued = 3
        agent.start()
        await eventually(lambda: one.beats > 3)
        assert len(one.hellos) == 1

    play(tmp_path, agents, scenario)


def test_older_epochs_and_terms_are_refused_and_unknown_frames_ignored(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        one.term = 5
        await one.put(order("sleep", "1000", epoch=10))
        agent.start()
        first = await status_where(one, instance(), state=State.RUNNING, epoch=10)
        assert one.session is not None
        await one.session.send_unknown()
        await one.change(instance(), epoch=9, is_stopped=True)
        await one.change(instance(), epoch=11, revision=2, is_stopped=False)
        await status_where(one, instance(), state=State.RUNNING, epoch=11, revision=2, pid=first.pid)
        assert len(one.hellos) == 1
        assert State.STOPPING not in [seen.state for seen in one.history]
        one.term = 4
        await one.change(instance(), epoch=12, is_stopped=True)
        await eventually(lambda: "which is older than 5" in agent.log.read_text())
        assert first.pid is not None
        assert is_running(first.pid)
        one.term = 6
        await status_where(one, instance(), state=State.STOPPED, epoch=12)

    play(tmp_path, agents, scenario)


def test_orders_of_the_ledger_stand_until_the_full_orders_come_and_these_end_the_rest(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order("sleep", "1000", slot=0), order("sleep", "1000", slot=1))
        agent.start()
        kept = await status_where(one, instance(slot=0), state=State.RUNNING)
        gone = await status_where(one, instance(slot=1), state=State.RUNNING)
        one.is_withholding_orders = True
        await one.cut()
        await eventually(lambda: len(one.hellos) == 2)
        del one.orders[instance(slot=1)]
        beats = one.beats
        await eventually(lambda: one.beats > beats + 3)
        assert kept.pid is not None
        assert gone.pid is not None
        assert is_running(gone.pid)
        one.is_withholding_orders = False
        await one.cut()
        await eventually(lambda: instance(slot=1) in one.gone)
        assert is_running(kept.pid)
        assert not is_running(gone.pid)

    play(tmp_path, agents, scenario)


def test_another_cluster_is_obeyed_once_a_person_has_accepted_it(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        one.term = 9
        await one.put(order("sleep", "1000", epoch=50))
        agent.start()
        first = await status_where(one, instance(), state=State.RUNNING)
        one.incarnation, one.term = "restored", 1
        await one.change(instance(), epoch=1)
        assert one.orders[instance()][0].epoch == 1
        await one.cut()
        await eventually(lambda: "cluster restored is not obeyed" in agent.log.read_text())
        beats = one.beats
        await eventually(lambda: one.beats > beats + 3, why="the session is held: it reports, and can be asked")
        assert one.statuses[instance()].epoch == 50
        assert (one.hellos[-1].workers, one.hellos[-1].incarnation) == (1, "test")
        one.accepted = ("test",)
        await one.cut()
        await status_where(one, instance(), state=State.RUNNING, epoch=1, pid=first.pid)
        assert "the cluster is another one than before" in agent.log.read_text()

    play(tmp_path, agents, scenario)


def test_a_wrong_token_and_a_refusal_are_told_and_tried_again(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        token = tmp_path / "node.token"
        good = token.read_text()
        token.write_text("wrong")
        agent.start()
        await eventually(lambda: "refuses the token" in agent.log.read_text())
        one.answer = frames.Refuse("node.name-taken", "another node-1 is connected")
        token.write_text(good)
        await eventually(lambda: "another node-1 is connected [node.name-taken]" in agent.log.read_text())
        one.answer = None
        await eventually(lambda: one.session is not None)

    play(tmp_path, agents, scenario)


def test_a_signal_reaches_the_worker(tmp_path: Path, agents: list[AgentProcess]) -> None:
    code = f"trap 'echo hup >> {tmp_path}/got' HUP; echo up > {tmp_path}/up; while :; do sleep 0.05; done"

    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order(*shell(code)))
        agent.start()
        await status_where(one, instance(), state=State.RUNNING)
        await eventually(lambda: (tmp_path / "up").exists())
        good = await one.ask("signal", instance(), name="SIGHUP")
        bad = await one.ask("signal", instance(), name="SIGNONSENSE")
        odd = await one.ask("dance", instance())
        await eventually(lambda: {good, bad, odd} <= set(one.answers))
        await eventually(lambda: (tmp_path / "got").exists())
        assert one.answers[good].code == ""
        assert "there is no such signal" in one.answers[bad].text
        assert "this agent does not know it" in one.answers[odd].text

    play(tmp_path, agents, scenario)


def test_a_store_that_lost_everything_ends_no_worker(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order("sleep", "1000"))
        agent.start()
        first = await status_where(one, instance(), state=State.RUNNING)
        kept = one.orders.pop(instance())
        one.incarnation = "emptied"
        await one.cut()
        await eventually(lambda: "cluster emptied is not obeyed" in agent.log.read_text())
        assert first.pid is not None
        assert is_running(first.pid)
        one.orders[instance()] = kept
        one.incarnation = "test"
        await one.cut()
        await status_where(one, instance(), state=State.RUNNING, pid=first.pid)

    play(tmp_path, agents, scenario)


def test_sessions_that_are_cut_at_once_are_dialled_less_and_less(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        agent.start()
        began_s = 0.0
        for count in range(1, 7):
            await eventually(lambda: len(one.hellos) == count and one.session is not None)  # noqa: B023
            began_s = began_s or asyncio.get_running_loop().time()
            one.session, session = None, one.session
            assert session is not None
            await session.socket.close()
        assert asyncio.get_running_loop().time() - began_s > 0.5 * (0.1 + 0.2 + 0.4 + 0.8 + 1.6)

    play(tmp_path, agents, scenario)


def test_workers_outlive_a_ledger_that_is_unreadable_or_lost(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await one.put(order("sleep", "1000", slot=0), order("sleep", "1000", slot=1))
        agent.start()
        kept = await status_where(one, instance(slot=0), state=State.RUNNING)
        gone = await status_where(one, instance(slot=1), state=State.RUNNING)
        assert kept.pid is not None
        assert gone.pid is not None
        assert await agent.stop() == 0
        journal = agent.data_dir / "ledger/journal.jsonl"
        journal.unlink()
        journal.mkdir()
        agent.start()
        assert agent.keeper is not None
        assert await asyncio.to_thread(agent.keeper.wait, 20) == 78
        assert f"cannot read {journal}: Is a directory" in agent.log.read_text()
        assert is_running(kept.pid)
        journal.rmdir()
        one.is_withholding_orders = True
        agent.start()
        await status_where(one, instance(slot=0), state=State.REGISTERED, has_processes=True)
        beats = one.beats
        await eventually(lambda: one.beats > beats + 3)
        assert is_running(gone.pid)
        del one.orders[instance(slot=1)]
        one.is_withholding_orders = False
        await one.cut()
        await status_where(one, instance(slot=0), state=State.RUNNING, pid=kept.pid)
        await eventually(lambda: instance(slot=1) in one.gone)
        assert not is_running(gone.pid)

    play(tmp_path, agents, scenario)


def test_leaders_of_new_terms_are_dialled_at_once_however_short_their_sessions_were(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        agent.start()
        loop = asyncio.get_running_loop()
        began_s = 0.0
        for count in range(1, 9):
            await eventually(lambda: len(one.hellos) == count and one.session is not None)  # noqa: B023
            began_s = began_s or loop.time()
            one.term += 1
            one.session, session = None, one.session
            assert session is not None
            await session.socket.close()
        assert loop.time() - began_s < 0.5 * (0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5.0)

    play(tmp_path, agents, scenario)


def test_masters_that_are_gone_cost_no_wait_while_another_one_listens(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(one: FakeMaster, two: FakeMaster, agent: AgentProcess) -> None:
        await two.stop()
        agent.start()
        loop = asyncio.get_running_loop()
        for count in range(1, 6):
            await eventually(lambda: len(one.hellos) == count and one.session is not None)  # noqa: B023
            began_s = loop.time()
            one.term += 1
            one.session, session = None, one.session
            assert session is not None
            await session.socket.close()
        await eventually(lambda: len(one.hellos) == 6)
        assert loop.time() - began_s < 1.0

    play(tmp_path, agents, scenario, dials_both=True)
