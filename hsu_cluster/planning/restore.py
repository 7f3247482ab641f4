"""What the nodes of a restored cluster would do if its orders were obeyed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeRecord
from hsu_core.model.view import ClusterView

ENDED = (State.STOPPED, State.FAILED)


@dataclass(frozen=True, slots=True)
class NodeForecast:
    """What happens on one node that holds its work, each a sorted list of instances.

    `keeps`: they run as ordered. `restarts`: they run another version than ordered. `stops`: nothing orders them.
    `starts`: they are ordered and do not run.
    """

    node: str
    held_by: str
    keeps: tuple[InstanceId, ...]
    restarts: tuple[InstanceId, ...]
    stops: tuple[InstanceId, ...]
    starts: tuple[InstanceId, ...]


def holding(nodes: Mapping[str, NodeRecord], accepted: Collection[str]) -> list[str]:
    """Return the nodes that hold the work of an incarnation that is not `accepted`, by name.

    The record of one that was away when its incarnation was accepted still says that it holds it.
    """
    return sorted(name for name, node in nodes.items() if node.held_by and node.held_by not in accepted)


def forecast(view: ClusterView, accepted: Collection[str] = ()) -> tuple[NodeForecast, ...]:
    """Return what accepting the restore does on each node that holds its work, by name."""
    return tuple(_of_node(view, name) for name in holding(view.nodes, accepted))


def _of_node(view: ClusterView, node: str) -> NodeForecast:
    running = {
        status.instance: status.spec_hash
        for (_, name), status in view.statuses.items()
        if name == node and status.state not in ENDED
    }
    ordered = {
        assignment.instance: assignment.spec_hash
        for assignment in view.assignments.values()
        if assignment.node == node and not assignment.is_stopped
    }
    both = running.keys() & ordered.keys()
    return NodeForecast(
        node,
        view.nodes[node].held_by,
        keeps=_sorted(each for each in both if running[each] == ordered[each]),
        restarts=_sorted(each for each in both if running[each] != ordered[each]),
        stops=_sorted(running.keys() - ordered.keys()),
        starts=_sorted(ordered.keys() - running.keys()),
    )


def _sorted(instances: Iterable[InstanceId]) -> tuple[InstanceId, ...]:
    return tuple(sorted(instances))
