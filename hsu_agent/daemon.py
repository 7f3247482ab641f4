"""Composition root of the agent: settings in, a running agent out. Also run inside `hsu-cluster standalone`.

As a program it is started by `hsu_agent.commands`, which has read the configuration and then replaces itself:
the libraries that read YAML would be a fifth of the memory of a process that runs for months.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hsu_agent.companions import Companions
from hsu_agent.data_dir import DataDirLock, LedgerUnreadable
from hsu_agent.fence import NO_CGROUPS, Fence
from hsu_agent.guard import Guard, OwnGuard, take_keeper
from hsu_agent.host.controllers import ControllerGroups, describe_host
from hsu_agent.host.linux import LinuxHost
from hsu_agent.keeper import ANSWERS_VARIABLE, EXIT_CONFIGURATION, EXIT_RELOAD, PIPE_VARIABLE
from hsu_agent.launch import Preparer
from hsu_agent.launched import LaunchNotes
from hsu_agent.ledger import Ledger
from hsu_agent.limits.enforcer import LimitKeeper
from hsu_agent.limits.usage import UsageBook
from hsu_agent.local.reading import Reading
from hsu_agent.local.station import LocalRun, Stop, finish_reading, refuse_unfit_folder, run_local
from hsu_agent.logs.capture import Capture
from hsu_agent.logs.collector import LogCollector
from hsu_agent.loop import Supervisor
from hsu_agent.metrics import AgentMetrics, serve_metrics
from hsu_agent.notify import NotifySocket
from hsu_agent.process_files import ProcessFiles
from hsu_agent.systemd import ServiceManager, own
from hsu_core.model.errors import Conflict, HsuError, InvalidInput, InvalidManifest, InvalidSettings, NotSupported
from hsu_core.runtime.logs import set_up_logging
from hsu_core.runtime.settings import AgentSettings

log = logging.getLogger(__name__)

FilesLimit = tuple[int, int]


async def run_agent(
    settings: AgentSettings,
    *,
    stop: asyncio.Event | None = None,
    worker_files_limit: FilesLimit | None = None,
    local: LocalRun | None = None,
    ending: Stop | None = None,
    service: ServiceManager | None = None,
    guard: Guard | None = None,
) -> int:
    """Run the agent until `stop` is set; return 0. Workers run on unless `kill_workers_on_stop`.

    With `local` it obeys those files and no cluster, and ends their workers as `ending` says. `service` is told of it.

    Installs no signal handlers and keeps nothing outside of itself. `worker_files_limit` is the limit of open
    files that workers get, where the caller has raised its own. `guard` ends strict workers; without one it starts its
    own. Raises HsuError if it cannot start.
    """
    ending = ending if ending is not None else Stop(stop if stop is not None else asyncio.Event())
    lock = await asyncio.to_thread(DataDirLock, settings.data_dir)
    try:
        ledger = await asyncio.to_thread(Ledger, settings.data_dir)  # it may wait for the disk
        try:
            await _run(settings, ending, ledger, worker_files_limit, local, service or ServiceManager(), guard)
        finally:
            ledger.close()
    finally:
        lock.release()
    return 0


async def _run(
    settings: AgentSettings,
    stop: Stop,
    ledger: Ledger,
    limit: FilesLimit | None,
    local: LocalRun | None,
    service: ServiceManager,
    guard: Guard | None,
) -> None:
    if local is None:
        member = importlib.import_module("hsu_agent.member")
        tls = member.tls_context(settings)
    else:
        refuse_unfit_folder(ledger, settings.data_dir)
    host = LinuxHost(agent=ledger.agent, data_dir=settings.data_dir, worker_files_limit=limit)
    capture = Capture(settings.data_dir)
    metrics = AgentMetrics()
    companions, notices = Companions(), NotifySocket(settings.data_dir, ledger.agent)
    companions.add(notices)
    companions.add(LaunchNotes())
    companions.add(ProcessFiles(os.environ.get("XDG_RUNTIME_DIR", "")))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(host.close)
        stack.callback(capture.close)
        stack.callback(notices.close)
        if settings.metrics_listen is not None:
            try:
                stack.callback((await serve_metrics(metrics, settings.metrics_listen)).close)
            except OSError as error:
                what = f"serve figures on {settings.metrics_listen} (metrics_listen)"
                raise InvalidSettings(what, error.strerror or str(error), "choose a free port of this host") from error
        fence: Fence | None = None
        if local is None:
            guard = guard or OwnGuard()
            stack.callback(guard.close)
            fence = Fence(guard, host.group_of, "" if host.has_cgroups else NO_CGROUPS)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        supervisor = Supervisor(
            node=settings.node,
            host=host,
            ledger=ledger,
            capture=capture,
            preparer=Preparer(settings.node, ledger.agent, settings.data_dir, dict(os.environ)),
            metrics=metrics,
            tasks=tasks,
            companions=companions,
            notices=notices,
            fence=fence,
        )
        groups = ControllerGroups(ledger.agent, describe_host(settings.data_dir))
        book = UsageBook(ledger.agent, groups, lambda: supervisor.observed)
        limits = LimitKeeper(
            groups=groups,
            host=host,
            book=book,
            data_dir=settings.data_dir,
            metrics=metrics,
            tasks=tasks,
            fault=supervisor.fault,
            worker_files_limit=limit,
        )
        companions.add(limits)
        collector = LogCollector(capture, settings.data_dir, settings.node, tasks)
        companions.add(collector)
        metrics.observe_use(book.latest)
        metrics.observe_agent(lambda: supervisor.observed, lambda: (capture.written_bytes, capture.dropped_bytes))
        supervisor.load()
        log.info("agent of node %s runs with %d orders", settings.node, len(supervisor.desired))

        def ready() -> None:
            service.begin(tasks, supervisor, stop.event)

        if local is not None or fence is None:
            assert local is not None
            await run_local(local, settings, supervisor, ledger, book, stop, ready, service.reloading)
        else:
            parts = host, groups.layout, supervisor, ledger, capture, book, metrics, tls, fence
            await member.obey_cluster(settings, *parts, stop, ready)
        service.close()
        supervisor.close()
        limits.close()
        await collector.close()


def raise_files_limit() -> FilesLimit | None:
    """Open as many files as we may: each worker takes up to five; return the limit as it was, for workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return None
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return soft, hard
    return None


