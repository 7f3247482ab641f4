"""The README's commands, in order, against a standalone cluster started as the README says."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.shop import alone_with_the_shop, processes_in
from tests.support.cluster import ROOT, eventually
from tests.tidy.test_readme import RUN_IN_ORDER, commands, how_tested

STATUSES = {"plan": (0, 2)}
"""Exit statuses besides 0: a worker of the shop that is just down is a change, too."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the examples, in which `hsu-cluster` is found; what works in it is ended."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    manifest = tmp_path / "examples" / "shop.yaml"
    manifest.write_text(manifest.read_text().replace("18080", str(port)))
    program = tmp_path / ".venv" / "bin" / "hsu-cluster"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hsu_cluster.cli.main "$@"\n')
    program.chmod(0o755)
    yield tmp_path
    for process in processes_in(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_readme_can_be_typed_in_order(folder: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HSU_")}
    environment = {**kept, "HOME": str(folder), "PWD": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment["HSU_DATA_DIR"] = str(folder / "data")
    with alone_with_the_shop():
        for command in commands():
            words = [string.Template(word).safe_substitute(environment) for word in shlex.split(command)]
            if words[0] == "export":
                environment |= dict(word.split("=", 1) for word in words[1:])
            elif words[:2] == ["hsu-cluster", "standalone"]:
                _start([*words, "--listen", "127.0.0.1:0"], folder, environment)
            elif how_tested(command) == RUN_IN_ORDER:
                done = _run(words, folder, environment)
                assert done.returncode in STATUSES.get(words[1], (0,)), (command, done.stdout, done.stderr)
        assert "no apps" in _run(["hsu-cluster", "get", "apps"], folder, environment).stdout


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = shutil.which(words[0], path=environment["PATH"])
    assert program is not None
    return subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False
    )


def _start(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    program = shutil.which(words[0], path=environment["PATH"])
    assert program == str(folder / ".venv" / "bin" / "hsu-cluster"), "the README's PATH finds it"
    with (folder / "standalone.log").open("wb") as log:
        subprocess.Popen([program, *words[1:]], cwd=folder, env=environment, stdout=log, stderr=log)
    eventually(
        "the node is ready", lambda: " ready " in _run(["hsu-cluster", "get", "nodes"], folder, environment).stdout
    )
