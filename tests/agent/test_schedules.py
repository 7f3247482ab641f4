"""Scheduled workers and one-shots: the plan as data, and real runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hsu_agent import schedules
from hsu_agent.planning import observed as changes
from hsu_agent.planning import reconcile
from hsu_agent.planning.observed import Desired, Observed, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.lifecycle import State
from hsu_core.model.restarts import RestartPolicy, RestartSpec
from hsu_core.model.schedules import ScheduleSpec
from tests.agent.harness import AgentProcess, instance, order, shell, status_where
from tests.agent.test_end_to_end import play
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually
from tests.wire.builders import faults, manifest, parse_worker, worker

WEB = instance()
ON_FAILURE = RestartSpec(RestartPolicy.ON_FAILURE, base_s=0.05)
NOON_AT = 1_767_268_800.0
"""2026-01-01 12:00 UTC."""


class Clock:
    """One scheduled instance whose time is set by hand."""

    def __init__(self, expression: str, restart: RestartSpec = ON_FAILURE, *, is_catching_up: bool = False) -> None:
        schedule = ScheduleSpec(expression, "", is_catching_up)
        assignment, spec = order("true", schedule=schedule, restart=restart)
        self.wanted = Desired(assignment, spec)
        self.observed: Observed | None = None
        self.starts: list[float] = []

    def look(self, at: float) -> None:
        """Plan and apply at a time of the wall clock until only time is waited for."""
        for _ in range(20):
            actions = reconcile.plan_instance(WEB, self.wanted, self.observed, at, at).actions
            if not actions:
                return
            for action in actions:
                self._apply(action, at)
        raise AssertionError(f"goes in circles: {self.observed}")

    def _apply(self, action: reconcile.Action, at: float) -> None:
        seen = self.observed or Observed(WEB)
        match action:
            case reconcile.Register():
                self.observed = seen
            case reconcile.Settle():
                self.observed = changes.settled(seen, action.event, at)
            case reconcile.Renew():
                self.observed = changes.renewed(seen, action.order)
            case reconcile.PlanRun() | reconcile.TakeRun():
                self.observed = schedules.apply(seen, action, at)
            case reconcile.Spawn():
                self.starts.append(at - NOON_AT)
                process = Process(len(self.starts), 1, "b", started_at=at)
                self.observed = changes.spawned(seen, action.order, process, at, at)
            case reconcile.KillTree():
                self.observed = changes.tree_empty(seen, at)
            case _:
                raise AssertionError(action)

    def end(self, at: float, code: int = 0) -> None:
        """End the process."""
        assert self.observed is not None
        self.observed = changes.exited(self.observed, LastExit(code=code, at=at), at, 0.5)

    def seconds(self, first: int, last: int) -> None:
        """Look at every second of a span after noon; a run ends within the second."""
        for second in range(first, last):
            self.look(NOON_AT + second)
            if self.observed is not None and self.observed.is_alive:
                self.end(NOON_AT + second)


def test_it_runs_at_its_times_and_once_a_minute() -> None:
    clock = Clock("*/5 * * * *")
    clock.seconds(1, 900)
    assert clock.starts == [300, 600]
    assert clock.observed is not None
    assert clock.observed.state is State.STOPPED
    assert clock.observed.reason == "ended with code 0; next run at 2026-01-01 12:15 UTC"


def test_a_clock_set_back_does_not_run_it_twice() -> None:
    clock = Clock("*/5 * * * *")
    clock.seconds(290, 310)
    clock.seconds(250, 330)
    assert clock.starts == [300]


@pytest.mark.parametrize(("is_catching_up", "expected"), [(False, [300, 2100]), (True, [300, 2000, 2100])])
def test_missed_runs_are_not_made_up_for_but_for_one_if_asked(is_catching_up: bool, expected: list[float]) -> None:
    clock = Clock("*/5 * * * *", is_catching_up=is_catching_up)
    clock.seconds(1, 310)
    clock.seconds(2000, 2110)
    assert clock.starts == expected


def test_a_run_that_takes_long_is_not_doubled() -> None:
    clock = Clock("* * * * *")
    for second in range(1, 400):
        clock.look(NOON_AT + second)
        if second == 200:
            clock.end(NOON_AT + second)
    assert clock.starts == [60, 240]


def test_a_failed_run_is_tried_again_at_once_and_then_as_its_policy_says() -> None:
    clock = Clock("@hourly", RestartSpec(RestartPolicy.ON_FAILURE, base_s=1.0, max_retries=1))
    clock.look(NOON_AT + 1)
    clock.look(NOON_AT + 3600)
    clock.end(NOON_AT + 3601, code=1)
    clock.look(NOON_AT + 3602)
    clock.end(NOON_AT + 3603, code=1)
    clock.look(NOON_AT + 3604)
    assert clock.starts == [3600, 3602]
    assert clock.observed is not None
    assert clock.observed.state is State.FAILED
    clock.look(NOON_AT + 7200)
    assert clock.starts == [3600, 3602, 7200]


def test_asking_for_a_restart_runs_it_now() -> None:
    clock = Clock("@hourly")
    clock.look(NOON_AT + 1)
    clock.wanted = replace(clock.wanted, assignment=replace(clock.wanted.assignment, generation=1))
    clock.look(NOON_AT + 2)
    assert clock.starts == [2]


def test_a_schedule_is_read_and_its_faults_have_their_path() -> None:
    read = parse_worker(schedule="@daily", timezone="Europe/Berlin", catch_up=True)
    assert read.schedule == ScheduleSpec("@daily", "Europe/Berlin", True)
    always = {"policy": "always"}
    for keys, where in (
        ({"schedule": "61 * * * *"}, "schedule"),
        ({"schedule": "@daily", "timezone": "Mars/Base"}, "timezone"),
        ({"schedule": "@daily", "restart": always}, "schedule"),
        ({"timezone": "UTC"}, "timezone"),
    ):
        found = faults(manifest(worker(**keys)))
        assert [fault.path for fault in found] == [f"workers[web].{where}"]
        assert found[0].fix


def test_a_scheduled_worker_waits_and_runs_when_asked(tmp_path: Path, agents: list[AgentProcess]) -> None:
    out = tmp_path / "out"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        fields = {"schedule": ScheduleSpec("0 0 29 2 *"), "restart": ON_FAILURE}
        assignment, spec = order(*shell(f"echo ran >> {out}"), **fields)
        await master.put((assignment, spec))
        status = await status_where(master, WEB, state=State.STOPPED)
        await eventually(lambda: "next run at 20" in master.statuses[WEB].reason)
        assert status.pid is None
        assert not out.exists()
        await master.put((replace(assignment, generation=1, epoch=2), spec))
        await eventually(lambda: out.exists() and "ended with code 0; next run at" in master.statuses[WEB].reason)
        assert out.read_text() == "ran\n"

    play(tmp_path, agents, scenario)


def test_a_one_shot_that_ended_well_is_done(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("true", restart=ON_FAILURE))
        status = await status_where(master, WEB, state=State.STOPPED)
        assert status.last_exit is not None
        assert (status.last_exit.code, status.restarts, status.reason) == (0, 0, "ended with code 0")

    play(tmp_path, agents, scenario)
