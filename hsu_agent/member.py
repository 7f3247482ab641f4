"""The agent as a member of a cluster: its session with a master. Loaded only where there is a cluster to obey.

The client of HTTP is a third of the agent's memory, which a host without a cluster need not spend.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial

from hsu_agent.fence import Fence
from hsu_agent.host.base import Host
from hsu_agent.ledger import Ledger
from hsu_agent.limits.usage import UsageBook
from hsu_agent.local.station import Stop, serve_cluster_member
from hsu_agent.logs.capture import Capture
from hsu_agent.loop import Supervisor
from hsu_agent.metrics import AgentMetrics
from hsu_agent.planning import stop as stop_rules
from hsu_agent.sync import Sync, dialing_masters
from hsu_agent.sync import tls_context as tls_context
from hsu_agent.version import program_version
from hsu_core.model.enforcement import HostLayout
from hsu_core.model.node import Capacity
from hsu_core.runtime.settings import AgentSettings
from hsu_core.wire.frames import Hello

log = logging.getLogger(__name__)

STOP_MARGIN_S = 10.0
"""Beyond the longest grace of a worker: time for the kernel to end what was killed."""


async def obey_cluster(
    settings: AgentSettings,
    host: Host,
    layout: HostLayout,
    supervisor: Supervisor,
    ledger: Ledger,
    capture: Capture,
    book: UsageBook,
    metrics: AgentMetrics,
    tls: ssl.SSLContext | bool,
    fence: Fence,
    stop: Stop,
    ready: Callable[[], None],
) -> None:
    """Obey the masters of the settings until `stop`; end the workers then if the settings say so.

    `ready` is called once the control socket answers.
    """
    sync = Sync(
        settings=settings,
        hello=_hello(settings, host, layout, fence),
        supervisor=supervisor,
        ledger=ledger,
        capture=capture,
        metrics=metrics,
        dialing=partial(dialing_masters, tls),
        fence=fence,
    )
    leave = asyncio.Event()
    server = await serve_cluster_member(supervisor, settings.data_dir, book)
    try:
        ready()
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(_leave(stop, fence, supervisor, leave), name="leave")
            await sync.run(leave, is_stopping_workers=settings.kill_workers_on_stop)
            leaving.cancel()
        if settings.kill_workers_on_stop:
            await _stop_workers(supervisor)
    finally:
        if server is not None:
            await server.close()


async def _leave(stop: Stop, fence: Fence, supervisor: Supervisor, leave: asyncio.Event) -> None:
    """Wait until the agent is to end; then end strict workers, if nobody guards them any more, and let it leave."""
    await stop.event.wait()
    if stop.is_unguarded or (stop.keeps_strict and not fence.is_guarded):
        fence.kill_all("the keeper has died")
    elif not stop.keeps_strict:
        fence.end()
        await _stop_workers(supervisor, is_strict_only=True)  # the session goes on meanwhile, and so does their lease
    leave.set()


async def _stop_workers(supervisor: Supervisor, *, is_strict_only: bool = False) -> None:
    orders = {instance: supervisor.table.order_of(instance) for instance in supervisor.table.instances}
    chosen = {
        instance: order for instance, order in orders.items() if order and (order.is_strict or not is_strict_only)
    }
    try:
        async with asyncio.timeout(max(map(stop_rules.longest_s, chosen.values()), default=0.0) + STOP_MARGIN_S):
            await (supervisor.stop(chosen) if is_strict_only else supervisor.stop_all())
    except TimeoutError:
        log.error("some workers did not end: %s", ", ".join(str(found) for found in sorted(supervisor.observed)))


def _hello(settings: AgentSettings, host: Host, layout: HostLayout, fence: Fence) -> Hello:
    measured = host.capacity()
    cpu_milli = settings.capacity_cpu_milli if settings.capacity_cpu_milli is not None else measured.cpu_milli
    memory = settings.capacity_memory_bytes if settings.capacity_memory_bytes is not None else measured.memory_bytes
    return Hello(
        node=settings.node,
        capacity=Capacity(
            max(0, cpu_milli - settings.reserved_cpu_milli),
            max(0, memory - settings.reserved_memory_bytes),
            settings.ports.low,
            settings.ports.high,
        ),
        version=program_version(),
        labels=settings.labels,
        os=host.os,
        arch=host.arch,
        address=settings.address,
        boot_id=host.boot_id,
        host=layout.without_folders(),
        fence=fence.why_not,
    )
