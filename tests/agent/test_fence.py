"""The fence on real processes: who is killed when, whatever is stopped or killed; and who is not started again.

The master is a fake that acknowledges or is silent; lease and clocks are real.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsu_agent.planning.lease import FENCED
from hsu_core.model.assignment import Assignment
from hsu_core.model.fencing import lease_s
from hsu_core.model.lifecycle import State
from hsu_core.model.order import OrderSpec
from hsu_core.model.spec import Guarantee, RestartPolicy, RestartSpec
from tests.agent.harness import AgentProcess, instance, is_running, kill_quietly, order, status_where
from tests.support.fake_master import FakeMaster
from tests.support.strict_worker import Life, lives
from tests.support.waiting import eventually

WORKER = Path(__file__).parents[1] / "support" / "strict_worker.py"
PROCESSES = 4
LATENESS_LIMIT_S = 0.5
"""Half of the shortest kill budget of these tests; what is measured without load stands in docs/strict.md."""

LONG_TTL_S = 12.0
"""Where an agent has to be back within its lease, also on a loaded machine."""

Scenario = Callable[[FakeMaster, AgentProcess, Path], Awaitable[None]]


def play(tmp_path: Path, agents: list[AgentProcess], scenario: Scenario, *, ttl_s: float = 2.0) -> None:
    """Run a scenario with a master that wants one strict worker of four processes, and an agent that runs it."""

    async def run() -> None:
        shown = tmp_path / "lives"
        shown.mkdir()
        async with FakeMaster(beat_s=0.1, ttl_s=ttl_s) as master:
            await master.put(strict(shown))
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await status_where(master, instance(), state=State.RUNNING)
            await eventually(lambda: len(list(lives(shown))) == PROCESSES)
            await scenario(master, agent, shown)

    asyncio.run(run())


def strict(
    shown: Path, *, epoch: int = 1, policy: RestartPolicy = RestartPolicy.ALWAYS
) -> tuple[Assignment, OrderSpec]:
    """Return the order of the strict worker."""
    restart = RestartSpec(policy=policy, base_s=0.05, ceiling_s=0.2)
    command = (sys.executable, "-I", "-S", str(WORKER), str(shown), "tree")
    return order(*command, epoch=epoch, guarantee=Guarantee.STRICT, restart=restart)


async def put_same(master: FakeMaster, wanted: tuple[Assignment, OrderSpec]) -> None:
    """Order another revision that needs no other process, as far as the master can tell."""
    await master.put((replace(wanted[0], spec_hash="hash-1"), wanted[1]))


async def outlasted(master: FakeMaster) -> None:
    """Wait until the lease that the agent has now would be over, had it not been renewed."""
    over_s = master.acknowledged_at + lease_s(master.ttl_s)
    await eventually(lambda: master.acknowledged_at > over_s)


async def dead(shown: Path, known: list[Life]) -> list[Life]:
    """Wait until none of these processes is left; return when each was last alive."""
    await eventually(lambda: not any(is_running(life.pid) for life in known))
    pids = {life.pid for life in known}
    return [life for life in lives(shown) if life.pid in pids]


def assert_killed_in_time(master: FakeMaster, ended: list[Life]) -> None:
    """Check that all ended at the end of the lease, and neither long before nor long after."""
    lease_ends_s = master.acknowledged_at + lease_s(master.ttl_s)
    assert len(ended) == PROCESSES
    for life in ended:
        assert -0.05 < life.last_s - lease_ends_s < LATENESS_LIMIT_S


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL, None])
def test_the_keeper_kills_the_whole_tree_at_the_end_of_the_lease(
    tmp_path: Path, agents: list[AgentProcess], number: signal.Signals | None
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first = list(lives(shown))
        master.is_silent = True
        pid = agent.agent_pid()
        if number is not None:
            os.kill(pid, number)
        assert_killed_in_time(master, await dead(shown, first))
        if number is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        status = await status_where(master, instance(), state=State.RESTARTING)
        assert status.has_processes, "its slot must not be given away while its order is in force"
        assert len(list(lives(shown))) == PROCESSES, "nothing is started without a lease"
        assert "strict workers killed: the lease of this node ended" in agent.log.read_text()
        master.is_silent = False
        await status_where(master, instance(), state=State.RUNNING)
        await eventually(lambda: len(list(lives(shown))) == 2 * PROCESSES)

    play(tmp_path, agents, scenario)


def test_a_stopped_agent_that_was_replaced_starts_nothing_when_it_goes_on(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first, pid = list(lives(shown)), agent.agent_pid()
        os.kill(pid, signal.SIGSTOP)
        await dead(shown, first)
        await master.cut()
        del master.orders[instance()]
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: instance() in master.gone or (len(master.hellos) > 1 and not master.statuses))
        assert len(list(lives(shown))) == PROCESSES

    play(tmp_path, agents, scenario)


def test_a_fenced_worker_that_is_never_restarted_runs_again_once_its_order_is_confirmed(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        await master.put(strict(shown, epoch=2, policy=RestartPolicy.NEVER))
        await status_where(master, instance(), epoch=2)
        first = list(lives(shown))
        master.is_withholding_orders = True
        await master.stop()
        await dead(shown, first)
        await master.start()
        status = await status_where(master, instance(), state=State.RESTARTING)
        assert status.last_exit is not None
        assert (status.last_exit.signal, status.last_exit.reason) == ("SIGKILL", FENCED)
        seen = master.beats
        await eventually(lambda: master.beats > seen + 3)
        assert len(list(lives(shown))) == PROCESSES, "acknowledged, but nobody has confirmed the order"
        await master.put(strict(shown, epoch=2, policy=RestartPolicy.NEVER))
        await status_where(master, instance(), state=State.RUNNING)

    play(tmp_path, agents, scenario)


def test_a_short_silence_and_a_killed_agent_cost_nothing(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first, pid = list(lives(shown)), agent.agent_pid()
        kill_quietly(pid)
        await eventually(lambda: agent.agent_pid() not in (0, pid) and len(master.hellos) == 2)
        await outlasted(master)
        assert all(is_running(life.pid) for life in first)
        assert len(list(lives(shown))) == PROCESSES

    play(tmp_path, agents, scenario, ttl_s=LONG_TTL_S)


def test_an_agent_whose_keeper_died_kills_strict_workers_itself(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first, pid = list(lives(shown)), agent.agent_pid()
        assert agent.keeper is not None
        agent.keeper.kill()
        agent.keeper.wait()
        await eventually(lambda: not is_running(pid))
        ended = await dead(shown, first)
        assert max(life.last_s for life in ended) < master.acknowledged_at + lease_s(master.ttl_s)
        agent.start()
        await status_where(master, instance(), state=State.RUNNING)

    play(tmp_path, agents, scenario, ttl_s=LONG_TTL_S)


def test_an_agent_that_starts_beside_a_new_keeper_kills_strict_workers_before_its_first_beat(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first, pid = list(lives(shown)), agent.agent_pid()
        await master.stop()
        assert agent.keeper is not None
        agent.keeper.send_signal(signal.SIGSTOP)  # so that neither sees the other die
        kill_quietly(pid)
        agent.keeper.kill()
        agent.keeper.wait()
        assert all(is_running(life.pid) for life in first), "both are dead and the lease is not over"
        agent.start()
        await dead(shown, first)
        assert "before this keeper began" in agent.log.read_text()
        assert len(list(lives(shown))) == PROCESSES
        await master.start()
        await status_where(master, instance(), state=State.RUNNING)

    play(tmp_path, agents, scenario, ttl_s=60.0)


def test_a_clean_stop_ends_strict_workers_before_the_good_bye_and_a_reload_keeps_them(
    tmp_path: Path, agents: list[AgentProcess]
) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        first, pid = list(lives(shown)), agent.agent_pid()
        assert agent.keeper is not None
        agent.keeper.send_signal(signal.SIGHUP)
        await eventually(lambda: agent.agent_pid() not in (0, pid) and len(master.hellos) == 2)
        assert all(is_running(life.pid) for life in first)
        assert await agent.stop() == 0
        assert not any(is_running(life.pid) for life in first)
        await eventually(lambda: instance() in master.gone and master.goodbyes)

    play(tmp_path, agents, scenario, ttl_s=60.0)


def test_a_worker_that_becomes_strict_is_restarted_into_its_guard(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess, shown: Path) -> None:
        command = (sys.executable, "-I", "-S", str(WORKER), str(shown))
        await master.put(order(*command, worker="job"))
        before = await status_where(master, instance("job"), state=State.RUNNING)
        await put_same(master, order(*command, worker="job", epoch=2, revision=2, guarantee=Guarantee.STRICT))
        after = await status_where(master, instance("job"), state=State.RUNNING, epoch=2)
        assert after.pid != before.pid
        await put_same(master, order(*command, worker="job", epoch=3, revision=3))
        again = await status_where(master, instance("job"), state=State.RUNNING, epoch=3)
        assert again.pid == after.pid
        first = [life for life in lives(shown) if "web" in life.instance]
        master.is_silent = True
        await dead(shown, first)
        assert again.pid is not None
        assert is_running(again.pid), "it is guarded no more"

    play(tmp_path, agents, scenario)
