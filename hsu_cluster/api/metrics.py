"""What Prometheus reads at /metrics: requests by route and status, and what the daemon adds to the registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
"""Around the goal of 250 ms for the 99th percentile of a write; the last is the request deadline."""


class ApiMetrics:
    """Counters of one server, in `registry` (the daemon puts its own gauges there too)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "hsu_api_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self._duration_s = Histogram(
            "hsu_api_request_duration_seconds",
            "Time from the parsed headers to the answer; streams are left out",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=registry,
        )

    def count(self, method: str, route: str, status: int, duration_s: float | None) -> None:
        """Count one answer; `route` is the path's template, so that labels are bounded."""
        self._requests.labels(method, route, str(status)).inc()
        if duration_s is not None:
            self._duration_s.labels(method, route).observe(duration_s)

    def text(self) -> bytes:
        """Return everything in the registry in Prometheus' text form."""
        return generate_latest(self.registry)
