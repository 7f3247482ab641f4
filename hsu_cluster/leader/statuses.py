"""What agents observed on its way into the store: checked, the newest word about an instance wins, batched.

An agent is not trusted to be sane: what cannot be a status is dropped with a log line, so that one agent
cannot end a leader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.errors import HsuError, StoreError
from hsu_core.model.happenings import Happening, happening
from hsu_core.model.ids import SLOT_LIMIT, InstanceId, is_name
from hsu_core.model.lifecycle import Event, State, advance
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Delete, Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import Report

log = logging.getLogger(__name__)

TEXT_LIMIT = 512
"""Characters kept of a sentence in a status."""

PORTS_LIMIT = 64
"""Ports kept of a status; no worker has as many."""


EVENTS_LIMIT = 50
"""Most events of one write; the rest is counted in one more."""


class StatusBook:
    """Observations that wait to be written, for one leadership."""

    def __init__(self, snapshot: Snapshot, writer: FencedWriter, clock: Callable[[], float]) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._clock = clock
        self._pending: dict[str, Operation] = {}
        self._writing: dict[str, Operation] = {}
        self._latest: dict[str, InstanceStatus] = {}
        self._happenings: list[tuple[InstanceStatus, Happening]] = []
        self._wake = Wake()

    @property
    def is_busy(self) -> bool:
        """Return whether something waits to be written or is being written."""
        return bool(self._pending or self._writing)

    def take(self, node: str, report: Report) -> None:
        """Queue what the agent of `node` says."""
        told: set[InstanceId] = set()
        for status in report.statuses:
            told.add(status.instance)
            if is_plausible(status.instance):
                self._put(bounded(replace(status, node=node, changed_at=self._clock())))
            else:
                log.warning("node %s reported an impossible instance: %.100r", node, status.instance)
        for instance in report.gone:
            if is_plausible(instance):
                self._queue(Delete(keys.status(instance, node)))
        if report.is_full:
            self._forget_others(node, told)
        self._wake.wake()

    def lose(self, names: Iterable[str]) -> None:
        """Queue that nobody knows any more what runs on these nodes. `is_ready` stays: what was last known."""
        for name in names:
            for status in list(self._snapshot.statuses_of.get(name, {}).values()):
                if status.state is not State.UNKNOWN:
                    self._put(
                        replace(
                            status,
                            state=advance(status.state, Event.LOST),
                            reason=f"node {name} is lost",
                            changed_at=self._clock(),
                        )
                    )
        self._wake.wake()

    async def run(self) -> None:
        """Write as they come, all that have gathered at once. Raises StoreError, with nothing lost."""
        while True:
            await self._wake.wait()
            while self._pending:
                self._writing, self._pending = self._pending | self._take_events(), {}
                try:
                    await self._write(self._writing)
                except StoreError:
                    self._pending = self._writing | self._pending  # newer words still win
                    self._wake.wake()
                    raise
                finally:
                    self._writing = {}

    async def _write(self, batch: Mapping[str, Operation]) -> None:
        try:
            await self._snapshot.reach(await self._writer.write(list(batch.values())))
        except StoreError:
            raise
        except HsuError as error:
            if len(batch) == 1:
                log.error("a status cannot be stored and is dropped: %s: %s", next(iter(batch)), error)
                return
            for key, operation in batch.items():
                await self._write({key: operation})

    def _forget_others(self, node: str, told: set[InstanceId]) -> None:
        """Queue the end of every status of the node that its full report does not name."""
        for instance in sorted(self._snapshot.statuses_of.get(node, {}).keys() - told):
            self._queue(Delete(keys.status(instance, node)))
        told_keys = {keys.status(instance, node) for instance in told}
        for key, operation in (self._writing | self._pending).items():
            if isinstance(operation, Put) and key.endswith(f"/{node}") and key not in told_keys:
                self._queue(Delete(key))

    def _put(self, status: InstanceStatus) -> None:
        key = keys.status(status.instance, status.node)
        known = self._snapshot.statuses_of.get(status.node, {}).get(status.instance)
        is_known = known is not None and replace(known, changed_at=status.changed_at) == status
        if is_known and key not in self._pending and key not in self._writing:
            return  # said again after a reconnect: `changed_at` keeps telling when it became so
        before = self._latest.get(key, known)
        self._latest[key] = status
        found = happening(before, status) if status.state is not State.UNKNOWN else None
        if found is not None:
            self._happenings.append((status, found))
        self._queue(Put(key, encode(status)))

    def _take_events(self) -> dict[str, Operation]:
        """Return the events of what happened since the last write: a host that falls must not become a flood."""
        told, self._happenings = self._happenings, []
        events = [
            self._writer.event(
                found.code,
                status.instance.short,
                found.text,
                namespace=status.instance.namespace,
                app=status.instance.app,
                node=status.node,
            )
            for status, found in told[:EVENTS_LIMIT]
        ]
        if len(told) > EVENTS_LIMIT:
            text = f"{len(told) - EVENTS_LIMIT} more instances changed in the same moment"
            events.append(self._writer.event("ManyChanges", "instances", text))
        return {event.key: event for event in events}

    def _queue(self, operation: Put | Delete) -> None:
        self._pending.pop(operation.key, None)
        if isinstance(operation, Delete):
            self._latest.pop(operation.key, None)
        self._pending[operation.key] = operation


def is_plausible(instance: InstanceId) -> bool:
    """Return whether an agent can mean this: names as the store's keys need them, a slot that exists."""
    names = (instance.namespace, instance.app, instance.worker)
    return all(map(is_name, names)) and 0 <= instance.slot < SLOT_LIMIT


def bounded(status: InstanceStatus) -> InstanceStatus:
    """Return the status with its texts cut to TEXT_LIMIT."""
    last = status.last_exit
    return replace(
        status,
        reason=status.reason[:TEXT_LIMIT],
        spec_hash=status.spec_hash[:TEXT_LIMIT],
        ports=status.ports[:PORTS_LIMIT],
        busy_ports=status.busy_ports[:PORTS_LIMIT],
        breaker=status.breaker[:TEXT_LIMIT],
        last_exit=None
        if last is None
        else replace(last, signal=last.signal and last.signal[:TEXT_LIMIT], reason=last.reason[:TEXT_LIMIT]),
    )
