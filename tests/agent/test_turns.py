"""One instance that fails, and a system that refuses, hold up nobody else."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from hsu_agent.host.linux import LinuxHost
from hsu_agent.planning.observed import Process
from hsu_agent.turns import TreeEnds, Turns
from hsu_core.model.ids import InstanceId
from tests.agent.harness import instance
from tests.support.waiting import eventually


def test_an_instance_whose_plan_raises_is_tried_again_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    planned: list[int] = []

    def plan(which: InstanceId) -> None:
        planned.append(which.slot)
        if which.slot == 0 and planned.count(0) == 1:
            raise KeyError("nobody thought of this")

    async def run() -> None:
        turns = Turns(plan)
        for slot in range(3):
            turns.mark(instance(slot=slot))
        await eventually(lambda: planned == [0, 1, 2, 0])
        turns.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "nobody thought of this" in caplog.text


class Refusing(LinuxHost):
    """A host that refuses a few times to look at trees."""

    refusals: tuple[Exception, ...] = ()

    async def end_tree(self, instance: InstanceId, process: Process | None) -> None:
        """Refuse, or find nothing left."""
        if self.refusals:
            error, *rest = self.refusals
            self.refusals = tuple(rest)
            raise error


def test_a_tree_is_ended_although_the_system_refuses_at_first(tmp_path: Path) -> None:
    async def run() -> None:
        host = Refusing(agent="refusing", data_dir=tmp_path)
        host.refusals = (OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"))
        ended: list[InstanceId] = []
        async with asyncio.TaskGroup() as tasks:
            TreeEnds(host, tasks, ended.append).begin(instance(), None)
        assert ended == [instance()]
        host.close()

    asyncio.run(run())
