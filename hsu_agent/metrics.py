"""Figures of the agent for Prometheus, in a registry of its own, served on loopback if asked for."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsu_agent.planning.health import ProbeKind
from hsu_agent.planning.limits import Usage
from hsu_agent.planning.observed import Observed
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.runtime.settings import Listen

SPAWN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0)
"""A start takes about a millisecond; everything above 50 ms is worth a question."""


ANSWER_S = 5.0
"""Longest that one request for figures may take."""


INSTANCES_SHOWN = 1000
"""Most instances with figures of their own: every one is a handful of series for whoever collects them."""


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
        self.oom_kills = self._counter("oom_kills", "Workers that the kernel killed at their limit of memory")
        self._limits = Counter(
            "hsu_agent_limit_measures", "What was done about limits", ["limit", "measure"], registry=self.registry
        )
        self._probes = Counter("hsu_agent_probes", "Checks made", ["kind", "outcome"], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"hsu_agent_{name}", text, registry=self.registry)

    def count_probe(self, kind: ProbeKind, is_passed: bool) -> None:
        """Count one check."""
        self._probes.labels(str(kind), "passed" if is_passed else "failed").inc()

    def count_limit(self, limit: str, measure: str) -> None:
        """Count one measure about a limit, such as `memory.max_rss`."""
        self._limits.labels(limit, str(measure)).inc()

    def observe_agent(
        self, observed: Callable[[], Mapping[InstanceId, Observed]], log_bytes: Callable[[], tuple[int, int]]
    ) -> None:
        """Read instances and log bytes (written, dropped) whenever the figures are asked for."""
        self.registry.register(_Live(observed, log_bytes))

    def observe_use(self, latest: Callable[[], Mapping[InstanceId, Usage]]) -> None:
        """Read the latest samples of workers whenever the figures are asked for."""
        self.registry.register(_Use(latest))

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


class _Use(Collector):
    """What the sampled workers use, the first `INSTANCES_SHOWN` by name."""

    def __init__(self, latest: Callable[[], Mapping[InstanceId, Usage]]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        latest = self._latest()
        shown = [(found, latest[found]) for found in sorted(latest)[:INSTANCES_SHOWN]]
        figures: tuple[tuple[str, str, Callable[[Usage], float]], ...] = (
            ("cpu_percent", "Processor use, 100 is one processor", lambda usage: usage.cpu_percent),
            ("memory_bytes", "Resident memory of all its processes", lambda usage: usage.memory_bytes),
            ("processes", "Processes", lambda usage: usage.processes),
            ("read_bps", "Bytes read from disks a second", lambda usage: usage.read_bps),
            ("write_bps", "Bytes written to disks a second", lambda usage: usage.write_bps),
        )
        for name, text, value in figures:
            family = GaugeMetricFamily(f"hsu_agent_instance_{name}", text, labels=["instance"])
            for instance, usage in shown:
                family.add_metric([str(instance)], value(usage))
            yield family


async def serve_metrics(metrics: AgentMetrics, listen: Listen) -> asyncio.Server:
    """Serve `/metrics` and `/healthz`; the caller closes the server. Raises OSError if the address is taken.

    Two fixed pages need no web framework: that would be 2 MB of every agent.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                request = await reader.readuntil(b"\r\n\r\n")
                path = [*request.split(b" ", 2), b"", b""][1].partition(b"?")[0]
                status, body = b"200 OK", b"ok\n"
                if path == b"/metrics":
                    body = metrics.text()
                elif path != b"/healthz":
                    status, body = b"404 Not Found", b"there is /metrics and /healthz\n"
                head = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\nconnection: close\r\n"
                writer.write(b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, head, len(body), body))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or did not ask in HTTP
        finally:
            writer.close()

    return await asyncio.start_server(answer, listen.host, listen.port)
