"""One way to start a process of a worker: its program, its hooks, its commands of probes. Vfork, exec, own session."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from hsu_agent.host import oom
from hsu_agent.host.attributes import Identity, wrap
from hsu_core.model.attributes import NO_ATTRIBUTES, ProcessAttributes


def start_process(
    argv: Sequence[str],
    *,
    executable: str | None = None,
    environment: Mapping[str, str],
    directory: str,
    stdout: int,
    stderr: int,
    attributes: ProcessAttributes = NO_ATTRIBUTES,
    identity: Identity | None = None,
    guarded_by: tuple[str, float] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process with an empty input. Raises OSError, ValueError, ProcessError.

    It is reaped by its pidfd, not by the returned object. One with attributes is for some milliseconds the launcher
    that sets them, and reads what to do from descriptor 0; so is one with `guarded_by`, a cgroup that it enters, and a
    time of CLOCK_BOOTTIME until which it may become its program.
    """
    source: int = subprocess.DEVNULL
    if not attributes.is_empty or guarded_by is not None:
        program = executable or _found(argv[0], environment)
        wrapped = wrap(argv, program, environment, attributes, identity, guarded_by)
        argv, executable, environment = wrapped.argv, wrapped.executable, wrapped.environment
        source = _file_of(wrapped.instructions)
    try:
        started = subprocess.Popen(
            list(argv),
            executable=executable,
            env=dict(environment),
            cwd=directory,
            stdin=source,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            close_fds=False,  # all our descriptors are close-on-exec; closing thousands one by one is slow
        )
    finally:
        if source >= 0:
            os.close(source)
    started.returncode = 0
    if attributes.oom_score_adj is None:
        oom.unprotect(started.pid)
    return started


def _found(program: str, environment: Mapping[str, str]) -> str:
    return shutil.which(program, path=environment.get("PATH")) or program


def _file_of(content: bytes) -> int:
    """Return the descriptor of a file in memory, at its beginning."""
    descriptor = os.memfd_create("hsu-launch", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
