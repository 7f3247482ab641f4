"""Two hundred deaths of agent and keeper at random moments, under load: nobody is lost, doubled or left, no line is."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hsu_agent.logs.merge import merged_tail
from tests.agent.local_harness import LocalAgent, is_alive, local_agent, manifest, survivors, worker
from tests.support.waiting import random_moment

DEATHS = 200
AGENT_DEATHS = 3
"""Of one keeper: later ones wait seconds for the next agent, since a program that crashes must not burn a core."""

COUNTING = """
import os, sys, time
number = 0
while True:
    os.write(1, b"".join(b"%09d\\n" % each for each in range(number, number + 20)))
    number += 20
    time.sleep(0.01)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


def kill_if_there(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children_of(agent: LocalAgent) -> list[int]:
    """Return the agent (if the keeper has one now): its command line names the daemon, or what becomes it."""
    assert agent.keeper is not None
    try:
        children = psutil.Process(agent.keeper.pid).children()
        return [child.pid for child in children if any("hsu_agent" in word for word in child.cmdline())]
    except psutil.Error:
        return []


def leaders(agent: LocalAgent) -> dict[str, list[int]]:
    """Return the first processes of sessions by their instance."""
    found: dict[str, list[int]] = {}
    for pid in survivors(agent.data_dir):
        try:
            marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if os.getsid(pid) == pid:
                name = next(mark for mark in marks if mark.startswith(b"HSU_INSTANCE=")).decode()
                found.setdefault(name.removeprefix("HSU_INSTANCE=default/"), []).append(pid)
        except (OSError, StopIteration):
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_deaths_at_random_moments(agent: LocalAgent, tmp_path: Path) -> None:
    chance = random.Random(4)
    counting = tmp_path / "counting.py"
    counting.write_text(COUNTING)
    python = psutil.Process().exe()
    agent.file.write_text(
        manifest(
            worker("steady", "exec sleep 1000", "replicas: 10, restart: {policy: always}"),
            worker(
                "crash",
                "sleep 0.3; exit 1",
                "replicas: 3, restart: {policy: always, backoff: {base: 50ms, ceiling: 100ms}}",
            ),
            worker(
                "count",
                f"exec {python} -I {counting}",
                "replicas: 2, restart: {policy: always}, logs: {segment_size: 256KiB, segments: 100, compress: true}",
            ),
        )
    )
    agent.start()
    agent.until(lambda: len([each for each in agent.instances().values() if each["ready"]]) >= 12, "they run")
    before = {
        name: each["pid"] for name, each in agent.instances().items() if name.startswith(("shop/steady", "shop/count"))
    }
    deaths = 0
    while deaths < DEATHS:
        for _ in range(AGENT_DEATHS):
            random_moment(chance, 0.6)
            for pid in children_of(agent):
                kill_if_there(pid)
                deaths += 1
        random_moment(chance, 0.3)
        assert agent.keeper is not None
        victims = children_of(agent) if chance.random() < 0.5 else []
        agent.keeper.kill()
        for pid in victims:
            kill_if_there(pid)
        deaths += 1 + len(victims)
        agent.keeper.wait(30)
        agent.start()
    agent.until(lambda: agent.run("status").returncode != 3, "an agent answers")
    agent.until(lambda: all(agent.instances()[name]["ready"] for name in before), "all run")
    assert {name: agent.instances()[name]["pid"] for name in before} == before, "they are the same processes"
    doubled = {name: pids for name, pids in leaders(agent).items() if len(pids) > 1}
    assert not doubled, "nobody runs twice"
    assert agent.said("stop", "count", "--wait")
    for slot in range(2):
        folder = agent.data_dir / "logs" / "default" / "shop" / f"count.{slot}"
        lines = [line for _, _, line in merged_tail(folder, ("stdout",), -1, None)]
        assert [int(line) for line in lines] == list(range(len(lines))), "no line is lost, none is there twice"
        assert len(lines) > 1000
    assert agent.end() == 0, agent.log.read_text()[-3000:]
    assert not any(is_alive(pid) for pid in before.values())
