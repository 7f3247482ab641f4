"""Limits of real workers of a real agent: the kernel's where controllers can be written, samples everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsu_agent.host.controllers import describe_host
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.lifecycle import State
from hsu_core.model.limits import (
    CpuLimits,
    LimitPolicy,
    LimitsSpec,
    MemoryLimits,
    MonitoringSpec,
    NetworkLimits,
    ProcessLimits,
    StorageLimits,
)
from hsu_core.model.spec import RestartPolicy, RestartSpec
from tests.agent.harness import AgentProcess, instance, is_running, order, python, shell, status_where
from tests.agent.test_end_to_end import play
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

MIB = 2**20
NEVER = RestartSpec(policy=RestartPolicy.NEVER)
GREEDY = python("import time\nx = bytearray(200 * 2**20)\ntime.sleep(1000)")
"""HSU's experiment 14: a worker of 200 MB with a limit of 10 MB ran on for ever."""


def needs(*names: str) -> None:
    """Skip where this host has not these controllers."""
    layout = describe_host(Path("/"))
    for name in names:
        if layout.controller(name) is None:
            pytest.skip(layout.why_missing(name))


def limited(command: Sequence[str], limits: LimitsSpec, **fields: Any) -> Any:
    """Return an order with limits."""
    return order(*command, limits=limits, **fields)


def memory(policy: LimitPolicy | None, size: int = 10 * MIB, **fields: Any) -> LimitsSpec:
    """Return a limit of resident memory that is checked ten times a second."""
    return LimitsSpec(memory=MemoryLimits(size, policy=policy, check_interval_s=0.1), **fields)


async def ended(master: FakeMaster, reason: str) -> InstanceStatus:
    """Return the status once the instance has ended for good with this reason."""

    def look() -> InstanceStatus | None:
        status = master.statuses.get(instance())
        is_done = status is not None and status.state in (State.FAILED, State.STOPPED) and reason in status.reason
        return status if is_done else None

    try:
        return await eventually(look)  # type: ignore[return-value]
    except AssertionError as error:
        raise AssertionError(f"{master.statuses.get(instance())}, wanted {reason!r}") from error


def test_a_worker_out_of_memory_is_known_as_such(tmp_path: Path, agents: list[AgentProcess]) -> None:
    needs("memory")

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        limits = LimitsSpec(memory=MemoryLimits(64 * MIB, max_swap_bytes=0))
        await master.put(limited(python("x = bytearray(200 * 2**20)"), limits, restart=NEVER))
        status = await ended(master, "killed: out of memory (limits.memory 64MiB)")
        assert status.last_exit is not None
        assert status.last_exit.signal == "SIGKILL"

    play(tmp_path, agents, scenario)


def test_a_worker_of_200_mb_with_a_limit_of_10_does_not_run_on(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(GREEDY, memory(LimitPolicy.IMMEDIATE_KILL), restart=NEVER))
        status = await ended(master, "memory")
        assert status.last_exit is not None
        assert status.last_exit.signal == "SIGKILL"

    play(tmp_path, agents, scenario)


def test_a_worker_is_stopped_for_good(tmp_path: Path, agents: list[AgentProcess]) -> None:
    said = tmp_path / "said"
    code = (
        f"import signal, sys, time\ndef bye(*_): open('{said}', 'w').write('bye'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\nx = bytearray(60 * 2**20)\ntime.sleep(1000)"
    )

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(python(code), memory(LimitPolicy.GRACEFUL_SHUTDOWN, 40 * MIB)))
        await ended(master, "its limit is 40MiB (limits.memory.max_rss)")
        assert said.read_text() == "bye"

    play(tmp_path, agents, scenario)


def test_samples_kill_at_once(tmp_path: Path, agents: list[AgentProcess]) -> None:
    """The kernel holds the memory; the number of children only samples can see."""
    limits = LimitsSpec(
        process=ProcessLimits(max_child_processes=2, policy=LimitPolicy.IMMEDIATE_KILL),
        monitoring=MonitoringSpec(is_enabled=True, interval_s=0.1),
    )
    code = "trap '' TERM; sleep 1000 & sleep 1000 & sleep 1000 & wait"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(shell(code), limits, restart=NEVER))
        await eventually(lambda: "limits.process.max_child_processes" in agent.log.read_text())
        status = await eventually(
            lambda: (
                found
                if (found := master.statuses.get(instance())) is not None and found.last_exit is not None
                else None
            )
        )
        assert status is not None
        assert status.last_exit is not None
        assert status.last_exit.signal == "SIGKILL"

    play(tmp_path, agents, scenario)


