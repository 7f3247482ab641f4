"""Who serves: the instances with ports that may be sent requests, with or without a route. Pure.

For readers that find instances by themselves (the API, Prometheus). A standby answers from the store alone, so what a
plan takes away is seen here once its route has confirmed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hsu_cluster.planning.slots import is_serving, status_of
from hsu_cluster.planning.traffic import (
    group_of,
    host_of,
    is_known_to_serve,
    is_on_lost_node,
    may_serve,
    servers,
    two_sets,
)
from hsu_cluster.planning.weights import EVEN_WEIGHT
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.routes import Endpoint
from hsu_core.model.view import ClusterView


@dataclass(frozen=True, slots=True)
class Served:
    """An instance with where its ports are reached; `weight` (0..256) is its part among its worker's."""

    instance: InstanceId
    node: str
    host: str
    ports: tuple[tuple[str, int], ...]
    group: str
    weight: int
    revision: int
    is_ready: bool = True


def served(view: ClusterView, app: AppId) -> tuple[Served, ...]:
    """Return the endpoints of all workers with ports: ready, not leaving; on a lost node only if no other is left."""
    found: list[Served] = []
    gone = {one for (owner, _), state in view.routes.items() if owner == app for one in state.leaving}
    for worker, running in _by_worker(view, app):
        serving = [pair for pair in running if pair[0].instance not in gone and may_serve(*pair)]
        near = [pair for pair in serving if is_known_to_serve(view, pair[0])]
        found += _weighted(view, app, worker, near or serving)
    return tuple(found)


def running(view: ClusterView, app: AppId) -> tuple[Served, ...]:
    """Return every running instance with ports, ready or not: what one wants to measure."""
    return tuple(
        _one(view, assignment, status, EVEN_WEIGHT)
        for _, pairs in _by_worker(view, app)
        for assignment, status in pairs
        if status.state is State.RUNNING and not is_on_lost_node(view, assignment)
    )


def _by_worker(view: ClusterView, app: AppId) -> Iterator[tuple[str, list[tuple[Assignment, InstanceStatus]]]]:
    pairs: dict[str, list[tuple[Assignment, InstanceStatus]]] = {}
    for instance in sorted(one for one in view.assignments if one.app_id == app):
        assignment = view.assignments[instance]
        status = status_of(assignment, view.statuses)
        if status is not None and status.ports:
            pairs.setdefault(instance.worker, []).append((assignment, status))
    yield from sorted(pairs.items())


def _weighted(
    view: ClusterView, app: AppId, worker: str, pairs: list[tuple[Assignment, InstanceStatus]]
) -> list[Served]:
    """Return the instances with the weights that a route of the worker has confirmed, else all the same."""
    states = [state for (owner, _), state in sorted(view.routes.items()) if owner == app and state.spec is not None]
    weights = next((one.weights for one in states if one.spec is not None and one.spec.worker == worker), ())
    even = [_one(view, assignment, status, EVEN_WEIGHT) for assignment, status in pairs]
    if not weights:
        return even
    endpoints = [Endpoint(one.instance, 0, one.host, 0, one.group) for one in even]
    own = {server.endpoint.instance: server.weight for server in servers(endpoints, weights)}
    return [_one(view, assignment, status, own[assignment.instance]) for assignment, status in pairs]


def _one(view: ClusterView, assignment: Assignment, status: InstanceStatus, weight: int) -> Served:
    instance = assignment.instance
    return Served(
        instance,
        assignment.node,
        host_of(view.nodes.get(assignment.node)),
        status.ports,
        group_of(view, instance, two_sets(view, instance.app_id, instance.worker)),
        weight,
        status.revision,
        is_serving(status),
    )
