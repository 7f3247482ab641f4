"""Fixtures of the agent's tests: a folder, a fake master, agents as real processes, and a look for leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.harness import AgentProcess, marked_pids


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[AgentProcess]]:
    """Yield a list: agents put into it are ended, and no worker of theirs may be left."""
    started: list[AgentProcess] = []
    yield started
    for agent in started:
        agent.kill_all()
        assert not marked_pids(agent.identity())
