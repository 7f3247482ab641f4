"""Shows what workers have written, straight from their log files: it works for a busy agent as for a hung one."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hsu_agent.logs.merge import Line, MergedFollower, merged_tail, stamp

Document = Mapping[str, Any]


class Output:
    """The output of several instances on our stdout, in the order of time.

    Each line begins with its instance if there are several, and with its time if that is asked for.
    """

    def __init__(
        self,
        data_dir: Path,
        streams: Sequence[str],
        lines: int,
        since_at: float | None,
        until_at: float | None,
        *,
        is_timed: bool,
    ) -> None:
        self._data_dir, self._streams = data_dir, streams
        self._lines, self._since_at, self._until_at, self._is_timed = lines, since_at, until_at, is_timed
        self._followers: dict[Path, MergedFollower] = {}

    def tail(self, instances: Sequence[Document]) -> None:
        """Write the last lines of each instance, those that have not ended too."""
        limits = self._lines, self._since_at, self._until_at
        tails = (self._named(each, merged_tail(self._folder(each), self._streams, *limits)) for each in instances)
        self._write(heapq.merge(*tails), len(instances) > 1)

    def follow(self, instances: Sequence[Document]) -> bool:
        """Write whole lines that were not written before; return whether there were any. A new instance begins with
        its last lines."""
        found: list[tuple[float, str, bytes]] = []
        for each in instances:
            folder = self._folder(each)
            follower = self._followers.get(folder)
            if follower is None:
                follower = MergedFollower(folder, self._streams, self._lines, self._since_at)
                self._followers[folder] = follower
            found += self._named(each, follower.more())
        self._write(sorted(found, key=lambda line: line[0]), len(instances) > 1)
        return bool(found)

    def _folder(self, each: Document) -> Path:
        return Path(self._data_dir, "logs", each["namespace"], each["app"], name_of(each))

    @staticmethod
    def _named(each: Document, lines: Iterable[Line]) -> Iterable[tuple[float, str, bytes]]:
        return ((at, name_of(each), line) for at, _, line in lines)

    def _write(self, lines: Iterable[tuple[float, str, bytes]], has_names: bool) -> None:
        for at, name, line in lines:
            prefix = f"{stamp(at)} " if self._is_timed else ""
            prefix += f"{name} | " if has_names else ""
            sys.stdout.buffer.write(prefix.encode() + line + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Close the files."""
        for follower in self._followers.values():
            follower.close()


def name_of(each: Document) -> str:
    """Return the short name of an instance within its app."""
    return f"{each['worker']}.{each['slot']}"


def left_behind(data_dir: Path, names: Sequence[str]) -> list[Document]:
    """Return the instances that have output below a data folder, for a host whose agent does not run."""
    found: list[Document] = []
    for folder in sorted((data_dir / "logs").glob("*/*/*.*")):
        worker, _, slot = folder.name.rpartition(".")
        namespace, app = folder.parts[-3:-1]
        own = {worker, folder.name, f"{app}/{worker}", f"{app}/{folder.name}"}
        if slot.isdigit() and folder.is_dir() and (not names or own & set(names)):
            found.append({"namespace": namespace, "app": app, "worker": worker, "slot": int(slot)})
    return found
