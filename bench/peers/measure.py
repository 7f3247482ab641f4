"""One supervisor with N workers: every column, taken from outside."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers.drivers import Driver, Hsu
from bench.peers.workers import LINE_BYTES, Announcements, cpu_s, exact_cpu_s, memory_mb, processes

START_LIMIT_S = 180.0
"""Longest wait for all workers; PM2 takes 10 s for a thousand, more on a busy host."""

SETTLE_S = 3.0
"""Pause after a start, a mass crash and the like: supervisors count quick deaths."""

RESTART_LIMIT_S = 15.0
NUMBERED = re.compile(rb"L(\d{12}) ")

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    workers: int
    kills: int
    idle_s: float
    log_lines: int


class Run:
    """A supervisor in a folder of its own; everything of it is gone at the end."""

    def __init__(self, kind: type[Driver], base: Path, program: Path, count: int, search: str, log_lines: int = 0):
        self.mark = f"{kind.name}-{count}-{secrets.token_hex(4)}"
        self.folder = base / self.mark
        self.folder.mkdir()
        self.program = program
        self.words = Announcements(self.folder / f"said-{self.mark}")
        self.go = self.folder / "go"
        command = [str(program), str(self.words.path)]
        command += [str(log_lines), str(self.go)] if log_lines else []
        self.count = count
        self.driver = kind(self.folder, self.mark, command, count, search)

    def __enter__(self) -> Run:
        self.driver.set_up()
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(20):
            supervisors, workers = self.found()
            for pid in supervisors + workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not supervisors and not workers:
                break
            time.sleep(0.2)
        if self.driver.process is not None:
            self.driver.process.wait(10)
        self.words.close()
        if isinstance(self.driver, Hsu):
            self.driver.clean()
        shutil.rmtree(self.folder, ignore_errors=True)

    def found(self) -> tuple[list[int], list[int]]:
        """Return (supervisors, workers) that run now."""
        return processes(self.mark, self.program)

    def start(self) -> float | None:
        """Return the seconds until every worker has announced itself, None if they do not."""
        started_s = time.monotonic()
        self.driver.start()
        words = self.words.wait(self.count, START_LIMIT_S)
        return max(word.at_s for word in words) - started_s if len(words) == self.count else None

    def said(self) -> str:
        """Return the end of what the supervisor said."""
        return (self.folder / "said.txt").read_text(errors="replace")[-500:]


def measure(kind: type[Driver], plan: Plan, base: Path, program: Path, search: str) -> Figures:
    """Return every figure of a supervisor; None where it could not be had."""
    figures: Figures = {}
    with Run(kind, base, program, plan.workers, search) as run:
        figures["start_s"] = run.start()
        if figures["start_s"] is None:
            print(f"  {kind.name}: not all workers started: {run.said()}")
            return figures
        time.sleep(SETTLE_S)
        supervisors = run.found()[0]
        figures["memory_mb"] = memory_mb(supervisors)
        figures["idle_cpu_s_min"] = _idle(supervisors, plan.idle_s)
        figures |= _crashes(run, plan.kills)
        time.sleep(SETTLE_S)
        figures["mass_s"] = _mass_crash(run)
        time.sleep(SETTLE_S)
        figures["stop_s"] = _stop(run)
    with Run(kind, base, program, plan.workers, search) as run:
        if run.start() is not None:
            time.sleep(SETTLE_S)
            figures |= _death(run)
    with Run(kind, base, program, 1, search, plan.log_lines) as run:
        if run.start() is not None:
            figures |= _output(run, plan.log_lines)
    return figures


def _idle(supervisors: list[int], idle_s: float) -> float:
    before_s, started_s = exact_cpu_s(supervisors), time.monotonic()
    time.sleep(idle_s)
    return (exact_cpu_s(supervisors) - before_s) * 60 / (time.monotonic() - started_s)


def _crashes(run: Run, kills: int) -> Figures:
    """Kill workers one after another, each once."""
    workers, waits_ms, lost = run.found()[1], [], 0
    random.shuffle(workers)
    run.words.drop()
    for pid in workers[:kills]:
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        words = run.words.wait(1, RESTART_LIMIT_S)
        if words:
            waits_ms.append((words[0].at_s - killed_s) * 1000)
        else:
            lost += 1
            if lost > 2:
                break
        time.sleep(random.uniform(0.0, 0.02))
    if not waits_ms:
        return {"crash_ms": None, "crash_p99_ms": None}
    waits_ms.sort()
    return {"crash_ms": statistics.median(waits_ms), "crash_p99_ms": waits_ms[int(0.99 * (len(waits_ms) - 1))]}


def _mass_crash(run: Run) -> float | None:
    run.words.drop()
    workers = run.found()[1]
    killed_s = time.monotonic()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    words = run.words.wait(len(workers), START_LIMIT_S)
    return max(word.at_s for word in words) - killed_s if len(words) == len(workers) else None


def _stop(run: Run) -> float | None:
    asked_s = time.monotonic()
    run.driver.stop()
    return _until(lambda: not run.found()[1], 120.0, asked_s)


def _until(look: Callable[[], bool], limit_s: float, since_s: float) -> float | None:
    """Return the seconds until `look` is true, None if it is not in time."""
    while time.monotonic() - since_s < limit_s:
        if look():
            return time.monotonic() - since_s
        time.sleep(0.01)
    return None


def _death(run: Run) -> Figures:
    """Kill the supervisor: who lives on, is anybody doubled, and does a worker that then dies come back by itself?"""
    before = set(run.found()[1])
    os.kill(run.driver.main_pid(), signal.SIGKILL)
    time.sleep(SETTLE_S)
    alive = set(run.found()[1])
    figures: Figures = {"survived": float(len(before & alive)), "doubled": float(len(alive - before))}
    run.words.drop()
    for pid in list(alive)[:1]:
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        words = run.words.wait(1, RESTART_LIMIT_S)
        figures["back_ms"] = (words[0].at_s - killed_s) * 1000 if words else None
    return figures


def _output(run: Run, lines: int) -> Figures:
    """Have one worker write: until all is in files, the supervisor's processor time, and lines that are missing."""
    supervisors = run.found()[0]
    before_s = cpu_s(supervisors)
    run.go.touch()
    begun = run.words.wait(1, 30.0, "B")
    ended = run.words.wait(1, 300.0, "E")
    if not begun or not ended:
        return {"log_mb_s": None, "log_lost": None, "log_cpu_s": None}
    size = lines * LINE_BYTES
    _until(lambda: sum(path.stat().st_size for path in run.driver.outputs()) >= size, 20.0, time.monotonic())
    seen = bytearray(lines)
    for path in run.driver.outputs():
        with open(path, "rb") as stream:
            while block := stream.readlines(1 << 24):
                for line in block:
                    found = NUMBERED.search(line)
                    if found and int(found[1]) < lines:
                        seen[int(found[1])] = 1
    took_s = max(ended[0].at_s - begun[0].at_s, 1e-9)
    return {
        "log_mb_s": size / 1e6 / took_s,
        "log_lost": float(lines - sum(seen)),
        "log_cpu_s": cpu_s(supervisors) - before_s,
    }
