"""The commands of docs/rollouts.md, typed in order: each strategy of the examples, good and bad."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.shop import processes_in
from tests.support.cluster import ROOT, eventually

PAGE = (ROOT / "docs" / "rollouts.md").read_text(encoding="utf-8")

EXPECTED = {"plan": 2, "--var fail=crash": 1, "rollout status rolling": 1}
"""Exit statuses that the page tells of; every other command ends with 0."""


def commands() -> list[str]:
    """Return the commands of the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HSU_")}
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HSU_DATA_DIR": str(tmp_path / "data")}
    program = [sys.executable, "-m", "hsu_cluster.cli.main"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
        )

    with (tmp_path / "log").open("wb") as log:
        subprocess.Popen(
            [*program, "standalone", "--listen", "127.0.0.1:0"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
        try:
            eventually("the node is ready", lambda: " ready " in run("get", "nodes").stdout)
            for command in commands():
                done = run(*shlex.split(command)[1:])
                expected = next((status for part, status in EXPECTED.items() if part in command), 0)
                assert done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"
            rollouts = run("get", "rollouts").stdout
            assert rollouts.count("Healthy") == 4, rollouts
            instances = run("get", "instances", "blue-green").stdout
            assert "blue-green/web.100" in instances
        finally:
            for process in processes_in(tmp_path):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def test_every_example_is_a_strategy_and_the_page_names_it() -> None:
    names = {path.stem for path in (ROOT / "examples" / "rollouts").glob("*.yaml")}
    assert names == {"rolling", "canary", "blue-green", "recreate"}
    for name in names:
        assert f"examples/rollouts/{name}.yaml" in PAGE
