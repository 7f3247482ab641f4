"""The commands of docs/analysis.md, typed in order with its own file; its tables are those of the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hsu_core.model.analysis import FIGURES
from hsu_core.model.expressions import FUNCTIONS
from hsu_core.wire.manifest import parse_manifest
from hsu_core.wire.settings import parse_master_settings
from tests.e2e.pages import blocks, commands, read_page, standalone_in
from tests.e2e.shop import alone_with_the_shop

PAGE = read_page("analysis.md")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(blocks(PAGE, "yaml")[0])
    with alone_with_the_shop(), standalone_in(tmp_path) as run:
        for command in commands(PAGE):
            done = run(*shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert run("rollout", "analysis", "shop").stdout.startswith("RUN")


def test_the_files_of_the_page_are_good() -> None:
    manifest, settings = blocks(PAGE, "yaml")
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
