"""Applies the local plan: orders from the files into the ledger and to the supervisor, and what people ask since.

The shell around `hsu_agent.planning.local`. What people asked (stopped, restarted) is kept in `local.json`, so
that an agent that comes back, or a host that was restarted, still knows it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hsu_agent.host.ports import is_busy
from hsu_agent.ledger import Ledger
from hsu_agent.loop import Supervisor
from hsu_agent.planning import local
from hsu_agent.planning.local import Asked, LocalWorker
from hsu_agent.planning.observed import Desired
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.errors import Conflict, Forbidden
from hsu_core.model.happenings import Happening, happening
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.files import write_atomically
from hsu_core.runtime.settings import PortRange
from hsu_core.runtime.tasks import Wake
from hsu_core.wire.codec import to_plain

log = logging.getLogger(__name__)

EVENTS_KEPT = 1000
"""Events in memory: about 200 kB."""


class LocalOrders:
    """The orders of one host without a cluster. `workers` are those of the files."""

    def __init__(
        self,
        supervisor: Supervisor,
        ledger: Ledger,
        workers: Sequence[LocalWorker],
        data_dir: Path,
        ports: PortRange,
        clock: Callable[[], float],
    ) -> None:
        self.workers = tuple(workers)
        self.held: dict[InstanceId, str] = {}
        self.events: deque[tuple[float, InstanceId, Happening]] = deque(maxlen=EVENTS_KEPT)
        self._supervisor = supervisor
        self._ledger = ledger
        self._path = data_dir / "local.json"
        self._range = ports
        self._clock = clock
        self._asked = _read_asked(self._path)
        self._ending: dict[InstanceId, Desired] = {}
        self._latest: dict[InstanceId, InstanceStatus] = {}
        self._is_due = False
        self._is_ending = False
        self._gone = Wake()

    def begin(self) -> None:
        """Put the orders into force; those of the last agent that are in the files go on."""
        self._latest = {status.instance: status for status in self._supervisor.statuses()}
        self._supervisor.table.listeners.append(self._note)
        self.step()
        self._supervisor.settle_strays(frozenset())

    def _note(self, instance: InstanceId) -> None:
        """Take note of a change: tell of it, and look again at who waits for it."""
        status, before = self._supervisor.status(instance), self._latest.get(instance)
        is_awaited = bool(self.held or self._ending or self._is_ending)
        if status is None:
            self._latest.pop(instance, None)
            self._ending.pop(instance, None)
        else:
            self._latest[instance] = status
            self._tell(before, status)
        if is_awaited and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _tell(self, before: InstanceStatus | None, status: InstanceStatus) -> None:
        found = happening(before, status)
        if found is None and (before is None or before.state is not status.state):
            text = f"{status.instance.short} is {status.state}"
            found = Happening("StateChanged", f"{text}: {status.reason}" if status.reason else text)
        if found is not None:
            self.events.append((self._clock(), status.instance, found))

    def _look(self) -> None:
        self._is_due = False
        if self._is_ending:
            self._end_next()
        else:
            self.step()
        self._gone.wake()

    def step(self) -> None:
        """View, plan, apply; nothing is started once the end has begun."""
        if self._is_ending:
            return
        found = local.plan(
            self.workers, self._supervisor.desired, self._statuses(), self._asked, self._free_ports(), self._ending
        )
        self.held = dict(found.held)
        for order in found.put:
            self._ledger.put_order(order, order.spec.key, to_plain(order.spec))
            self._supervisor.put_order(order, order.spec.key)
        for instance in found.drop:
            self._drop(instance)

    def _drop(self, instance: InstanceId) -> None:
        order = self._supervisor.desired[instance]
        if self._supervisor.status(instance) is not None:
            self._ending[instance] = order
        self._ledger.drop_order(instance)
        self._supervisor.drop_order(instance)

    def _statuses(self) -> Mapping[InstanceId, InstanceStatus]:
        return {status.instance: status for status in self._supervisor.statuses()}

    def _free_ports(self) -> Iterator[int]:
        return (number for number in range(self._range.low, self._range.high + 1) if not is_busy(number))

    # -- what people ask --------------------------------------------------------------------------

    @property
    def instances(self) -> tuple[InstanceId, ...]:
        """Return every instance of the files, and those that are being ended."""
        own = [instance for worker in self.workers for instance in worker.instances()]
        return tuple(sorted({*own, *self._supervisor.observed}))

    def groups_of(self, instance: InstanceId) -> tuple[str, ...]:
        """Return the groups of an instance, also of one that waits for others."""
        key = instance.app_id, instance.worker
        return next(
            (each.spec.worker.groups for each in self.workers if (each.spec.app, each.spec.worker.id) == key), ()
        )

    def stop(self, instances: Iterable[InstanceId]) -> None:
        """Stop instances; they stay stopped over restarts of the agent and of the host."""
        chosen = frozenset(instances)
        self._refuse_unmanaged("stop", chosen, "can_terminate")
        self._ask(replace(self._asked, stopped=self._asked.stopped | chosen))

    def start(self, instances: Iterable[InstanceId]) -> None:
        """Start instances that were stopped, or that ended by themselves."""
        chosen = frozenset(instances)
        finished = [found for found in chosen if (seen := self._supervisor.observed.get(found)) and seen.has_finished]
        self._ask(replace(self._raised(finished), stopped=self._asked.stopped - chosen))

    def restart(self, instances: Iterable[InstanceId]) -> None:
        """Start instances anew, those that were stopped too."""
        chosen = frozenset(instances)
        self._refuse_unmanaged("restart", chosen, "can_restart")
        self._ask(replace(self._raised(chosen), stopped=self._asked.stopped - chosen))

    def _raised(self, instances: Iterable[InstanceId]) -> Asked:
        counts = dict(self._asked.generations)
        for instance in instances:
            counts[instance] = counts.get(instance, 0) + 1
        return replace(self._asked, generations=tuple(sorted(counts.items())))

    def _ask(self, asked: Asked) -> None:
        self._refuse_at_end("change what runs")
        known = set(self.instances)
        asked = Asked(
            asked.stopped & known, tuple((found, count) for found, count in asked.generations if found in known)
        )
        write_atomically(self._path, _text_of(asked))
        self._asked = asked
        self.step()

    def use(self, workers: Sequence[LocalWorker]) -> None:
        """Run these workers from now on: only what differs is touched."""
        self._refuse_at_end("use the files as they are now")
        self.workers = tuple(workers)
        self.step()

    def _refuse_unmanaged(self, verb: str, chosen: Iterable[InstanceId], permission: str) -> None:
        for instance in sorted(chosen):
            order = self._supervisor.table.order_of(instance)
            unmanaged = order.spec.worker.unmanaged if order is not None else None
            if unmanaged is not None and not getattr(unmanaged, permission):
                why = f"its process is not ours, and {permission} is not true"
                fix = f"set unit.unmanaged.control.{permission}, or {verb} it where it was started"
                raise Forbidden(f"{verb} {instance.short}", why, fix, code="unmanaged.not-allowed")

    def _refuse_at_end(self, what: str) -> None:
        if self._is_ending:
            fix = "wait for `hsu-agent status` to find nobody, then start an agent"
            raise Conflict(what, "this agent is ending its workers", fix, code="agent.ending")

    # -- the end ----------------------------------------------------------------------------------

    async def end_all(self) -> None:
        """End every process, those that others depend on last; return when none is left. Orders stay remembered."""
        self._is_ending = True
        self._ending = self.living()
        self._end_next()
        while self._ending:
            await self._gone.wait()
        await self._supervisor.stop_all()

    def living(self) -> dict[InstanceId, Desired]:
        """Return the instances that have processes or records, with what they run by."""
        return {
            found: order
            for found in self._supervisor.observed
            if (order := self._supervisor.table.order_of(found)) is not None
        }

    def _end_next(self) -> None:
        for instance in local.next_to_end(self._ending):
            self._supervisor.drop_order(instance)


def _text_of(asked: Asked) -> bytes:
    document = {
        "stopped": [list(_parts(found)) for found in sorted(asked.stopped)],
        "generations": [[*_parts(found), count] for found, count in asked.generations],
    }
    return json.dumps(document).encode()


def _parts(instance: InstanceId) -> tuple[str, str, str, int]:
    return instance.namespace, instance.app, instance.worker, instance.slot


def _read_asked(path: Path) -> Asked:
    """Return what people asked of earlier agents; a file that cannot be read is told of and passed over."""
    try:
        document = json.loads(path.read_bytes())
        stopped = frozenset(InstanceId(*parts) for parts in document["stopped"])
        return Asked(stopped, tuple((InstanceId(*parts[:4]), int(parts[4])) for parts in document["generations"]))
    except FileNotFoundError:
        return Asked()
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        log.error("%s cannot be read, what was stopped on request is started: %s", path, error)
        return Asked()
