"""The commands of docs/migrate.md, typed in order, section by section, with the files of the page."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hsu_agent.local.commands import add_commands
from hsu_agent.local.options import add_local_run
from tests.support.cluster import ROOT

PAGE = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
PATIENCE_S = 30.0
WITHOUT_AGENT = ("validate", "convert")
ECOSYSTEM = "module.exports = {apps: [{name: 'api', script: 'api.js', cwd: __dirname}]}\n"


def files(section: str) -> dict[str, str]:
    """Return the files of a section: a name in a line of its own, and a block below it."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```(?:ini|json|text)\n(.*?)^```", section, re.DOTALL | re.MULTILINE))


def commands(section: str) -> list[str]:
    """Return the commands of a section."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _type(words: list[str], folder: Path, target: str) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, env=_environment())
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    if target:
        (folder / target).write_text(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.split("\n")[0].strip("# "))
def test_a_section_can_be_typed_in_order(section: str, tmp_path: Path) -> None:
    assert commands(section)
    for name, text in {**files(section), "ecosystem.config.js": ECOSYSTEM}.items():
        (tmp_path / name).write_text(text)
    agent: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="hsu-", dir="/tmp") as short:
        for command in commands(section):
            written, _, target = command.removesuffix(" &").partition(" > ")
            words = shlex.split(written)
            if words[0] == "node" and shutil.which("node") is None:
                (tmp_path / target).write_text('{"apps": [{"name": "api", "script": "api.js", "cwd": "/"}]}')
                continue
            if words[0] == "hsu-agent":
                words = [sys.executable, "-m", "hsu_agent.keeper", *words[1:]]
                if words[3] not in WITHOUT_AGENT:
                    words += ["--data-dir", f"{short}/data"]
            if command.endswith(" &"):
                agent = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, env=_environment())
                _wait_until_well(tmp_path, f"{short}/data")
            else:
                _type(words, tmp_path, target)
        assert agent is None or agent.wait(30) == 0


def _wait_until_well(folder: Path, data_dir: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    status = [sys.executable, "-m", "hsu_agent.keeper", "status", "--data-dir", data_dir]
    while subprocess.run(status, cwd=folder, capture_output=True, timeout=60, env=_environment()).returncode:
        assert time.monotonic() < deadline_s, "the workers of the page are not well"


def test_every_section_has_an_agent_of_its_own() -> None:
    assert [any(command.endswith(" &") for command in commands(each)) for each in SECTIONS] == [False, True, True, True]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`hsu-agent ([^`]+)`", PAGE))))
def test_commands_in_the_text_exist(command: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add_commands(commands)
    add_local_run(commands.add_parser("run"))
    options = parser.parse_args(shlex.split(command.replace("FILE...", "FILE")))
    assert options.command == command.split()[0]
