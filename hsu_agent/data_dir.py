"""The agent's data folder: used by one agent at a time, which it gives an identity; read whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path

from hsu_core.model.errors import Conflict, HsuError
from hsu_core.runtime.files import private_folder, write_atomically

LOCK_WAIT_S = 2.0
"""A former agent whose keeper died ends within milliseconds; more means that a second one really runs."""

READ_PAUSES_S = (0.1, 0.3, 0.6)
"""Waits before a ledger that cannot be read is given up: an agent that starts without it would end its workers."""


class LedgerUnreadable(HsuError):
    """The ledger is there and cannot be read."""

    code = "agent.ledger-unreadable"


class DataDirLock:
    """Exclusive use of a data folder: two agents would start everything twice and lose log lines."""

    def __init__(self, data_dir: Path) -> None:
        self._path = private_folder(data_dir) / "lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    os.close(self._descriptor)
                    raise Conflict(
                        f"use data folder {data_dir}",
                        f"another agent (pid {holder}) holds it",
                        "stop that one, or give this one a data_dir of its own",
                        code="agent.data-dir-in-use",
                    ) from None
                time.sleep(0.02)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another agent use the folder."""
        os.close(self._descriptor)


def read_whole(path: Path) -> bytes:
    """Return what is in a file (nothing, if there is none). Raises LedgerUnreadable."""
    for pause_s in (*READ_PAUSES_S, None):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            if pause_s is None:
                why = error.strerror or str(error)
                fix = "mend the disk or the rights of the file; workers run on, and are taken over when it can be read"
                raise LedgerUnreadable(f"read {path}", why, fix) from error
            time.sleep(pause_s)
    raise AssertionError  # the last try returns or raises


def identity(path: Path) -> str:
    """Return the identity of this agent, made once per data folder. Raises LedgerUnreadable."""
    text = read_whole(path).decode("ascii", "replace").strip()
    if text.isalnum() and text.isascii():
        return text
    text = secrets.token_hex(8)
    write_atomically(path, text.encode())
    return text
