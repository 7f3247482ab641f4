"""Kills of an agent that runs 50 difficult workers: same processes, none twice, none left behind at the end."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from bench.failures.figures import Figures
from tests.agent.local_harness import LocalAgent, kill, local_agent, manifest, survivors, worker
from tests.agent.test_random_deaths import AGENT_DEATHS, children_of, kill_if_there
from tests.support.waiting import random_moment

WORKERS = 50
PROCESSES = 70
"""Of all workers: those with a session of their own and those that fork twice have two each."""

KINDS = (
    worker("plain", "exec sleep 100000", "replicas: 20"),
    worker("session", "setsid sleep 100000 & exec sleep 100000", "replicas: 10"),
    worker("double", "(sh -c 'sleep 100000 & exit') & wait; exec sleep 100000", "replicas: 10"),
    worker("deaf", "trap '' TERM; exec sleep 100000", "replicas: 10"),
)


def measure_deaths(deaths: int, seed: int = 7) -> Figures:
    """Kill the agent at random moments, and its keeper now and then; return what became of its workers."""
    with tempfile.TemporaryDirectory(prefix="hsu-bench-") as name, local_agent(Path(name)) as agent:
        agent.file.write_text(manifest(*KINDS))
        agent.start()
        agent.until(lambda: agent.all_run() and len(agent.instances()) == WORKERS, "all run")
        agent.until(lambda: len(survivors(agent.data_dir)) == PROCESSES, "their children run too")
        before = set(survivors(agent.data_dir))
        first = {each["pid"] for each in agent.instances().values()}
        _let_die(agent, deaths, random.Random(seed))
        agent.until(agent.all_run, "all run")
        after = set(survivors(agent.data_dir))
        restarts = len(first - {each["pid"] for each in agent.instances().values()})
        agent.end()
        orphans = survivors(agent.data_dir)
        for pid in orphans:  # counted, so that the harness need not fail for them
            kill(pid)
        return {
            "deaths": deaths,
            "workers": WORKERS,
            "restarts": restarts,
            "duplicates": len(after - before),
            "orphans": len(orphans),
        }


def _let_die(agent: LocalAgent, deaths: int, chance: random.Random) -> None:
    done = 0
    while done < deaths:
        for _ in range(AGENT_DEATHS):
            victims: list[int] = []
            while not victims:
                random_moment(chance, 0.5)
                victims = children_of(agent)
            for pid in victims:
                kill_if_there(pid)
            done += len(victims)
        assert agent.keeper is not None
        agent.keeper.kill()
        agent.keeper.wait(30)
        agent.start()
