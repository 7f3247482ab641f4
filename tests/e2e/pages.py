"""What the tests of pages share: the commands of a page, and a standalone cluster to type them at."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.e2e.shop import processes_in
from tests.support.cluster import ROOT, eventually

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def read_page(name: str) -> str:
    """Return the text of a page of `docs`."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    """Return the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Return the commands of a page, in order."""
    return [line.strip() for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


@contextmanager
def standalone_in(folder: Path) -> Iterator[Run]:
    """Run a standalone cluster whose user lives in `folder`; give what types `hsu-cluster` commands there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HSU_")}
    environment = {**kept, "HOME": str(folder), "PYTHONPATH": str(ROOT), "HSU_DATA_DIR": str(folder / "data")}
    program = [sys.executable, "-m", "hsu_cluster.cli.main"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False
        )

    with (folder / "log").open("wb") as log:
        subprocess.Popen(
            [*program, "standalone", "--listen", "127.0.0.1:0"], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            eventually("the node is ready", lambda: " ready " in run("get", "nodes").stdout)
            yield run
        finally:
            for process in processes_in(folder):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
