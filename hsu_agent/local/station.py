"""The agent without a cluster: puts the files' orders into force, answers on the control socket, ends in order."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hsu_agent.ledger import Ledger
from hsu_agent.limits.usage import UsageBook
from hsu_agent.local.control import ControlServer, socket_path
from hsu_agent.local.orders import LocalOrders
from hsu_agent.local.reading import Reading
from hsu_agent.local.sources import Stamp
from hsu_agent.local.verbs import Usage, read_in_child, reading_verbs, refusing_verbs, steering_verbs
from hsu_agent.local.watch import watch
from hsu_agent.loop import Supervisor
from hsu_agent.planning.local import LocalWorker, longest_end_s
from hsu_core.model.errors import Conflict, HsuError, InvalidManifest
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.files import write_atomically
from hsu_core.runtime.settings import AgentSettings

log = logging.getLogger(__name__)

END_MARGIN_S = 10.0
"""Beyond the graces of the longest chain of workers: time for the kernel to end what was killed."""


LAST_RUN = "last-run"
"""File below the data folder (0700) with what the running agent was given."""


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What `hsu-agent run --local` was given. `run_duration_s` 0: until it is told to end.

    `watched`: the stamps of what was read, if changes are to be followed.
    """

    files: tuple[Path, ...]
    workers: tuple[LocalWorker, ...]
    run_duration_s: float = 0.0
    watched: tuple[tuple[str, Stamp], ...] | None = None


@dataclass(slots=True)
class Stop:
    """How the agent is asked to end, and to read its files again. `keeps_workers`: they run on.

    `keeps_strict`: strict ones too, since their guard stays. `is_unguarded`: it has died.
    """

    event: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)
    keeps_workers: bool = False
    keeps_strict: bool = False
    is_unguarded: bool = False

    def ask(self, keeps_workers: bool, *, keeps_strict: bool = False) -> None:
        """Ask the agent to end."""
        self.keeps_workers = keeps_workers
        self.keeps_strict = keeps_strict
        self.event.set()


def remember_run(data_dir: Path, local: LocalRun) -> None:
    """Keep what is run for an agent that our keeper starts anew: a file that is broken by then must not end it."""
    write_atomically(data_dir / LAST_RUN, pickle.dumps((os.getppid(), local)))


def recall_run(data_dir: Path, keeper: int) -> LocalRun | None:
    """Return what the last agent of this keeper ran, or None."""
    try:
        owner, local = pickle.loads((data_dir / LAST_RUN).read_bytes())
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, AttributeError, ImportError):
        return None
    is_usable = owner == keeper and isinstance(local, LocalRun) and hasattr(local, "watched")  # else an older agent's
    return local if is_usable else None


def finish_reading(reading: Reading, data_dir: Path, *, is_kept: bool) -> LocalRun:
    """Return what is to be run, once the files are read; their warnings go to stderr. Raises InvalidManifest.

    `is_kept`: a keeper has started us, so files that are broken by now must not end what the last agent ran.
    """
    answer = reading.finish()
    if answer.workers is None:
        local = recall_run(data_dir, os.getppid()) if is_kept else None
        if local is None:
            raise InvalidManifest("read the files", answer.told)
        if local.watched is not None:  # of files that are told of now, the next change is of interest
            local = replace(local, watched=tuple((dict(local.watched) | dict(answer.stamps)).items()))
        print(f"hsu-agent: the workers go on as they were: {answer.told}", file=sys.stderr)
        return local
    for warning in answer.warnings:
        print(f"hsu-agent: warning: {warning}", file=sys.stderr)
    watched = tuple(answer.stamps.items()) if reading.is_watched else None
    return LocalRun(reading.files, answer.workers, reading.run_duration_s, watched)


def usage_of(book: UsageBook) -> Usage:
    """Return what looks up the figures of an instance; one look serves all instances of a request."""
    looked_s, found = float("-inf"), book.latest()

    def look(instance: InstanceId) -> Mapping[str, float]:
        nonlocal looked_s, found
        if time.monotonic() - looked_s > 0.2:
            looked_s, found = time.monotonic(), book.snapshot()
        usage = found.get(instance)
        return {} if usage is None else {key: value for key, value in asdict(usage).items() if value is not None}

    return look


