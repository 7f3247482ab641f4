"""Figures of the agent for Prometheus, in a registry of its own, served on loopback if asked for."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsu_agent.planning.health import ProbeKind
from hsu_agent.planning.observed import Observed
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.runtime.settings import Listen

SPAWN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0)
"""A start takes about a millisecond; everything above 50 ms is worth a question."""


class AgentMetrics:
    """All figures of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.restarts = self._counter("restarts", "Automatic restarts of instances")
        self.spawn_failures = self._counter("spawn_failures", "Starts that could not be made")
        self.sessions = self._counter("sessions", "Sessions opened with a master")
        self.is_connected = Gauge("hsu_agent_session_connected", "1 while a session is open", registry=self.registry)
        self.spawn_seconds = Histogram(
            "hsu_agent_spawn_seconds", "Time to start one process", buckets=SPAWN_BUCKETS_S, registry=self.registry
        )
        self.loop_lag_seconds = Gauge(
            "hsu_agent_loop_lag_seconds", "How late the last heartbeat was sent", registry=self.registry
        )
        self._probes = Counter("hsu_agent_probes", "Checks made", ["kind", "outcome"], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"hsu_agent_{name}", text, registry=self.registry)

    def count_probe(self, kind: ProbeKind, is_passed: bool) -> None:
        """Count one check."""
        self._probes.labels(str(kind), "passed" if is_passed else "failed").inc()

    def observe_agent(
        self, observed: Callable[[], Mapping[InstanceId, Observed]], log_bytes: Callable[[], tuple[int, int]]
    ) -> None:
        """Read instances and log bytes (written, dropped) whenever the figures are asked for."""
        self.registry.register(_Live(observed, log_bytes))

    def text(self) -> bytes:
        """Return all figures in Prometheus' text form."""
        return generate_latest(self.registry)


class _Live(Collector):
    """Figures that are counted when somebody asks."""

    def __init__(
        self, observed: Callable[[], Mapping[InstanceId, Observed]], log_bytes: Callable[[], tuple[int, int]]
    ) -> None:
        self._observed = observed
        self._log_bytes = log_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        states = Tally(found.state for found in self._observed().values())
        family = GaugeMetricFamily("hsu_agent_instances", "Instances by state", labels=["state"])
        for state in State:
            family.add_metric([str(state)], states.get(state, 0))
        yield family
        written, dropped = self._log_bytes()
        yield CounterMetricFamily("hsu_agent_log_bytes", "Bytes of worker output written", value=written)
        yield CounterMetricFamily("hsu_agent_log_dropped_bytes", "Bytes of output the disk refused", value=dropped)


async def serve_metrics(metrics: AgentMetrics, listen: Listen) -> web.AppRunner:
    """Serve `/metrics` and `/healthz`; the caller cleans the runner up. Raises OSError if the address is taken."""

    async def show(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    application = web.Application()
    application.router.add_get("/metrics", show)
    application.router.add_get("/healthz", healthy)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, listen.host, listen.port).start()
    return runner
