"""Logs of one or several instances as whole lines, each with the name of its instance in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from hsu_cluster.cli.failure import FAILED, error_lines
from hsu_cluster.cli.follow import unwrapped
from hsu_cluster.cli.session import Terminal
from hsu_cluster.cli.text import shown
from hsu_cluster.client.documents import InstanceDocument
from hsu_core.model.errors import HsuError, InvalidInput

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

STREAMS_LIMIT = 100
"""Most logs read at once: each is a connection to the master and a stream of one node."""

LINE_LIMIT = 64 * 1024
"""A longer line is written in pieces: a worker that prints no line end must not fill our memory."""

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


async def whole_lines(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the lines in a stream of chunks, without their ends; the last one may be unfinished."""
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
        while len(rest) > LINE_LIMIT:
            yield rest[:LINE_LIMIT]
            rest = rest[LINE_LIMIT:]
    if rest:
        yield rest


class LogPrinter:
    """Writes the lines of instances. Control characters are escaped on a terminal and kept in a pipe."""

    def __init__(self, terminal: Terminal, instances: Sequence[InstanceDocument]) -> None:
        self._terminal = terminal
        names = [f"{instance['worker']}.{instance['slot']}" for instance in instances]
        self._width = max(map(len, names), default=0)
        self._has_prefix = len(names) > 1
        self._colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}

    def write(self, name: str, line: str) -> None:
        """Write one line of `worker.slot`."""
        from rich.text import Text

        told = shown(line, keep="\t") if self._terminal.output.is_terminal else line
        if not self._has_prefix:
            self._terminal.lines([Text(told)])
            return
        prefix = (f"{name:<{self._width}} | ", self._colours.get(name, ""))
        self._terminal.lines([Text.assemble(prefix, told)])


async def print_logs(
    terminal: Terminal,
    cluster: ClusterClient,
    instances: Sequence[InstanceDocument],
    *,
    tail: int,
    is_following: bool,
    since_at: float | None = None,
) -> int:
    """Print the last `tail` lines of each instance, and with `is_following` all that comes; return the exit status.

    An instance whose log cannot be read is reported and does not keep the others from being shown.
    """
    if len(instances) > STREAMS_LIMIT:
        raise InvalidInput(
            "read so many logs at once", f"{len(instances)} are more than {STREAMS_LIMIT}", "name a worker or a slot"
        )
    printer = LogPrinter(terminal, instances)
    failures: list[HsuError] = []

    async def one(instance: InstanceDocument) -> None:
        name = f"{instance['worker']}.{instance['slot']}"
        try:
            chunks = cluster.logs(
                instance["namespace"],
                instance["app"],
                instance["worker"],
                instance["slot"],
                tail=tail,
                follow=is_following,
                since_at=since_at,
            )
            async for line in whole_lines(chunks):
                printer.write(name, line)
        except HsuError as error:
            failures.append(error)
            terminal.warn(error_lines(error))

    if is_following:
        try:
            async with asyncio.TaskGroup() as group:
                for instance in instances:
                    group.create_task(one(instance), name=f"log of {instance['id']}")
        except BaseExceptionGroup as group_error:
            raise unwrapped(group_error) from group_error
    else:
        for instance in instances:
            await one(instance)
    return FAILED if failures else 0
