"""Runs a program of an analysis: no shell, an environment of its own, bounded output, and its group ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


async def run_program(command: Sequence[str], environment: Mapping[str, str], limit_bytes: int) -> tuple[int, bytes]:
    """Return exit code and standard output. Raises OSError if it cannot start, ValueError for too much output.

    A program that is ended by a signal is a ValueError too. When this is cancelled (its time is up), the program and
    everything it has started in its group are killed; so are those that it leaves behind. Standard error is dropped.
    """
    loop = asyncio.get_running_loop()
    program = _start(command, environment)
    assert program.stdout is not None
    reader = program.stdout.fileno()
    os.set_blocking(reader, False)
    output = bytearray()
    ended: asyncio.Future[None] = loop.create_future()

    def collect() -> None:
        with contextlib.suppress(BlockingIOError):
            while payload := os.read(reader, 65536):
                output.extend(payload[: limit_bytes + 1 - len(output)])
                if len(output) > limit_bytes:
                    end()
                    return
            loop.remove_reader(reader)  # closed by all who could write

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    pidfd = os.pidfd_open(program.pid)
    loop.add_reader(reader, collect)
    loop.add_reader(pidfd, end)
    try:
        await ended
        if len(output) <= limit_bytes:
            collect()
    finally:
        loop.remove_reader(reader)
        loop.remove_reader(pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program.pid, signal.SIGKILL)  # not reaped yet, so the group is still its own
        program.stdout.close()
        if program.poll() is None:
            loop.add_reader(pidfd, _reap, loop, program, pidfd)  # killed just now: never wait for it in the loop
        else:
            os.close(pidfd)
    if len(output) > limit_bytes:
        raise ValueError(f"it printed more than {limit_bytes // 1024} KiB and was killed")
    code = program.returncode
    if code is None or code < 0:
        raise ValueError(f"it was ended by signal {-(code or 0)}")
    return code, bytes(output)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        cwd="/",
        start_new_session=True,
        close_fds=True,
    )


def _reap(loop: asyncio.AbstractEventLoop, program: subprocess.Popen[bytes], pidfd: int) -> None:
    loop.remove_reader(pidfd)
    program.poll()
    os.close(pidfd)
