"""One process per store file: a lock on a file beside it, which ends with the process that holds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hsu_core.model.errors import StoreInUse, StoreUnavailable

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_LOCKED_BYTE = 1 << 20
"""Windows locks bytes, not files: this one lies behind the text, so others may read who holds it."""


class FileLock:
    """A held lock; the process id of the holder stands in the file."""

    def __init__(self, store_path: Path) -> None:
        """Take the lock beside `store_path`. Raises StoreInUse if another process holds it."""
        self.path = store_path.with_name(store_path.name + ".lock")
        what = f"open the store {store_path}"
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                what, f"{self.path}: {error.strerror}", "make the folder exist and be writable for this user"
            ) from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "of unknown id"
            os.close(self._descriptor)
            raise StoreInUse(
                what,
                f"process {holder} has it open, and one file serves one process",
                "stop that process, or give this one another path",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let go; the file stays, for removing it would race with the next holder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
