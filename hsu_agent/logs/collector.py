"""HSU's log collection: lines of workers that have targets are read from their raw files and handed to sinks.

It follows the raw segments, so a worker is never kept waiting by it and nothing is added to a start. The place up to
which lines were handed over is kept beside the raw files: the next agent goes on there (a line may come twice after
a kill of the agent, none is left out that is still in the segments).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from hsu_agent.host.base import Launch
from hsu_agent.logs.capture import STREAMS, Capture
from hsu_agent.logs.merge import ALL_LINES, LineCursor
from hsu_agent.logs.sinks import Sink, open_sink
from hsu_agent.planning.log_lines import LogLine, format_line, is_wanted, level_of, parse_fields, syslog_frame
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.ids import InstanceId
from hsu_core.model.logging_rules import LogRules, LogTarget, TargetKind

log = logging.getLogger(__name__)

TURN_LINES = 200
"""Lines handled before others have their turn."""

POSITION_FILE = "collected"


class LogCollector:
    """A companion (`hsu_agent.companions`): `companions.add(collector)` in the composition root, `await close()` last.

    `start` and `stop` may be called for single instances as well. Calls are made from the loop's thread.
    """

    def __init__(self, capture: Capture, data_dir: Path, master: str, tasks: asyncio.TaskGroup) -> None:
        self._capture, self._master, self._tasks = capture, master, tasks
        self._folder = data_dir / "collected"
        self._hostname = socket.gethostname()
        self._running: dict[InstanceId, tuple[LogRules, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._sinks: dict[tuple[LogTarget, Path], Sink] = {}

    # -- companion ---------------------------------------------------------------------------------

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Change nothing."""
        return launch

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Collect from now on what the rules of the order say."""
        rules = order.spec.worker.logs.rules
        if rules.targets or instance in self._running:
            self.start(instance, rules)

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Change nothing: what it wrote last is still to be read."""
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Hand over what is left and end."""
        self._end(instance)

    # -- by hand -----------------------------------------------------------------------------------

    def start(self, instance: InstanceId, rules: LogRules) -> None:
        """Collect from an instance by these rules; the same rules again change nothing."""
        present = self._running.get(instance)
        if present is not None and present[0] == rules and not present[1].done():
            return
        before = self._end(instance)
        if rules.targets:
            task = self._tasks.create_task(self._collect(instance, rules, before), name=f"collect {instance}")
            self._running[instance] = (rules, task)

    async def stop(self, instance: InstanceId) -> None:
        """Stop collecting from an instance, after what is there now."""
        task = self._end(instance)
        if task is not None:
            await asyncio.wait([task])

    async def close(self) -> None:
        """Stop all collecting and close the sinks."""
        for instance in list(self._running):
            self._end(instance)
        if self._ending:
            await asyncio.wait(set(self._ending))
        await asyncio.gather(*(sink.close() for sink in self._sinks.values()))
        self._sinks.clear()

    def _end(self, instance: InstanceId) -> asyncio.Task[None] | None:
        present = self._running.pop(instance, None)
        if present is None:
            return None
        task = present[1]
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()
        return task

    # -- the work ----------------------------------------------------------------------------------

    async def _collect(self, instance: InstanceId, rules: LogRules, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        work = _Work(self, instance, rules)
        wake = asyncio.Event()
        unfollow = self._capture.follow(instance, wake.set)
        try:
            while True:
                wake.clear()
                while work.turn():  # noqa: ASYNC110 - it works, and lets others have their turn
                    await asyncio.sleep(0)
                work.remember()
                await wake.wait()
        except (OSError, ValueError) as error:
            log.warning("%s: its lines are not collected until its next start: %s", instance, error)
        finally:
            unfollow()
            work.close()

    def sink(self, target: LogTarget, instance: InstanceId) -> Sink:
        """Return the sink of a target, one for all instances that write to the same place."""
        place = target.place.replace("{worker_id}", instance.worker)
        path = self._folder / instance.namespace / instance.app / place if target.kind is TargetKind.FILE else Path()
        key = (target if target.kind is not TargetKind.FILE else LogTarget(TargetKind.FILE), path)
        if key not in self._sinks:
            self._sinks[key] = open_sink(target, path)
        return self._sinks[key]

    @property
    def hostname(self) -> str:
        """Return the name of this host, as lines show it."""
        return self._hostname

    @property
    def master(self) -> str:
        """Return the name of this node, which HSU calls the master's id."""
        return self._master

    def log_path(self, instance: InstanceId, stream: str) -> Path:
        """Return the newest raw file of a stream."""
        return self._capture.log_path(instance, stream)


