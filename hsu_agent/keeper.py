"""The small parent of the agent: starts it, starts it again when it dies, and keeps how orphaned workers ended.

Standard library only and nothing of ours, so that it stays small and has nothing to be upgraded for. It is the
subreaper of all workers: when the agent dies they become its children, and it writes their wait status to
`exits.jsonl` in the agent's data folder, where the next agent reads it. The agent tells the folder through an
inherited pipe (its number stands in HSU_KEEPER_PIPE); the same pipe tells the agent that its keeper has died.

It is also the guard of `guarantee: strict`: the agent tells it the cgroups of strict workers and until when its lease
lets them run. Then the keeper kills them, be the agent stopped, dead or well (`Guard`). An agent without a keeper
starts this file with `--guard` for that alone.

Exit codes of the agent: 0 clean end (the keeper ends too), 75 start me again at once, 2 a wrong command line and 78
bad configuration or host (the keeper ends with the same), anything else is a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

PIPE_VARIABLE = "HSU_KEEPER_PIPE"
ANSWERS_VARIABLE = "HSU_KEEPER_ANSWERS"
"""Number of the pipe with the guard's answers; not set by a keeper that cannot guard."""

EXIT_USAGE = 2
EXIT_RELOAD = 75
EXIT_CONFIGURATION = 78

_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED_FOR = (*_FORWARDED, signal.SIGABRT, signal.SIGCHLD, signal.SIGALRM)
_CLOCK_BOOTTIME, _TIMER_ABSTIME, _MCL_CURRENT_AND_FUTURE = 7, 1, 3

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


GUARD_MARK = b"\0"
"""Begins the lines of the pipe that are for the guard; no path of a data folder can."""

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.5
"""Waits between two kills of a group that does not empty; a process in the kernel's `D` state can take long."""

IDLE_S = 3600.0
GUARD_IDLE_S = 1.0
ORPHAN_S = 0.02
"""Longest waits for a signal: of a keeper; of a guard, to see its owner gone; then, to see its groups empty before the
next owner fills them again."""

OOM_SCORE = -900


