"""Shows what workers have written, straight from their log files: it works for a busy agent as for a hung one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hsu_agent.logs.read import StreamReader


class Output:
    """The output of several instances on our stdout; each line begins with its instance if there are several."""

    def __init__(self, data_dir: Path, instances: Sequence[Mapping[str, Any]], streams: Sequence[str]) -> None:
        self._readers: list[tuple[str, StreamReader]] = []
        self._rests: dict[int, bytes] = {}
        for each in instances:
            folder = data_dir / "logs" / each["namespace"] / each["app"] / f"{each['worker']}.{each['slot']}"
            prefix = f"{each['worker']}.{each['slot']} | " if len(instances) > 1 else ""
            self._readers += [(prefix, StreamReader(folder / f"{stream}.log")) for stream in streams]

    def tail(self, lines: int) -> None:
        """Write the last lines of each stream."""
        for number, (_, reader) in enumerate(self._readers):
            self._write(number, reader.tail(lines))
            if self._rests.get(number):
                self._write(number, b"\n")

    def more(self) -> bool:
        """Write what was added; return whether there was anything."""
        has_more = False
        for number, (_, reader) in enumerate(self._readers):
            while text := reader.more():
                has_more = True
                self._write(number, text)
        return has_more

    def _write(self, number: int, text: bytes) -> None:
        prefix = self._readers[number][0].encode()
        *lines, self._rests[number] = (self._rests.get(number, b"") + text).split(b"\n")
        for line in lines:
            sys.stdout.buffer.write(prefix + line + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Close the files."""
        for _, reader in self._readers:
            reader.close()
