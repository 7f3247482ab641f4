"""The files of a local run, read by a child while the agent loads itself. Standard library alone.

Reading YAML and loading the agent take about as long, so a start of both together takes half the time; and what reads
YAML is not in the memory of the agent.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What `hsu_agent.local.reader` found: workers and warnings, or None and every fault; and what it has read."""

    workers: Any
    warnings: Sequence[str] = ()
    told: str = ""
    stamps: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """A local run whose files a child reads: its number, and inherited descriptors of its answer and its faults."""

    files: tuple[Path, ...]
    run_duration_s: float
    is_watched: bool
    pid: int
    answer: int
    told: int

    def finish(self) -> Answer:
        """Wait for the child and return its answer."""
        with os.fdopen(self.answer, "rb") as stream:
            output = stream.read()
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self.told, "rb") as stream:
            stream.seek(0)
            told = stream.read().decode("utf-8", "replace").strip()
        workers, warnings, stamps = pickle.loads(output) if output else (None, [], {})
        if status != 0:
            return Answer(None, (), told or f"the reader ended with status {status}", stamps)
        return Answer(workers, warnings, "", stamps)


def begin_reading(files: Sequence[Path], run_duration_s: float, *, is_watched: bool) -> Reading:
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
    absolute = tuple(path.absolute() for path in files)
    return Reading(absolute, run_duration_s, is_watched, child.pid, answer, told)