async def serve_cluster_member(supervisor: Supervisor, data_dir: Path, book: UsageBook) -> ControlServer | None:
    """Answer what can be read of an agent that obeys a cluster; None if its folder's path is too long for that."""

    def groups(instance: InstanceId) -> tuple[str, ...]:
        order = supervisor.table.order_of(instance)
        return order.spec.worker.groups if order is not None else ()

    try:
        server = ControlServer(data_dir, reading_verbs(supervisor, dict, usage_of(book), groups) | refusing_verbs())
        await server.start()
    except (HsuError, OSError) as error:
        log.warning("hsu-agent status will not work: %s", error)
        return None
    return server


def refuse_unfit_folder(ledger: Ledger, data_dir: Path) -> None:
    """Raise Conflict if the data folder belongs to a cluster, InvalidInput if its path is too long for a socket."""
    if ledger.incarnation:
        why = f"it belongs to an agent of cluster {ledger.incarnation}"
        raise Conflict(f"use data folder {data_dir}", why, "choose another --data-dir")
    socket_path(data_dir)


async def run_local(
    local: LocalRun,
    settings: AgentSettings,
    supervisor: Supervisor,
    ledger: Ledger,
    book: UsageBook,
    stop: Stop,
    ready: Callable[[], None],
    reloading: Callable[[], AbstractContextManager[None]],
) -> None:
    """Run the workers of the files until `stop`. Calls `ready` when it answers; each reload is in a `reloading`."""
    orders = LocalOrders(supervisor, ledger, local.workers, settings.data_dir, settings.ports, time.time)

    def keep(workers: tuple[LocalWorker, ...]) -> None:
        remember_run(settings.data_dir, replace(local, workers=workers))

    verbs = reading_verbs(supervisor, lambda: orders.held, usage_of(book), orders.groups_of)
    steering = steering_verbs(orders, local.files, stop.ask, keep, reloading)
    server = ControlServer(settings.data_dir, verbs | steering)
    await server.start()
    try:
        remember_run(settings.data_dir, local)
        orders.begin()
        ready()
        log.info("runs %d instances of %s", len(orders.instances), ", ".join(map(str, local.files)))
        async with asyncio.TaskGroup() as tasks:
            work = _reload_when_asked(orders, local, stop, settings.data_dir, reloading)
            reloads = [tasks.create_task(work, name="reload")]
            if local.watched is not None:
                looking = watch(local.files, dict(local.watched), stop.reload.set)
                reloads.append(tasks.create_task(looking, name="watch"))
            timeout_s = local.run_duration_s or None
            try:
                async with asyncio.timeout(timeout_s):
                    await stop.event.wait()
            except TimeoutError:
                log.info("its run duration of %g s is over", local.run_duration_s)
            for task in reloads:
                task.cancel()
        if not stop.keeps_workers:
            await _end_all(orders, supervisor)
    finally:
        await server.close()


async def _reload_when_asked(
    orders: LocalOrders,
    local: LocalRun,
    stop: Stop,
    data_dir: Path,
    reloading: Callable[[], AbstractContextManager[None]],
) -> None:
    while True:
        await stop.reload.wait()
        stop.reload.clear()
        try:
            with reloading():
                workers, warnings = await read_in_child(local.files)
                orders.use(workers)
        except HsuError as error:
            log.error("%s", error)
            continue
        for warning in warnings:
            log.warning("%s", warning)
        remember_run(data_dir, replace(local, workers=workers))
        log.info("the files were read again")


async def _end_all(orders: LocalOrders, supervisor: Supervisor) -> None:
    try:
        async with asyncio.timeout(longest_end_s(orders.living()) + END_MARGIN_S):
            await orders.end_all()
    except TimeoutError:
        log.error("some workers did not end: %s", ", ".join(str(found) for found in sorted(supervisor.observed)))