class _Work:
    """The cursors of one instance, and what is done with its lines."""

    def __init__(self, collector: LogCollector, instance: InstanceId, rules: LogRules) -> None:
        self._collector, self._instance, self._rules = collector, instance, rules
        self._position_path = collector.log_path(instance, "stdout").parent / POSITION_FILE
        self._cursors = {stream: LineCursor(collector.log_path(instance, stream)) for stream in STREAMS}
        self._line_numbers = dict.fromkeys(STREAMS, 0)
        self._sequence = 0
        self._remembered = b""
        positions = self._recall()
        for stream, cursor in self._cursors.items():
            if stream not in positions or not cursor.seek(*positions[stream]):
                cursor.place(ALL_LINES, None)

    def _recall(self) -> dict[str, tuple[int, int, float]]:
        found: dict[str, tuple[int, int, float]] = {}
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(self._position_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                for line in file.read(4096).decode().splitlines():
                    stream, inode, offset, *begun_at = line.split()
                    found[stream] = (int(inode), int(offset), float(begun_at[0]) if begun_at else 0.0)
        return found

    def remember(self) -> None:
        """Write down how far we are, if that has changed."""
        places = [(stream, *cursor.position) for stream, cursor in self._cursors.items()]
        text = "".join(
            f"{stream} {inode} {offset} {at:.6f}\n" for stream, inode, offset, at in places if inode
        ).encode()
        if text == self._remembered:
            return
        temporary = f"{self._position_path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary, flags, 0o600)
            try:
                os.write(descriptor, text)
            finally:
                os.close(descriptor)
            os.replace(temporary, self._position_path)
            self._remembered = text

    def turn(self) -> bool:
        """Handle some lines; return whether there were any."""
        taken = [line for cursor in self._cursors.values() for line in islice(cursor.lines(), TURN_LINES)]
        batches: dict[int, tuple[Sink, list[bytes]]] = {}
        for at, stream, raw in sorted(taken, key=lambda line: line[0]):
            self._line_numbers[stream] += 1
            line = self._read(at, stream, raw)
            if not is_wanted(self._rules, line.text, line.level):
                continue
            self._sequence += 1
            for target in self._rules.targets:
                if stream in target.streams:
                    body = format_line(target, line)
                    if target.kind is TargetKind.SYSLOG:
                        body = syslog_frame(line, body, self._collector.hostname)
                    sink = self._collector.sink(target, self._instance)
                    batches.setdefault(id(sink), (sink, []))[1].append(body)
        for sink, bodies in batches.values():
            sink.put(bodies)
        return bool(taken)

    def _read(self, at: float, stream: str, raw: bytes) -> LogLine:
        text = raw.decode("utf-8", "replace")
        fields = parse_fields(text) if self._rules.is_parsed else {}
        timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {
            "hostname": self._collector.hostname,
            "timestamp": timestamp,
            "sequence": self._sequence + 1,
            "line_number": self._line_numbers[stream],
            "master_id": self._collector.master,
        }
        metadata = {name: known[name] for name in self._rules.metadata}
        worker = self._instance.worker
        return LogLine(at, timestamp, worker, stream, text, fields, level_of(text, fields), metadata)

    def close(self) -> None:
        """Hand over what is there, write down how far we are, close the files."""
        with contextlib.suppress(OSError, ValueError):
            for _ in range(LAST_TURNS):
                if not self.turn():
                    break
        self.remember()
        for cursor in self._cursors.values():
            cursor.close()


LAST_TURNS = 20
"""Most turns at the end of collecting; what is left is handed over by the next agent."""
