"""A check that runs a command: passes when it ends with 0. No shell, bounded output, killed with its group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hsu_agent.host import oom
from hsu_agent.planning.health import Outcome

OUTPUT_LIMIT_BYTES = 4096
"""Most that is kept of the command's output for the reason; the rest is read and dropped."""

FLOOD_LIMIT_BYTES = 16 * 1024 * 1024
"""Output at which a command is killed: reading on would cost the agent more than any check is worth."""


@dataclass(slots=True)
class _Output:
    """What a command wrote: the beginning, and how many bytes in all."""

    kept: bytearray = field(default_factory=bytearray)
    count: int = 0

    @property
    def is_flood(self) -> bool:
        """Return whether it wrote more than any check has to say."""
        return self.count > FLOOD_LIMIT_BYTES


async def check_exec(command: Sequence[str], environment: Mapping[str, str], directory: str) -> Outcome:
    """Return whether the command ends with 0. When cancelled (time is up) its process group is killed."""
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(writer, True)
        started = subprocess.Popen(  # noqa: ASYNC220 - vfork + exec takes under a millisecond
            list(command),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
            close_fds=False,
        )
    except (OSError, ValueError) as error:
        os.close(reader)
        return Outcome(False, f"exec {command[0] if command else ''}: {error}")
    finally:
        os.close(writer)
    started.returncode = 0  # reaped through its pidfd below
    oom.unprotect(started.pid)
    output = _Output()
    ended: asyncio.Future[None] = loop.create_future()
    pidfd = os.pidfd_open(started.pid)
    loop.add_reader(reader, _collect, loop, reader, output, ended)
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        loop.remove_reader(reader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(started.pid, signal.SIGKILL)  # not reaped yet, so the group is still its own
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - does not wait
        if found is None:
            loop.add_reader(pidfd, _reap, loop, pidfd)  # killed just now: never wait for it in the loop
        else:
            os.close(pidfd)
        _collect(loop, reader, output, ended)
        os.close(reader)
    if output.is_flood:
        return Outcome(False, f"exec {command[0]}: wrote more than {FLOOD_LIMIT_BYTES // 1024**2} MiB and was killed")
    assert found is not None
    is_passed = found.si_code == os.CLD_EXITED and found.si_status == 0
    if is_passed:
        return Outcome(True, "exec: 0")
    tail = output.kept.decode("utf-8", "replace").strip().splitlines()[-1:]
    how = f"code {found.si_status}" if found.si_code == os.CLD_EXITED else f"signal {found.si_status}"
    return Outcome(False, f"exec {command[0]}: {how}" + (f": {tail[0][:200]}" if tail else ""))


def _reap(loop: asyncio.AbstractEventLoop, pidfd: int) -> None:
    loop.remove_reader(pidfd)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    os.close(pidfd)


def _collect(loop: asyncio.AbstractEventLoop, reader: int, output: _Output, ended: asyncio.Future[None]) -> None:
    try:
        payload = os.read(reader, 65536)
    except BlockingIOError:
        return
    if not payload:
        loop.remove_reader(reader)
    output.count += len(payload)
    output.kept += payload[: max(0, OUTPUT_LIMIT_BYTES - len(output.kept))]
    if output.is_flood and not ended.done():
        ended.set_result(None)
