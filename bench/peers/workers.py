"""The worker of the measurements, what it announces, and how processes of a run are found from outside."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void say(const char *pipe, char kind, long long number) {
  struct timespec now; clock_gettime(CLOCK_MONOTONIC, &now);
  char line[100];
  int length = snprintf(line, sizeof line, "%c %lld %d %lld\n", kind,
                        now.tv_sec * 1000000000LL + now.tv_nsec, (int)getpid(), number);
  int target = open(pipe, O_WRONLY | O_NONBLOCK);
  if (target < 0) return;
  while (write(target, line, length) < 0 && errno == EAGAIN) usleep(500);
  close(target);
}
/* worker PIPE [LINES GO]: announces itself; with LINES it writes so many numbered lines once GO is there */
int main(int count, char **arguments) {
  if (count < 2) return 2;
  say(arguments[1], 'S', 0);
  if (count > 3) {
    long long lines = atoll(arguments[2]);
    char done[300]; snprintf(done, sizeof done, "%s.done", arguments[3]);
    while (access(arguments[3], F_OK)) usleep(2000);
    if (!access(done, F_OK)) for (;;) pause();
    close(open(done, O_CREAT | O_WRONLY, 0600));
    say(arguments[1], 'B', lines);
    static char block[64000];
    memset(block, 'x', sizeof block);
    for (long long at = 0; at < lines;) {
      int used = 0;
      for (; used + 100 <= (int)sizeof block && at < lines; used += 100, at++) {
        char *line = block + used;
        line[sprintf(line, "L%012lld", at)] = ' ';
        line[99] = '\n';
      }
      for (int sent = 0; sent < used;) {
        ssize_t written = write(1, block + sent, used - sent);
        if (written > 0) sent += written;
        else if (errno != EINTR && errno != EAGAIN) { say(arguments[1], 'X', errno); return 3; }
      }
    }
    say(arguments[1], 'E', lines);
  }
  for (;;) pause();
}
"""

LINE_BYTES = 100
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Word:
    """What a worker announced: `S` it runs, `B` and `E` its output begins and has ended, `X` it was refused."""

    kind: str
    at_s: float
    pid: int
    number: int


def build(folder: Path) -> Path:
    """Compile the worker. Raises SystemExit where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("bench: a C compiler (cc) is needed for the worker; install gcc")
    (folder / "worker.c").write_text(SOURCE)
    program = folder / "bench-worker"
    for options in (["-O2", "-static"], ["-O2"]):
        if (
            subprocess.run([compiler, *options, "-o", program, folder / "worker.c"], capture_output=True).returncode
            == 0
        ):
            return program
    raise SystemExit("bench: the worker cannot be compiled")


class Announcements:
    """The named pipe on which workers announce themselves."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def _read(self, wait_s: float) -> list[Word]:
        if not select.select([self._pipe], [], [], max(0.0, wait_s))[0]:
            return []
        *lines, self._rest = (self._rest + os.read(self._pipe, 1 << 20)).split(b"\n")
        words = [line.decode().split() for line in lines]
        return [Word(kind, int(at) / 1e9, int(pid), int(number)) for kind, at, pid, number in words]

    def drop(self) -> None:
        """Forget what was announced until now."""
        while self._read(0.0):
            pass

    def wait(self, count: int, within_s: float, kind: str = "S") -> list[Word]:
        """Return the next announcements of a kind, fewer if time is up."""
        found: list[Word] = []
        deadline_s = time.monotonic() + within_s
        while len(found) < count and time.monotonic() < deadline_s:
            found += [word for word in self._read(deadline_s - time.monotonic()) if word.kind == kind]
        return found

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._pipe)


def processes(mark: str, program: Path) -> tuple[list[int], list[int]]:
    """Return (supervisors, workers): whose environment has our mark, and those of them that run the worker."""
    supervisors, workers, needle = [], [], f"BENCH_RUN={mark}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.readlink(f"/proc/{entry}/exe") == str(program):
                if mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                    workers.append(int(entry))
            elif needle in Path(f"/proc/{entry}/environ").read_bytes():
                supervisors.append(int(entry))
        except OSError:
            continue  # it ended meanwhile
    return supervisors, workers


def memory_mb(pids: list[int]) -> float:
    """Return the memory of processes without what they share with others counted twice (PSS)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def cpu_s(pids: list[int]) -> float:
    """Return the processor time of processes and of the children that they have reaped."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS_S


def exact_cpu_s(pids: list[int]) -> float:
    """Return the processor time of living processes to the nanosecond, without that of their children."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except OSError:
                continue
    return total / 1e9
