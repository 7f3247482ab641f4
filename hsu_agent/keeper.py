"""The small parent of the agent: starts it, starts it again when it dies, and keeps how orphaned workers ended.

Standard library only and nothing of ours, so that it stays small and has nothing to be upgraded for. It is the
subreaper of all workers: when the agent dies they become its children, and it writes their wait status to
`exits.jsonl` in the agent's data folder, where the next agent reads it. The agent tells the folder through an
inherited pipe (its number stands in HSU_KEEPER_PIPE); the same pipe tells the agent that its keeper has died.

Exit codes of the agent: 0 clean end (the keeper ends too), 75 start me again at once, 2 a wrong command line and 78
bad configuration or host (the keeper ends with the same), anything else is a crash.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PIPE_VARIABLE = "HSU_KEEPER_PIPE"
EXIT_USAGE = 2
EXIT_RELOAD = 75
EXIT_CONFIGURATION = 78

_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED_FOR = (*_FORWARDED, signal.SIGABRT, signal.SIGCHLD)

HEALTHY_S = 10.0
"""An agent that ran this long is started again at once, whatever happened before."""

BACKOFF_BASE_S = 0.1
BACKOFF_CEILING_S = 10.0
"""The first restart is at once, the next ones wait: an agent that cannot start must not burn a core."""

RECORD_LIMIT_BYTES = 1024 * 1024
"""The record of exits starts anew at this size: the agent reads only its end."""

PENDING_LIMIT = 10_000
"""Exits kept in memory until the agent has told where its data folder is."""


def _agent_command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "hsu_agent.commands", *arguments]


class Keeper:
    """One agent and the orphans of its predecessors."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._agent = 0
        self._started_s = 0.0
        self._crashes = 0
        self._is_stopping = False
        self._start_at_s: float | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._told = b""
        self._data_dir = ""
        self._pending: list[str] = []

    def run(self) -> int:
        """Keep the agent running; return the exit code of the program."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        self._start()
        while True:
            wait_s = 3600.0 if self._start_at_s is None else max(0.0, self._start_at_s - time.monotonic())
            received = signal.sigtimedwait(_WAITED_FOR, wait_s)
            if received is not None and received.si_signo in _FORWARDED:
                self._forward(received.si_signo)
            elif received is not None and received.si_signo == signal.SIGABRT:
                self._end_hung()
            self._listen()
            code = self._reap()
            if code is not None:
                return code
            if self._is_stopping and not self._agent:
                return 0
            if self._start_at_s is not None and time.monotonic() >= self._start_at_s:
                self._start()

    def _start(self) -> None:
        self._start_at_s = None
        self._started_s = time.monotonic()
        os.set_inheritable(self._writer, True)
        command = _agent_command(self._arguments)
        try:
            self._agent = os.posix_spawn(
                command[0],
                command,
                os.environ | {PIPE_VARIABLE: str(self._writer)},
                setpgroup=0,  # a Ctrl-C of the terminal reaches us alone; we forward it
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
            )
        except OSError as error:  # an installation that is being replaced, a full table of processes: it passes
            wait_s = self._start_later()
            _tell(f"the agent cannot be started: {error}; tried again in {wait_s:.1f} s")

    def _forward(self, number: int) -> None:
        self._is_stopping = self._is_stopping or number != signal.SIGHUP
        if self._agent:
            os.kill(self._agent, number)  # our child and not reaped: the number is its own

    def _end_hung(self) -> None:
        """End with the agent: the watchdog of systemd has missed its beats and now waits for our end, to start anew.

        The agent must go too: hung, it would still hold the data folder, and the next one could not have it.
        """
        _tell("the watchdog has not heard of the agent: it is killed; workers run on")
        self._is_stopping = True
        if self._agent:
            os.kill(self._agent, signal.SIGKILL)

    def _listen(self) -> None:
        """Read the data folder that the agent tells (one line)."""
        try:
            self._told += os.read(self._reader, 65536)
        except BlockingIOError:
            return
        *lines, self._told = self._told.split(b"\n")
        if lines:
            self._data_dir = os.fsdecode(lines[-1])
            self._write()

    def _reap(self) -> int | None:
        """Reap everybody that ended; return the exit code if the agent's end is ours."""
        code: int | None = None
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            session, start = _identity(found.si_pid)
            _, status, used = os.wait4(found.si_pid, 0)
            if found.si_pid == self._agent:
                code = self._agent_ended(status)
            elif session == found.si_pid:  # only first processes of a session can be workers
                text = '{"pid": %d, "start": %d, "status": %d, "at": %.3f, "cpu": %.6f, "rss": %d}\n'
                cpu_s, memory = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
                self._pending.append(text % (found.si_pid, start, status, time.time(), cpu_s, memory))
        self._listen()
        self._write()
        return code

    def _agent_ended(self, status: int) -> int | None:
        self._agent = 0
        code = os.waitstatus_to_exitcode(status)
        if code in (0, EXIT_USAGE, EXIT_CONFIGURATION):
            return code
        if self._is_stopping:
            return 128 - code if code < 0 else code
        ran_s = time.monotonic() - self._started_s
        if code == EXIT_RELOAD or ran_s >= HEALTHY_S:
            self._crashes = 0
        wait_s = self._start_later()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        if code != EXIT_RELOAD:
            _tell(f"the agent ended with {how}; started again in {wait_s:.1f} s")
        return None

    def _start_later(self) -> float:
        """Count a crash and set the time of the next start; return the wait."""
        wait_s = min(BACKOFF_CEILING_S, BACKOFF_BASE_S * 2 ** (self._crashes - 1)) if self._crashes else 0.0
        self._crashes = min(self._crashes + 1, 20)
        self._start_at_s = time.monotonic() + wait_s
        return wait_s

    def _write(self) -> None:
        del self._pending[:-PENDING_LIMIT]
        if not self._pending or not self._data_dir:
            return
        path = os.path.join(self._data_dir, "exits.jsonl")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size > RECORD_LIMIT_BYTES:
                    os.ftruncate(descriptor, 0)
                os.write(descriptor, "".join(self._pending).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            _tell(f"cannot write {path}: {error}")
            return
        self._pending.clear()


def _tell(text: str) -> None:
    print(f"hsu-agent: {text}", file=sys.stderr, flush=True)


def _identity(pid: int) -> tuple[int, int]:
    """Return (session, start time in ticks) of a process that has ended and is not reaped yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            text = stream.read()
        fields = text[text.rfind(b")") + 2 :].split()
        return int(fields[3]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0, 0


def main() -> int:
    """Run `hsu-agent`: `run` is kept alive, everything else goes straight to the agent."""
    arguments = sys.argv[1:]
    is_run = arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments)
    if not is_run or not sys.platform.startswith("linux"):
        command = _agent_command(arguments)
        os.execv(command[0], command)
    if not sys.flags.no_site:  # once more without the installation's start-up files: a fifth less memory
        os.execv(sys.executable, [sys.executable, "-I", "-S", os.path.abspath(__file__), *arguments])
    return Keeper(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
