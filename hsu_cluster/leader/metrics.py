"""Figures of the leader side for `/metrics`, read when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsu_cluster.leader.service import LeaderService
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState


class LeaderCollector(Collector):
    """`hsu_leader`, `hsu_term`, and on the leader nodes and instances by state, unplaced slots, sessions, revision."""

    def __init__(self, service: LeaderService) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """Yield the figures as of now."""
        service = self._service
        yield _gauge("hsu_leader", "1 on the master that leads, else 0.", float(service.is_leading))
        yield _gauge("hsu_term", "Term of the leadership this master knows of.", float(service.term))
        view = service.view()
        if view is None:
            return
        yield _gauge("hsu_view_revision", "Store revision of the leader's view.", float(view.revision))
        yield _gauge("hsu_sessions", "Agents connected to this master.", float(len(service.last_seen())))
        yield _gauge("hsu_unplaced_instances", "Slots without a node.", float(len(service.last_plan.unplaced)))
        nodes = GaugeMetricFamily("hsu_nodes", "Nodes by state.", labels=["state"])
        node_counts = Counter(node.state for node in view.nodes.values())
        for node_state in NodeState:
            nodes.add_metric([node_state], float(node_counts[node_state]))
        yield nodes
        instances = GaugeMetricFamily("hsu_instances", "Instances by state.", labels=["state"])
        counts = Counter(status.state for status in view.statuses.values())
        for state in State:
            instances.add_metric([state], float(counts[state]))
        yield instances


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def leader_registry(service: LeaderService) -> CollectorRegistry:
    """Return a registry with the leader's figures, for the API to add its own."""
    registry = CollectorRegistry()
    registry.register(LeaderCollector(service))
    return registry
