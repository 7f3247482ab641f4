"""What the agent must not forget: orders, specifications, and which processes it started.

One append-only file of JSON lines, read once at start and compacted by writing a new one beside it. A torn
last line is dropped, a damaged one skipped. The intent to start stands in it before the start, so that a
process whose start was not written any more is recognised by its run number. No sync of single lines: they
matter when the agent dies, and a host that goes down takes the processes along.

A file that cannot be read at all is never taken for an empty one: its agent ends, its workers run on.

A disk that refuses does not stop supervision: the live records are in memory, and are written anew as soon
as it lets us.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsu_agent.data_dir import identity, read_whole
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import Assignment, LastExit
from hsu_core.model.errors import HsuError
from hsu_core.model.ids import InstanceId
from hsu_core.model.order import OrderSpec
from hsu_core.runtime.ambient import REAL, Ambient
from hsu_core.runtime.files import private_folder, write_atomically
from hsu_core.wire.codec import from_plain, to_plain

log = logging.getLogger(__name__)

COMPACT_BYTES = 1024 * 1024
"""The file is written anew when this much, and as much as is alive, has been added."""

REVISION_KEPT_S = 30.0
"""How often the store revision that was heard of is written while nothing else changes; a loss of some is harmless."""

RETRY_S = 1.0
"""Pause after a refused write before the disk is asked again."""

Plain = dict[str, Any]

_UNREADABLE = (HsuError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(slots=True)
class Run:
    """The latest start of an instance. `process` None: it was intended, and nothing more is known.

    `state` is empty while it may be running, else what the end came to (`failed`, `stopped`, `restarting`).
    """

    instance: InstanceId
    run: str
    order: Desired
    spec_key: str
    restarts: int = 0
    failures: int = 0
    process: Process | None = None
    is_started: bool = True
    is_ready: bool = False
    state: str = ""
    last_exit: LastExit | None = None


@dataclass(slots=True)
class Remembered:
    """What was in the ledger when it was opened. `unreadable`: instances of which something is left out."""

    orders: dict[InstanceId, Desired] = field(default_factory=dict)
    runs: dict[InstanceId, Run] = field(default_factory=dict)
    unreadable: set[InstanceId] = field(default_factory=set)


class Ledger:
    """The open ledger; `agent` is the identity that marks this agent's processes."""

    def __init__(self, data_dir: Path, ambient: Ambient = REAL) -> None:
        self._monotonic = ambient.monotonic
        folder = private_folder(data_dir / "ledger")
        self._path = folder / "journal.jsonl"
        self.agent = identity(folder / "agent-id")
        self.incarnation = ""
        self.term = 0
        self.revision = 0
        """The highest store revision of this incarnation that was heard of."""

        self._revision_due_s = 0.0
        self._specs: dict[str, Plain] = {}
        self._orders: dict[str, tuple[str, bytes]] = {}  # specification and line: a dict each would be ten times that
        self._runs: dict[str, Plain] = {}
        self._descriptor = -1
        self._live_bytes = 0
        self._added_bytes = 0
        self._is_behind = False
        self._retry_at_s = 0.0
        self._spec_cache: dict[str, tuple[Plain, OrderSpec]] = {}
        for record in _read_lines(self._path):
            try:
                self._replay(record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("a record of %s is skipped: %s", self._path, error)
        self._compact()

    # -- reading ----------------------------------------------------------------------------------

    def _replay(self, record: Plain) -> None:
        kind = record.get("t")
        if kind == "meta":
            self.incarnation, self.term = str(record.get("incarnation", "")), int(record.get("term", 0))
            self.revision = int(record.get("revision", 0))
        elif kind == "spec":
            self._specs[record["key"]] = record["tree"]
        elif kind == "order":
            self._orders[record["key"]] = (record["spec"], _line(record))
        elif kind == "drop":
            self._orders.pop(record["key"], None)
        elif kind == "run":
            self._runs[record["key"]] = record
        elif kind == "patch" and record["key"] in self._runs:
            self._runs[record["key"]] |= {k: v for k, v in record.items() if k not in ("t", "key")}
        elif kind == "forget":
            self._runs.pop(record["key"], None)

    def remembered(self) -> Remembered:
        """Return orders and runs; those that this version cannot read are left out with a warning."""
        found = Remembered()
        for key, (_, line) in self._orders.items():
            try:
                order = self._order_of(json.loads(line))
                found.orders[order.assignment.instance] = order
            except _UNREADABLE as error:
                found.unreadable |= _instances(key)
                log.warning("an order in the ledger cannot be read and is left out: %s: %s", key, error)
        for key, record in self._runs.items():
            try:
                run = self._run_of(record)
                found.runs[run.instance] = run
            except _UNREADABLE as error:
                found.unreadable |= _instances(key)
                log.warning("a start in the ledger cannot be read and is left out: %s: %s", key, error)
        return found

    def _order_of(self, record: Plain) -> Desired:
        assignment = from_plain(Assignment, record["assignment"])
        return Desired(assignment, self.read_spec(record["spec"], self._specs[record["spec"]]))

    def _run_of(self, record: Plain) -> Run:
        order = self._order_of(record)
        process = record.get("process")
        last_exit = record.get("exit")
        return Run(
            instance=order.assignment.instance,
            run=str(record["run"]),
            order=order,
            spec_key=record["spec"],
            restarts=int(record.get("restarts", 0)),
            failures=int(record.get("failures", 0)),
            process=_process(process) if process else None,
            is_started=bool(record.get("started", True)),
            is_ready=bool(record.get("ready", False)),
            state=str(record.get("state", "")),
            last_exit=from_plain(LastExit, last_exit) if last_exit is not None else None,
        )

    def read_spec(self, key: str, tree: Plain) -> OrderSpec:
        """Return the specification of a plain tree; equal trees under one key are read once."""
        cached = self._spec_cache.get(key)
        if cached is None or cached[0] != tree:
            cached = self._spec_cache[key] = (tree, from_plain(OrderSpec, tree))
        return cached[1]

    def spec_tree(self, key: str) -> Plain | None:
        """Return the plain tree kept under a key, or None."""
        return self._specs.get(key)

    # -- writing ----------------------------------------------------------------------------------

    def set_leader(self, incarnation: str, term: int) -> None:
        """Keep the cluster and the term that is obeyed."""
        if (incarnation, term) != (self.incarnation, self.term):
            self.revision = self.revision if incarnation == self.incarnation else 0
            self.incarnation, self.term = incarnation, term
            self._append(self._meta())

    def hear_of(self, revision: int) -> None:
        """Keep how far the store of the obeyed cluster was, in memory at once and in the file now and then."""
        self.revision = max(self.revision, revision)
        if self._monotonic() >= self._revision_due_s:
            self._revision_due_s = self._monotonic() + REVISION_KEPT_S
            self._append(self._meta())

    def _meta(self) -> Plain:
        return {"t": "meta", "incarnation": self.incarnation, "term": self.term, "revision": self.revision}

    def put_order(self, order: Desired, spec_key: str, tree: Plain) -> None:
        """Keep an order, and its specification as it came: fields that this version does not know survive."""
        key = _key(order.assignment.instance)
        record = {"t": "order", "key": key, "assignment": to_plain(order.assignment), "spec": spec_key}
        is_new_spec = self._specs.get(spec_key) != tree
        line = _line(record)
        is_new_order = self._orders.get(key) != (spec_key, line)
        self._specs[spec_key] = tree
        self._orders[key] = (spec_key, line)
        if is_new_spec:
            self._append({"t": "spec", "key": spec_key, "tree": tree})
        if is_new_order:
            self._append(record)

    def drop_order(self, instance: InstanceId) -> None:
        """Forget the order of a slot."""
        if self._orders.pop(_key(instance), None) is not None:
            self._append({"t": "drop", "key": _key(instance)})

    def put_intent(self, run: Run) -> None:
        """Write that a process is about to be started."""
        assignment = run.order.assignment
        record = {
            "t": "run",
            "key": _key(run.instance),
            "run": run.run,
            "assignment": to_plain(assignment),
            "spec": run.spec_key,
            "restarts": run.restarts,
            "failures": run.failures,
        }
        self._runs[record["key"]] = record
        self._append(record)

    def put_order_of_run(self, instance: InstanceId, order: Desired, spec_key: str) -> None:
        """Write that a running process now serves a newer order."""
        self._patch(instance, {"assignment": to_plain(order.assignment), "spec": spec_key})

    def put_process(self, instance: InstanceId, process: Process) -> None:
        """Write who was started."""
        self._patch(instance, {"process": {name: getattr(process, name) for name in Process.__slots__}})

    def put_health(self, instance: InstanceId, is_started: bool, is_ready: bool) -> None:
        """Write what the probes say, for the agent that adopts the process."""
        self._patch(instance, {"started": is_started, "ready": is_ready})

    def put_end(self, instance: InstanceId, state: str, last_exit: LastExit | None, failures: int) -> None:
        """Write how it ended and what that came to."""
        exit_tree = to_plain(last_exit) if last_exit is not None else None
        self._patch(instance, {"state": state, "exit": exit_tree, "failures": failures})

    def forget(self, instance: InstanceId) -> None:
        """Drop what is known of the processes of an instance."""
        if self._runs.pop(_key(instance), None) is not None:
            self._append({"t": "forget", "key": _key(instance)})

    def _patch(self, instance: InstanceId, fields: Plain) -> None:
        key = _key(instance)
        if key in self._runs:
            self._runs[key] |= fields
            self._append({"t": "patch", "key": key, **fields})

    def _append(self, record: Plain) -> None:
        if self._is_behind or self._added_bytes > max(COMPACT_BYTES, self._live_bytes):
            self._compact()
            return
        line = _line(record)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            self._fall_behind(error)
            return
        self._added_bytes += written
        if written != len(line):
            self._fall_behind(OSError("the line was cut"))

    def _fall_behind(self, error: OSError) -> None:
        if not self._is_behind:
            log.error(
                "cannot write %s: %s; workers are kept running, after a restart of the agent they are found by "
                "their mark; free space on the disk",
                self._path,
                error,
            )
        self._is_behind = True
        self._retry_at_s = self._monotonic() + RETRY_S

    def _compact(self) -> None:
        """Write the live records to a new file and go on in that."""
        if self._is_behind and self._monotonic() < self._retry_at_s:
            return
        self._drop_unused_specs()
        content = b"".join(self._live())
        try:
            write_atomically(self._path, content)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            self._fall_behind(error)
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._live_bytes, self._added_bytes = descriptor, len(content), 0
        self._is_behind = False

    def _live(self) -> Iterator[bytes]:
        yield _line(self._meta())
        yield from (_line({"t": "spec", "key": key, "tree": tree}) for key, tree in self._specs.items())
        yield from (line for _, line in self._orders.values())
        yield from (_line(record) for record in self._runs.values())

    def _drop_unused_specs(self) -> None:
        used = {spec for spec, _ in self._orders.values()} | {record.get("spec") for record in self._runs.values()}
        self._specs = {key: tree for key, tree in self._specs.items() if key in used}
        self._spec_cache = {key: item for key, item in self._spec_cache.items() if key in used}

    def flush(self) -> None:
        """Try once more to write what the disk refused."""
        if self._is_behind:
            self._compact()

    @property
    def path(self) -> Path:
        """Return the file."""
        return self._path

    @property
    def is_behind(self) -> bool:
        """Return whether the disk refused the last write."""
        return self._is_behind

    def close(self) -> None:
        """Close the file."""
        self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _process(tree: Plain) -> Process:
    return Process(**{name: tree[name] for name in Process.__slots__ if name in tree})


def _key(instance: InstanceId) -> str:
    return f"{instance.namespace}/{instance.app}/{instance.worker}/{instance.slot}"


def _instances(key: str) -> set[InstanceId]:
    """Return the instance of a key, or none if it is not one."""
    parts = key.split("/")
    return (
        {InstanceId(parts[0], parts[1], parts[2], int(parts[3]))} if len(parts) == 4 and parts[3].isdigit() else set()
    )


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _read_lines(path: Path) -> Iterator[Plain]:
    """Yield the records of the file; damaged ones are skipped. Raises LedgerUnreadable."""
    for line in read_whole(path).split(b"\n"):
        try:
            record = json.loads(line) if line else None
        except ValueError:
            log.warning("a damaged line of %s is skipped (%d bytes)", path, len(line))
            continue
        if isinstance(record, dict) and (isinstance(record.get("key"), str) or record.get("t") == "meta"):
            yield record
