"""The demo keeps its word: it walks to the end and leaves nothing behind, also when it is stopped half-way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.shop import alone_with_the_shop, processes_in
from tests.support.cluster import ROOT, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _start(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "demo.py"), "--gateway-port", "0", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _is_clean(folder: Path) -> bool:
    return not processes_in(folder) and list(folder.iterdir()) == []


def test_the_walk_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    with alone_with_the_shop():
        demo = _start(tmp_path)
        told, _ = demo.communicate(timeout=200)
    assert demo.returncode == 0, told
    for step in ("all 6 instances are available", "Hello from the shop", "kill -9", "back and ready after"):
        assert step in told
    assert told.rstrip().endswith("no process and no folder is left")
    assert _is_clean(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_walk_that_is_stopped_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with alone_with_the_shop():
        demo = _start(tmp_path)
        assert demo.stdout is not None
        for line in demo.stdout:
            if "shop revision 1: Progressing" in line:
                break
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert demo.returncode == 128 + number
    assert _is_clean(tmp_path)


def test_a_kept_cluster_can_be_reached_and_taken_down_as_it_says(tmp_path: Path) -> None:
    with alone_with_the_shop():
        demo = _start(tmp_path, "--keep")
        told, _ = demo.communicate(timeout=200)
        assert demo.returncode == 0, told
        server = re.search(r"server +(\S+)", told)
        token_file = re.search(r"token file +(\S+)", told)
        take_down = re.search(r"To take it down:\n +(.*)", told)
        folder = re.search(r"HSU_DATA_DIR=(\S+)", told)
        assert None not in (server, token_file, take_down, folder), told
        assert server is not None
        assert token_file is not None
        assert take_down is not None
        assert folder is not None
        environment = {**os.environ, "HSU_DATA_DIR": folder.group(1)}
        program = Path(sys.executable).with_name("hsu-cluster")
        command = [program, "get", "apps", "--server", server.group(1), "--token-file", token_file.group(1)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "shop" in listed.stdout
        subprocess.run(["sh", "-ec", take_down.group(1)], cwd=ROOT, env=environment, check=True, capture_output=True)
        eventually("nothing is left", lambda: _is_clean(tmp_path))
