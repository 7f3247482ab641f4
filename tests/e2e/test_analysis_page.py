"""The commands of docs/analysis.md, typed in order with its own file; its tables are those of the program."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hsu_core.model.analysis import FIGURES
from hsu_core.model.expressions import FUNCTIONS
from hsu_core.wire.manifest import parse_manifest
from hsu_core.wire.settings import parse_master_settings
from tests.e2e.shop import alone_with_the_shop, processes_in
from tests.support.cluster import ROOT, eventually

PAGE = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the commands of the page."""
    return [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(blocks("yaml")[0])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HSU_")}
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HSU_DATA_DIR": str(tmp_path / "data")}
    program = [sys.executable, "-m", "hsu_cluster.cli.main"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
        )

    with alone_with_the_shop(), (tmp_path / "log").open("wb") as log:
        subprocess.Popen(
            [*program, "standalone", "--listen", "127.0.0.1:0"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
        try:
            eventually("the node is ready", lambda: " ready " in run("get", "nodes").stdout)
            for command in commands():
                done = run(*shlex.split(command)[1:])
                assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            assert run("rollout", "analysis", "shop").stdout.startswith("RUN")
        finally:
            for process in processes_in(tmp_path):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def test_the_files_of_the_page_are_good() -> None:
    manifest, settings = blocks("yaml")
    parsed = parse_manifest(manifest, file="shop.yaml", environment=None, read_file=None)
    assert parsed.warnings == ()
    assert [len(analysis.metrics) for analysis in parsed.spec.analyses] == [4]
    assert parse_master_settings(settings, file="/etc/hsu/master.yaml").allow_exec_analysis


def test_the_tables_are_those_of_the_program() -> None:
    assert (
        dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.split("Figures for")[1].split("\n\n## ")[0], re.M)) == FIGURES
    )
    told = re.findall(r"`(\w+)\([xy, ]+\)`", PAGE)
    assert sorted(told) == sorted(FUNCTIONS)