class _KeeperGone(Exception):
    """Our keeper died before we began: another one may have started another agent."""


def _tell_keeper(data_dir: Path) -> int | None:
    """Tell our keeper where to write exits; return the pipe that shows its death, or None without a keeper.

    Raises _KeeperGone: an agent without its keeper would hold the data folder against that of the next one.
    """
    number = os.environ.pop(PIPE_VARIABLE, "")
    if not number.isdigit():
        return None
    pipe, keeper = int(number), os.getppid()
    try:
        os.set_inheritable(pipe, False)
        os.write(pipe, os.fsencode(str(data_dir)) + b"\n")
    except OSError as error:
        raise _KeeperGone from error
    if os.getppid() == keeper:  # else it has died since, which the pipe shows
        os.kill(keeper, signal.SIGCHLD)  # it looks at the pipe whenever it is signalled
    return pipe


async def _run_with_signals(settings: AgentSettings, local: LocalRun | None) -> int:
    """Run the agent until SIGTERM or SIGINT (0), SIGHUP (75: start me again), or the death of the keeper (0).

    With `local`, SIGHUP has the files read again instead.
    """
    stop, loop, service = Stop(), asyncio.get_running_loop(), own(os.environ)
    codes: list[int] = []

    def end(code: int, keeps_workers: bool = False) -> None:
        codes.append(code)
        if code == EXIT_RELOAD:
            service.replaced()
        stop.ask(keeps_workers, keeps_strict=code == EXIT_RELOAD)

    def keeper_died(pipe: int) -> None:
        loop.remove_reader(pipe)
        stop.is_unguarded = True
        end(0, keeps_workers=True)

    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, EXIT_RELOAD)):
        loop.add_signal_handler(number, end, code)
    if local is not None:
        loop.add_signal_handler(signal.SIGHUP, stop.reload.set)
    try:
        pipe = _tell_keeper(settings.data_dir)
    except _KeeperGone:
        return 0
    guard: Guard | None = None
    if pipe is not None:
        guard = take_keeper(pipe, os.environ.pop(ANSWERS_VARIABLE, ""), os.getppid())
        loop.add_reader(pipe, keeper_died, pipe)
    limit = raise_files_limit()
    await run_agent(settings, worker_files_limit=limit, local=local, ending=stop, service=service, guard=guard)
    return codes[0] if codes else 0


def main() -> int:
    """Run the agent with the settings in the descriptor named by the first argument; return the exit code."""
    with os.fdopen(int(sys.argv[1]), "rb") as stream:
        given: tuple[AgentSettings, Reading | None] = pickle.load(stream)
    settings, reading = given
    set_up_logging(log_format=settings.log_format, level=settings.log_level)
    local: LocalRun | None = None
    if reading is not None:
        try:
            is_kept = PIPE_VARIABLE in os.environ
            local = finish_reading(reading, settings.data_dir, is_kept=is_kept)
        except InvalidManifest as error:
            print(f"hsu-agent: {error.why}", file=sys.stderr)
            return EXIT_CONFIGURATION
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_run_with_signals(settings, local))
    except (Conflict, InvalidInput, InvalidSettings, LedgerUnreadable, NotSupported) as error:
        print(f"hsu-agent: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except HsuError as error:
        print(f"hsu-agent: {error}", file=sys.stderr)
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed (`pip install hsu-cluster[speed]`)."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
