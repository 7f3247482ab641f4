"""The agent's line to its guard, who ends strict workers at the end of the lease whatever becomes of the agent.

The guard is the keeper (`hsu_agent.keeper.Guard` has the words). An agent that has none, inside
`hsu-cluster standalone`, starts one for itself when the first strict worker needs it. Decides nothing: that is
`hsu_agent.fence`.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from typing import Protocol

from hsu_agent import keeper

log = logging.getLogger(__name__)

ANSWER_S = 1.0
"""Longest wait for the guard's answer; it takes well below a millisecond unless the guard is stopped."""


class GuardGone(Exception):
    """There is no guard, or it does not answer."""


class Guard(Protocol):
    """Ends groups of processes at the end of a lease."""

    def push(self, until_s: float) -> None:
        """Move the end of the lease (CLOCK_BOOTTIME) forward. Raises GuardGone."""

    def hold(self, group: str) -> bool:
        """Have a cgroup guarded; False: the lease is over, and what is in it is killed. Raises GuardGone."""

    def release(self, group: str) -> None:
        """Guard a cgroup no more: nothing is in it, or it is not strict any more. Raises GuardGone."""

    @property
    def is_there(self) -> bool:
        """Return whether the guard lives."""

    def close(self) -> None:
        """Speak to the guard no more; it goes on by itself."""


class KeeperGuard:
    """The guard at the other end of two pipes, in the process `pid`."""

    def __init__(self, writer: int, answers: int, pid: int) -> None:
        self._writer = writer
        self._answers = answers
        self._pid = pid
        self._asked = time.time_ns()  # an earlier agent's answers may still be on their way: never the same numbers

    def push(self, until_s: float) -> None:
        """Move the end of the lease forward."""
        self._tell("until", str(int(until_s * 1e9)))

    def hold(self, group: str) -> bool:
        """Have a group guarded, and wait for the guard's word that it is."""
        self._asked += 1
        self._tell("guard", str(self._asked), group)
        deadline_s, told = time.monotonic() + ANSWER_S, b""
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        while (left_s := deadline_s - time.monotonic()) > 0 and ready.poll(left_s * 1000):
            part = os.read(self._answers, 4096)
            if not part:
                break
            *lines, told = (told + part).split(b"\n")
            for line in lines:
                number, _, is_held = line.partition(b" ")
                if number == b"%d" % self._asked:
                    return is_held == b"1"
        raise GuardGone(f"process {self._pid} has not answered within {ANSWER_S:g} s")

    def release(self, group: str) -> None:
        """Guard a group no more."""
        self._tell("release", group)

    @property
    def is_there(self) -> bool:
        """Return whether the keeper lives: it is our parent then."""
        return os.getppid() == self._pid

    def close(self) -> None:
        """Leave the pipes as they are: the next agent's are the same."""

    def _tell(self, *words: str) -> None:
        line = keeper.GUARD_MARK + os.fsencode(" ".join(words)) + b"\n"
        if len(line) > select.PIPE_BUF:
            raise GuardGone(f"{line[:80]!r}... is too long for it")
        try:
            os.write(self._writer, line)
            os.kill(self._pid, signal.SIGCHLD)  # it looks at the pipe whenever it is signalled
        except OSError as error:
            raise GuardGone(f"process {self._pid} cannot be told: {error}") from error


class OwnGuard:
    """A guard that is started when it is needed, and again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: KeeperGuard | None = None
        self._descriptors: tuple[int, ...] = ()
        self._until_s = 0.0

    def push(self, until_s: float) -> None:
        """Move the end of the lease forward; one that guards nothing yet is told when it does."""
        self._until_s = max(self._until_s, until_s)
        if self._line is not None:
            self._line.push(until_s)

    def hold(self, group: str) -> bool:
        """Have a group guarded by a living guard."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._line is not None
        return self._line.hold(group)

    def release(self, group: str) -> None:
        """Guard a group no more."""
        if self._line is not None:
            self._line.release(group)

    def _start(self) -> None:
        self.close()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        answers, answer_writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, "--guard", str(reader), str(answer_writer)],
                pass_fds=(reader, answer_writer),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError as error:
            os.close(writer)
            os.close(answers)
            raise GuardGone(f"it cannot be started: {error}") from error
        finally:
            os.close(reader)
            os.close(answer_writer)
        os.set_blocking(writer, False)
        self._descriptors = writer, answers
        self._line = KeeperGuard(writer, answers, self._process.pid)
        if self._until_s:
            self._line.push(self._until_s)

    @property
    def is_there(self) -> bool:
        """Return whether one runs; if none does, nothing is guarded that it could end."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Leave it: it ends once what it guards has ended."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._line = (), None


def take_keeper(writer: int, number: str, pid: int) -> KeeperGuard | None:
    """Return the guard in our keeper, None if that is of a release that cannot guard and names no pipe for answers."""
    if not number.isdigit():
        return None
    os.set_inheritable(int(number), False)
    return KeeperGuard(writer, int(number), pid)
