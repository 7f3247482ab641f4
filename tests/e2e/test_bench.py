"""The comparison of supervisors measures every column of ours, and leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ROOT


def marked() -> list[int]:
    """Return processes that a measurement has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"\0BENCH_RUN=hsu-agent-" in b"\0" + entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="needs a C compiler")
def test_every_column_has_a_figure(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    quick = ["--kills", "2", "--idle", "0.2", "--log-mb", "2", "--json", str(figures)]
    command = [sys.executable, str(ROOT / "bench" / "supervisors.py"), "--workers", "3", "--only", "hsu-agent", *quick]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | {"TMPDIR": "/tmp"})
    assert done.returncode == 0, done.stderr
    ours = json.loads(figures.read_text())["3"]["hsu-agent"]
    assert [name for name, value in ours.items() if value is None] == []
    assert (ours["log_lost"], ours["survived"], ours["doubled"]) == (0, 3, 0)
    assert "memory MB" in done.stdout
    assert marked() == []
