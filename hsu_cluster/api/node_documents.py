"""Nodes, their drains and what a drain would do, as documents: pure functions from a reading."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hsu_cluster.api.reading import Reading
from hsu_cluster.client.documents import CapacityDocument, NodeDocument
from hsu_cluster.client.node_documents import DrainDocument, DrainPlanDocument
from hsu_cluster.planning.constraints import fence_why
from hsu_cluster.planning.departure import departure_of
from hsu_cluster.planning.drain import DrainPlan, DrainProgress
from hsu_cluster.planning.failover import cooling_until_s
from hsu_core.model.enforcement import host_support
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState, Usage
from hsu_core.wire import keys


@dataclass(frozen=True, slots=True)
class LeaderWord:
    """What only the leader knows of nodes: when each was last heard, and who is suspect. Empty on a standby."""

    last_seen: Mapping[str, float]
    suspects: Collection[str]


def node_document(
    reading: Reading,
    node: NodeRecord,
    usage: Mapping[str, Usage],
    word: LeaderWord,
    drains: Mapping[str, DrainProgress],
    now_s: float,
) -> NodeDocument:
    """Return one node; labels that people added win over those the agent gave."""
    times = reading.view.times
    is_suspect = node.state is NodeState.READY and node.name in word.suspects
    cooling_s = cooling_until_s(node, times.cooldown_s) if node.state is NodeState.READY else 0.0
    intent = reading.view.node_intents.get(node.name)
    used = usage.get(node.name, Usage())
    return {
        "name": node.name,
        "state": str(NodeState.SUSPECT if is_suspect else node.state),
        "labels": dict(node.labels) | dict(intent.labels if intent else ()),
        "capacity": _capacity(node.capacity.cpu_milli, node.capacity.memory_bytes, 0),
        "used": _capacity(used.cpu_milli, used.memory_bytes, used.instances),
        "last_seen": word.last_seen.get(node.name),
        "cordoned": intent is not None and (intent.is_cordoned or intent.is_draining),
        "draining": intent is not None and intent.is_draining,
        "drain": _drain(intent, drains.get(node.name), now_s),
        "os": node.os,
        "arch": node.arch,
        "version": node.version,
        "address": node.address,
        "reason": f"silent for more than {times.suspect_s:g} s" if is_suspect else node.reason,
        "fence": fence_why(node),
        "cooling_until": cooling_s if cooling_s > now_s else None,
        "limits": [
            {"limit": support.name, "how": str(support.how), "reason": support.reason}
            for support in (host_support(node.host) if node.host is not None else ())
        ],
        "revision": max(
            reading.changed.get(keys.node(node.name), 0), reading.changed.get(keys.node_intent(node.name), 0)
        ),
    }


def _drain(intent: NodeIntent | None, progress: DrainProgress | None, now_s: float) -> DrainDocument | None:
    if intent is None or not intent.is_draining:
        return None
    progress = progress or DrainProgress(0, 0)
    departure = departure_of(intent, now_s)
    return {
        "assigned": progress.assigned,
        "stopping": progress.stopping,
        "deadline_at": intent.drain_deadline_at,
        "forced": departure is not None and bool(departure.forced_why),
        "waits": list(progress.waits),
    }


def drain_plan_document(node: str, plan: DrainPlan, revision: int) -> DrainPlanDocument:
    """Return what a drain would do."""
    return {
        "node": node,
        "instances": [
            {
                "id": one.instance.short,
                "namespace": one.instance.namespace,
                "leaves": one.leaves,
                "node": one.node,
                "reason": one.why,
            }
            for one in plan.instances
        ],
        "workers": [
            {
                "id": f"{one.app.app}/{one.worker}",
                "namespace": one.app.namespace,
                "ready": one.ready,
                "lowest_ready": one.lowest_ready,
            }
            for one in plan.workers
        ],
        "revision": revision,
    }


def _capacity(cpu_milli: int, memory_bytes: int, instances: int) -> CapacityDocument:
    return {"cpu_milli": cpu_milli, "memory_bytes": memory_bytes, "instances": instances}
