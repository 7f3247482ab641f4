"""What local workers were read from: the files, folders and templates, each with a stamp taken before it was read.

Standard library alone: the running agent compares stamps and never reads a manifest itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

MANIFEST_ENDINGS = (".yaml", ".yml", ".json")

Stamp = tuple[int | str, ...]
"""Of a file: when it was changed, its size and its inode; of a folder: the names of its manifests; empty: gone."""

Stamps = Mapping[str, Stamp]
"""Stamps by absolute path."""


class Sources:
    """Notes what is read. A file that is read twice keeps its first stamp: any change since is to be seen."""

    def __init__(self) -> None:
        self.stamps: dict[str, Stamp] = {}

    def note(self, path: Path) -> None:
        """Take the stamp of what is about to be read."""
        name = str(path.absolute())
        if name not in self.stamps:
            self.stamps[name] = stamp(name)


def stamp(path: str) -> Stamp:
    """Return the stamp of a file or folder as it is now."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return tuple(sorted(name for name in os.listdir(path) if name.endswith(MANIFEST_ENDINGS)))
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def look(paths: Iterable[str]) -> Stamps:
    """Return the stamps of these paths as they are now."""
    return {path: stamp(path) for path in paths}
