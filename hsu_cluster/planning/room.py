"""Whether what a rollout starts beside the running instances has a place: asked before anything is touched. Pure."""

from __future__ import annotations

from dataclasses import replace

from hsu_cluster.planning.layout import is_routed, limits_of
from hsu_cluster.planning.node_table import NodeTable
from hsu_cluster.planning.schedule import PlacementRequest, place
from hsu_core.model.assignment import Revision
from hsu_core.model.ids import InstanceId
from hsu_core.model.spec import WorkerSpec

TRIAL_SLOT = -1
"""Slots of a trial count down from here: no instance has a negative one."""


def needs_beside(revision: Revision, spec: WorkerSpec, strategy: str, replicas: int) -> int:
    """Return how many instances of a new revision must have a place beside those that run, or it cannot begin.

    The second set of blue-green and of a routed canary is a whole one; in waves one is enough, and none where an
    instance may be away meanwhile.
    """
    if strategy == "recreate" or not replicas:
        return 0
    if strategy == "blue-green" or (strategy == "canary" and is_routed(revision, spec.id)):
        return replicas
    surge, floor = limits_of(spec, replicas)
    return 1 if surge and floor >= replicas and spec.rollout.max_unavailable == 0 else 0


def lacks_room(table: NodeTable, revision: Revision, spec: WorkerSpec, count: int) -> str:
    """Return why `count` instances have no place beside what the table holds (empty: they have one)."""
    app = revision.id
    trial = tuple(InstanceId(app.namespace, app.app, spec.id, TRIAL_SLOT - number) for number in range(count))
    result = place(table, [PlacementRequest(replace(spec, depends_on=()), trial)])
    for instance in result.placed:
        table.release(instance)
    if not result.unplaced:
        return ""
    missing = len(result.unplaced)
    reason = next(iter(result.unplaced.values()))
    return f"{missing} of {count} instances beside those that run have no place: {reason}"