def test_a_restart_with_a_raised_limit(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        limits = memory(LimitPolicy.RESTART_ADJUSTED, 98 * MIB)
        code = "import time\nx = bytearray(100 * 2**20)\ntime.sleep(1000)"
        await master.put(limited(python(code), limits))
        status = await status_where(master, instance(), state=State.RUNNING, restarts=1)
        assert status.pid is not None
        assert "1.25 times what is written" in agent.log.read_text()
        assert is_running(status.pid)

    play(tmp_path, agents, scenario)


def test_a_share_of_the_processor_is_held_and_changed_while_it_runs(tmp_path: Path, agents: list[AgentProcess]) -> None:
    needs("cpu")

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(python("while True: pass"), LimitsSpec(cpu=CpuLimits(200)), epoch=1))
        status = await status_where(master, instance(), state=State.RUNNING)
        layout = describe_host(Path("/"))
        controller = layout.controller("cpu")
        assert controller is not None
        folder = Path(controller.folder, f"hsu-{agent.identity()}")
        file = "cpu.max" if controller.version == 2 else "cpu.cfs_quota_us"
        assert next(folder.glob(f"*/{file}")).read_text().split()[0] == "20000"
        assignment, spec = limited(python("while True: pass"), LimitsSpec(cpu=CpuLimits(100)), epoch=2, revision=2)
        await master.put((replace(assignment, spec_hash="hash-1"), spec))
        await eventually(lambda: next(folder.glob(f"*/{file}")).read_text().split()[0] == "10000")
        assert (await status_where(master, instance(), epoch=2)).pid == status.pid
        await master.drop(instance())
        await eventually(lambda: instance() in master.gone)
        await eventually(lambda: not list(folder.glob("*/")))

    play(tmp_path, agents, scenario)


def test_files_address_space_and_priority_are_set(tmp_path: Path, agents: list[AgentProcess]) -> None:
    limits = LimitsSpec(
        memory=MemoryLimits(max_virtual_bytes=512 * MIB), process=ProcessLimits(max_file_descriptors=64), priority=7
    )

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(("sleep", "1000"), limits))
        status = await status_where(master, instance(), state=State.RUNNING)
        lines = Path(f"/proc/{status.pid}/limits").read_text().splitlines()
        assert next(line for line in lines if line.startswith("Max open files")).split()[3] == "64"
        assert next(line for line in lines if line.startswith("Max address space")).split()[3] == str(512 * MIB)
        assert Path(f"/proc/{status.pid}/stat").read_text().rpartition(")")[2].split()[16] == "7"

    play(tmp_path, agents, scenario)


def test_processor_time_that_is_used_up_is_known_as_such(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(python("while True: pass"), LimitsSpec(cpu=CpuLimits(max_time_s=1)), restart=NEVER))
        await ended(master, "killed: out of processor time (limits.cpu.max_time 1s)")

    play(tmp_path, agents, scenario)


def test_files_on_disk_and_sockets_are_watched(tmp_path: Path, agents: list[AgentProcess]) -> None:
    limits = LimitsSpec(
        storage=StorageLimits(max_log_bytes=50_000, policy=LimitPolicy.ALERT),
        network=NetworkLimits(max_connections=2),
        monitoring=MonitoringSpec(is_enabled=True, interval_s=0.1),
    )
    code = (
        "import socket, time\nopened = [socket.socket() for _ in range(4)]\n"
        "print('x' * 99999, flush=True)\ntime.sleep(1000)"
    )

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(python(code), limits))
        await eventually(lambda: "limits.storage.max_log_size" in agent.log.read_text())
        await eventually(lambda: "uses 4, its limit is 2 (limits.network.max_connections)" in agent.log.read_text())
        assert (await status_where(master, instance(), state=State.RUNNING)).restarts == 0

    play(tmp_path, agents, scenario)


def test_a_worker_of_an_earlier_agent_is_watched_on(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        grow = tmp_path / "grow"
        code = (
            f"import os, time\nwhile not os.path.exists('{grow}'): time.sleep(0.02)\n"
            "x = bytearray(200 * 2**20)\ntime.sleep(1000)"
        )
        await master.put(limited(python(code), memory(LimitPolicy.GRACEFUL_SHUTDOWN, 64 * MIB)))
        await status_where(master, instance(), state=State.RUNNING)
        assert await agent.stop() == 0
        agent.start()
        await eventually(lambda: len(master.hellos) == 2)
        grow.touch()
        await ended(master, "its limit is 64MiB (limits.memory.max_rss)")

    play(tmp_path, agents, scenario)


def test_a_worker_is_slowed_and_runs_on(tmp_path: Path, agents: list[AgentProcess]) -> None:
    needs("cpu")

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(limited(GREEDY, memory(LimitPolicy.THROTTLE)))
        status = await status_where(master, instance(), state=State.RUNNING)
        await eventually(lambda: "shop/web.0 is slowed: uses" in agent.log.read_text())
        controller = describe_host(Path("/")).controller("cpu")
        assert controller is not None
        file = "cpu.max" if controller.version == 2 else "cpu.cfs_quota_us"
        quota = next(Path(controller.folder, f"hsu-{agent.identity()}").glob(f"*/{file}")).read_text().split()[0]
        assert 0 < int(quota) <= 20_000
        assert status.pid is not None
        assert is_running(status.pid)

    play(tmp_path, agents, scenario)
