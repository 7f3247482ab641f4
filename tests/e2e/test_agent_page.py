"""The commands of docs/agent.md, typed in order with its own file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from hsu_core.wire.manifest import parse_manifest
from tests.support.cluster import ROOT

PAGE = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8")
PATIENCE_S = 30.0


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the commands of the page."""
    return [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(blocks("yaml")[0])
    agent: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="hsu-", dir="/tmp") as short:
        for command in commands():
            words = [sys.executable, "-m", "hsu_agent.keeper", *shlex.split(command.removesuffix(" &"))[1:]]
            if words[3] not in ("validate", "convert", "schema"):
                words += ["--data-dir", f"{short}/data"]
            if command.endswith(" &"):
                agent = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, env=_environment())
                _wait_until_well(words, tmp_path, f"{short}/data")
            else:
                done = subprocess.run(
                    words, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=_environment()
                )
                assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert agent is not None
        assert agent.wait(30) == 0


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _wait_until_well(run: list[str], folder: Path, data_dir: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    status = [*run[:3], "status", "--data-dir", data_dir]
    while subprocess.run(status, cwd=folder, capture_output=True, timeout=60, env=_environment()).returncode:
        assert time.monotonic() < deadline_s, "the workers of the page are not well"


@pytest.mark.parametrize("number", range(1, len(blocks("yaml"))))
def test_the_keys_of_the_page_are_read(number: int) -> None:
    keys = yaml.safe_load(blocks("yaml")[number])
    unit = {"managed": {"control": {"execution": {"executable_path": "/bin/true"}}}}
    others = [{"id": name, "unit": unit} for name in keys.get("depends_on", {})]
    text = yaml.safe_dump({"workers": [*others, {"id": "web", "unit": unit, **keys}]})
    parsed = parse_manifest(text, file="shop.yaml", environment={}, read_file=None)
    assert not parsed.warnings
