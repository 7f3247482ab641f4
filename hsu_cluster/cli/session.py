"""What a command works with: the terminal, the connection and the place where its coroutine runs."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hsu_cluster.cli.connection import Connection, Flags, resolve
from hsu_cluster.cli.encode import to_json, to_yaml
from hsu_cluster.cli.text import close_to
from hsu_core.model.errors import InvalidInput
from hsu_core.model.quantity import format_duration, parse_duration
from hsu_core.runtime.settings import HostDefaults

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hsu_cluster.client.client import ClusterClient

FORMATS = ("table", "json", "yaml")


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


@dataclass(slots=True)
class Terminal:
    """Standard output and error. Colours only where a terminal shows them (NO_COLOR turns them off)."""

    output: Console = field(default_factory=lambda: _console(sys.stdout))
    errors: Console = field(default_factory=lambda: _console(sys.stderr))

    @property
    def is_live(self) -> bool:
        """Return whether output goes to a terminal that can be repainted."""
        return self.output.is_terminal and not self.output.is_dumb_terminal

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Write lines as they are: nothing is wrapped or cut."""
        for line in lines:
            self.output.print(line, soft_wrap=True)

    def warn(self, lines: Iterable[str]) -> None:
        """Write lines to standard error."""
        for line in lines:
            self.errors.print(line, soft_wrap=True)

    def document(self, document: Any, form: str, *, is_stream: bool = False) -> None:
        """Write a document as JSON or YAML; of a stream one JSON line or YAML document each."""
        if form == "json":
            text = to_json(document, indent=None if is_stream else 2)
        else:
            text = ("---\n" if is_stream else "") + to_yaml(document)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


@dataclass(slots=True)
class Session:
    """One run of the command line. `clock` gives seconds since 1970."""

    flags: Flags = field(default_factory=Flags)
    terminal: Terminal = field(default_factory=Terminal)
    clock: Callable[[], float] = time.time

    def connection(self) -> Connection:
        """Return where the cluster is. Raises InvalidInput or InvalidSettings."""
        return resolve(self.flags, os.environ, HostDefaults.detect())

    def namespace(self, given: str | None) -> str:
        """Return the namespace a command works in."""
        return given or self.connection().namespace

    def run(self, work: Callable[[ClusterClient], Awaitable[int]]) -> int:
        """Run a command's coroutine with a client and return its exit status."""
        from hsu_cluster.client.client import ClusterClient

        connection = self.connection()

        async def connected() -> int:
            async with ClusterClient(connection.server, connection.token, connection.ca_file) as cluster:
                status = await work(cluster)
                if cluster.stale_s is not None:
                    self.terminal.warn([stale_line(cluster.stale_s)])
                return status

        return asyncio.run(connected())


def stale_line(stale_s: float) -> str:
    """Return the line below what was read while the store did not answer."""
    return f"as of {format_duration(max(1.0, round(stale_s)))} ago: the store does not answer"


def check_format(form: str) -> str:
    """Return the output format, or refuse it."""
    if form not in FORMATS:
        near = close_to(form, FORMATS)
        hint = f"did you mean {near}?" if near else f"use {', '.join(FORMATS)}"
        raise InvalidInput(f"print as {form!r}", "there is no such format", hint, code="input.format")
    return form


def check_timeout(text: str) -> float:
    """Return seconds of a duration such as `90s` or `5m`."""
    return parse_duration(text)