class Guard:
    """Kills the strict workers of an agent at the end of its lease; only the agent can move that, and only forward.

    Lines of the agent, after GUARD_MARK: `until NS` (CLOCK_BOOTTIME, so that a sleep of the host counts);
    `guard N PATH` (a cgroup; answered by `N 1` if the lease is ahead, else by `N 0` and it is killed); `release PATH`.
    A lease that nobody told is over: groups of which a new keeper hears are killed.
    """

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._groups: dict[bytes, None] = {}
        self._until_ns = 0
        self._set_ns = 0
        self._pause_s = FIRST_PAUSE_S
        self._is_killing = False
        self.inherited_score: int | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.timer = self._make_timer()

    def _make_timer(self) -> ctypes.c_void_p | None:
        """Return a timer that sends SIGALRM; one whose time passes while the host sleeps does so when it wakes."""
        timer = ctypes.c_void_p()
        try:
            has_failed = self._libc.timer_create(_CLOCK_BOOTTIME, None, ctypes.byref(timer))
        except AttributeError:  # a C library before 2.34 has it elsewhere; such a keeper does not guard
            return None
        return None if has_failed else timer

    def drop_empty(self) -> bool:
        """Guard no more what has no process; return whether that was all."""
        self._groups = {group: None for group in self._groups if _is_populated(group)}
        return not self._groups

    @property
    def wait_s(self) -> float:
        """Return how long nothing has to be done, but for the signal of the timer."""
        return self._pause_s if self._is_killing else IDLE_S

    def take(self, line: bytes) -> None:
        """Obey one line of the agent."""
        word, _, rest = line.partition(b" ")
        if word == b"until" and rest.isdigit():
            self._until_ns = max(self._until_ns, int(rest))
        elif word == b"guard":
            number, _, path = rest.partition(b" ")
            self._harden()
            self._groups[path] = None
            is_ahead = time.clock_gettime_ns(_CLOCK_BOOTTIME) < self._until_ns
            with contextlib.suppress(BlockingIOError):  # nobody reads: the agent takes that for no
                os.write(self._answers, b"%b %d\n" % (number, is_ahead))
        elif word == b"release":
            self._groups.pop(rest, None)

    def fence(self) -> None:
        """Kill what is guarded if the lease is over, else have the timer ring when it is. Called after every wait."""
        if not self._groups:
            self._is_killing = False
            return
        late_ns = time.clock_gettime_ns(_CLOCK_BOOTTIME) - self._until_ns
        if late_ns < 0:
            self._is_killing = False
            self._set_timer(self._until_ns)
            return
        groups = [group for group in self._groups if _is_populated(group)]
        for group in groups:
            try:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile: nothing is in it
                    _write(group + b"/cgroup.kill", b"1")
            except OSError as error:
                _tell(f"a strict worker cannot be killed, tried again: {os.fsdecode(group)}: {error}")
        if groups and not self._is_killing:
            when = f"{late_ns / 1e6:.1f} ms ago" if self._until_ns else "before this keeper began"
            _tell(f"{len(groups)} strict workers killed: the lease of this node ended {when}")
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S) if self._is_killing else FIRST_PAUSE_S
        self._is_killing = any(map(_is_populated, groups))

    def _set_timer(self, at_ns: int) -> None:
        if at_ns == self._set_ns:
            return
        self._set_ns = at_ns
        spec = (ctypes.c_long * 4)(0, 0, *divmod(at_ns, 1_000_000_000))
        self._libc.timer_settime(self.timer, _TIMER_ABSTIME, spec, None)

    def _harden(self) -> None:
        """Before the first group: stay in memory, be killed last, be woken first; each where the host allows it."""
        if self.inherited_score is not None:
            return
        self._libc.mlockall(_MCL_CURRENT_AND_FUTURE)
        try:
            with open("/proc/self/oom_score_adj", "rb") as stream:
                self.inherited_score = int(stream.read())
            _write(b"/proc/self/oom_score_adj", b"%d" % min(OOM_SCORE, self.inherited_score))
        except OSError:
            self.inherited_score = self.inherited_score or 0
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


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
        self._answers, answer_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._guard = Guard(answer_writer)

    def run(self) -> int:
        """Keep the agent running; return the exit code of the program."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        self._start()
        while True:
            wait_s = IDLE_S if self._start_at_s is None else max(0.0, self._start_at_s - time.monotonic())
            received = signal.sigtimedwait(_WAITED_FOR, min(wait_s, self._guard.wait_s))
            if received is not None and received.si_signo in _FORWARDED:
                self._forward(received.si_signo)
            elif received is not None and received.si_signo == signal.SIGABRT:
                self._end_hung()
            self._listen()
            self._guard.fence()
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
        told = {PIPE_VARIABLE: self._writer}
        if self._guard.timer is not None:
            told[ANSWERS_VARIABLE] = self._answers
        for number in told.values():
            os.set_inheritable(number, True)
        command = _agent_command(self._arguments)
        try:
            self._agent = os.posix_spawn(
                command[0],
                command,
                os.environ | {name: str(number) for name, number in told.items()},
                setpgroup=0,  # a Ctrl-C of the terminal reaches us alone; we forward it
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
            )
            if self._guard.inherited_score is not None:  # what the guard took for itself is not the agent's
                with contextlib.suppress(OSError):
                    _write(b"/proc/%d/oom_score_adj" % self._agent, b"%d" % self._guard.inherited_score)
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
        """Read the data folder that the agent tells (one line), and what is for the guard."""
        try:
            self._told += os.read(self._reader, 65536)
        except BlockingIOError:
            return
        *lines, self._told = self._told.split(b"\n")
        for line in lines:
            if line.startswith(GUARD_MARK):
                self._guard.take(line[1:])
            else:
                self._data_dir = os.fsdecode(line)
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


def _write(path: bytes, text: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def _is_populated(group: bytes) -> bool:
    """Return whether a process is in a cgroup (True also when that cannot be read)."""
    try:
        with open(group + b"/cgroup.events", "rb", buffering=0) as stream:
            return b"populated 0" not in stream.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def guard(reader: int, answers: int) -> int:
    """Be the guard of an agent that has no keeper, and end once it has gone and nothing is left to guard.

    The agent's lines come from `reader`, the answers go to `answers`. It wakes us with SIGCHLD, as it does a keeper.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    for number in (reader, answers):
        os.set_blocking(number, False)
    found, told, is_owned = Guard(answers), b"", True
    while found.timer is not None and (is_owned or not found.drop_empty()):
        try:
            part = os.read(reader, 65536)
            is_owned = bool(part)
            *lines, told = (told + part).split(b"\n")
            for line in lines:
                found.take(line[1:])
        except BlockingIOError:
            pass
        found.fence()
        signal.sigtimedwait(_WAITED_FOR, min(GUARD_IDLE_S if is_owned else ORPHAN_S, found.wait_s))
    return 0


def main() -> int:
    """Run `hsu-agent`: `run` is kept alive, everything else goes straight to the agent."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--guard"]:
        return guard(int(arguments[1]), int(arguments[2]))
    is_run = arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments)
    if not is_run or not sys.platform.startswith("linux"):
        command = _agent_command(arguments)
        os.execv(command[0], command)
    if not sys.flags.no_site:  # once more without the installation's start-up files: a fifth less memory
        os.execv(sys.executable, [sys.executable, "-I", "-S", os.path.abspath(__file__), *arguments])
    return Keeper(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
