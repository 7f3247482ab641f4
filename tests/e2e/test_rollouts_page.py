"""The commands of docs/rollouts.md, typed in order: each strategy of the examples, good and bad."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from tests.e2e.pages import commands, read_page, standalone_in
from tests.support.cluster import ROOT

PAGE = read_page("rollouts.md")

EXPECTED = {"plan": 2, "--var fail=crash": 1, "rollout status rolling": 1}
"""Exit statuses that the page tells of; every other command ends with 0."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with standalone_in(tmp_path) as run:
        for command in commands(PAGE):
            done = run(*shlex.split(command)[1:])
            expected = next((status for part, status in EXPECTED.items() if part in command), 0)
            assert done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"
        rollouts = run("get", "rollouts").stdout
        assert rollouts.count("Healthy") == 4, rollouts
        assert "blue-green/web.100" in run("get", "instances", "blue-green").stdout


def test_every_example_is_a_strategy_and_the_page_names_it() -> None:
    names = {path.stem for path in (ROOT / "examples" / "rollouts").glob("*.yaml")}
    assert names == {"rolling", "canary", "blue-green", "recreate"}
    for name in names:
        assert f"examples/rollouts/{name}.yaml" in PAGE
