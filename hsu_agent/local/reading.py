"""The files of a local run, read by a child while the agent loads itself. Standard library alone.

Reading YAML and loading the agent take about as long, so a start of both together takes half the time; and what reads
YAML is not in the memory of the agent.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsu_core.model.errors import InvalidManifest


@dataclass(frozen=True, slots=True)
class Reading:
    """Files that a child reads: its number, and inherited descriptors of its answer and of what it finds wrong."""

    files: tuple[Path, ...]
    pid: int
    answer: int
    told: int

    def finish(self) -> tuple[Any, list[str]]:
        """Return (workers, warnings), as `hsu_agent.local.reader` wrote them; waits for it. Raises InvalidManifest."""
        with os.fdopen(self.answer, "rb") as stream:
            output = stream.read()
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self.told, "rb") as stream:
            stream.seek(0)
            told = stream.read().decode("utf-8", "replace").strip()
        if status != 0:
            raise InvalidManifest("read the files", told or f"the reader ended with status {status}")
        workers, warnings = pickle.loads(output)
        return workers, warnings


def begin_reading(files: Sequence[Path]) -> Reading:
    """Start a child that reads manifests; `finish` may be called after this process has executed another program."""
    answer, writer = os.pipe()
    told = os.memfd_create("faults", 0)
    try:
        command = [sys.executable, "-P", "-m", "hsu_agent.local.reader", *map(str, files)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=told)
    finally:
        os.close(writer)
    child.returncode = 0  # it is waited for by its number, after we have become another program
    os.set_inheritable(answer, True)
    return Reading(tuple(path.absolute() for path in files), child.pid, answer, told)
