"""Logs of one or several instances, read once or followed; each line with the name of its instance in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from hsu_cluster.cli.failure import FAILED, error_lines
from hsu_cluster.cli.follow import TRANSIENT, unwrapped
from hsu_cluster.cli.log_lines import Resumption, time_of, whole_lines
from hsu_cluster.cli.session import Terminal
from hsu_cluster.cli.text import shown
from hsu_cluster.client.documents import InstanceDocument
from hsu_core.model.errors import HsuError, InvalidInput
from hsu_core.model.log_query import LogQuery

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

STREAMS_LIMIT = 100
"""Most logs read at once: each is a connection to the master and a stream of one node."""

LOOK_S = 2.0
"""How often a followed target is looked at for instances that it did not have before."""

RETRY_BASE_S = 0.2
RETRY_CEILING_S = 3.0
"""Waits before a followed log is asked for again; doubled while its node does not answer."""

PASSING = TRANSIENT | {"node.unreachable", "conflict.not-placed"}
"""Errors after which a followed log is asked for again: a master or a node that comes back."""

MANY_LINES = 100_000
"""What is asked for where everything since a time is wanted: the most that an agent gives."""

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")

Find = Callable[[], Awaitable[Sequence[InstanceDocument]]]


class LogPrinter:
    """Writes the lines of instances. Control characters are escaped on a terminal and kept in a pipe."""

    def __init__(self, terminal: Terminal, instances: Sequence[InstanceDocument]) -> None:
        self.terminal = terminal
        self._names: list[str] = []
        self._width = 0
        self.know(instances)

    def know(self, instances: Sequence[InstanceDocument]) -> None:
        """Let these be told apart from the others from now on."""
        for name in map(name_of, instances):
            if name not in self._names:
                self._names.append(name)
                self._width = max(self._width, len(name))

    def write(self, name: str, line: str) -> None:
        """Write one line of `worker.slot`."""
        from rich.text import Text

        told = shown(line, keep="\t") if self.terminal.output.is_terminal else line
        if len(self._names) < 2:
            self.terminal.lines([Text(told)])
            return
        prefix = (f"{name:<{self._width}} | ", COLOURS[self._names.index(name) % len(COLOURS)])
        self.terminal.lines([Text.assemble(prefix, told)])


def name_of(instance: InstanceDocument) -> str:
    """Return `worker.slot`."""
    return f"{instance['worker']}.{instance['slot']}"


async def print_logs(
    terminal: Terminal, cluster: ClusterClient, instances: Sequence[InstanceDocument], query: LogQuery
) -> int:
    """Print what there is of each instance; return the exit status.

    An instance whose log cannot be read is reported and does not keep the others from being shown.
    """
    _refuse_many(instances)
    printer = LogPrinter(terminal, instances)
    failures = 0
    for instance in instances:
        try:
            async for line in _lines(cluster, instance, query):
                printer.write(name_of(instance), line)
        except HsuError as error:
            failures += 1
            terminal.warn(error_lines(error))
    return FAILED if failures else 0


async def follow_logs(terminal: Terminal, cluster: ClusterClient, find: Find, query: LogQuery) -> int:
    """Print the logs of all instances that `find` returns, now and later, until none is left; return the exit status.

    A log whose node or master goes away is reported once and goes on where it was when they are back.
    """
    instances = await find()
    _refuse_many(instances)
    printer = LogPrinter(terminal, instances)
    failures: list[HsuError] = []
    running: dict[tuple[str, str | None], asyncio.Task[None]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                for instance in instances[: max(0, STREAMS_LIMIT - sum(not task.done() for task in running.values()))]:
                    key = instance["id"], instance["node"]
                    if key not in running:
                        printer.know([instance])
                        work = _follow_one(printer, cluster, instance, query, failures)
                        running[key] = group.create_task(work, name=f"log of {instance['id']}")
                if running:
                    await asyncio.wait(running.values(), timeout=LOOK_S, return_when=asyncio.ALL_COMPLETED)
                instances = await _found(find, instances)
                if all(task.done() for task in running.values()) and all(
                    (each["id"], each["node"]) in running for each in instances
                ):
                    return FAILED if failures else 0
    except BaseExceptionGroup as group_error:
        raise unwrapped(group_error) from group_error


async def _found(find: Find, before: Sequence[InstanceDocument]) -> Sequence[InstanceDocument]:
    try:
        return await find()
    except HsuError:
        return before  # a master that does not answer, or an app that was removed: its logs end by themselves


async def _follow_one(
    printer: LogPrinter,
    cluster: ClusterClient,
    instance: InstanceDocument,
    query: LogQuery,
    failures: list[HsuError],
) -> None:
    name, resumption, wait_s = name_of(instance), Resumption(), 0.0
    while True:
        since_at = resumption.begin()
        asked = LogQuery(query.tail, True, query.since_at, None, True)
        if since_at is not None:
            asked = LogQuery(MANY_LINES, True, since_at, None, True)
        try:
            async for line in _lines(cluster, instance, asked):
                wait_s = 0.0
                if resumption.is_new(line):
                    is_stamped = not query.is_timed and time_of(line) is not None
                    printer.write(name, line.partition(" ")[2] if is_stamped else line)
            return
        except HsuError as error:
            if error.code not in PASSING:
                failures.append(error)
                printer.terminal.warn(error_lines(error))
                return
            if not wait_s:
                why = shown(error.sentence).rstrip("; ")
                printer.terminal.warn([f"the log of {name} is cut, and goes on when it can be read again: {why}"])
        wait_s = min(RETRY_CEILING_S, wait_s * 2 or RETRY_BASE_S)
        await asyncio.sleep(wait_s)


def _lines(cluster: ClusterClient, instance: InstanceDocument, query: LogQuery) -> AsyncIterator[str]:
    return whole_lines(
        cluster.logs(instance["namespace"], instance["app"], instance["worker"], instance["slot"], query)
    )


def _refuse_many(instances: Sequence[InstanceDocument]) -> None:
    if len(instances) > STREAMS_LIMIT:
        raise InvalidInput(
            "read so many logs at once", f"{len(instances)} are more than {STREAMS_LIMIT}", "name a worker or a slot"
        )
