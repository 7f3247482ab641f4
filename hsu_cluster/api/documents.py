"""Records to documents: pure functions from a reading to what the API answers (`hsu_cluster.client.documents`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hsu_cluster.api.problem import fault_documents
from hsu_cluster.api.reading import Reading
from hsu_cluster.client.documents import (
    AppDocument,
    ChangeDocument,
    EventDocument,
    InstanceDocument,
    LastExitDocument,
    MasterDocument,
    PlanDocument,
    RevisionDocument,
    UnenforcedDocument,
    WorkerDocument,
)
from hsu_cluster.planning.explain import DeployPlan, WorkerChange
from hsu_cluster.planning.health import WorkerHealth, health_of
from hsu_cluster.planning.layout import index_of
from hsu_cluster.planning.rollout_begin import revision_state
from hsu_core.model.assignment import Assignment, InstanceStatus, LastExit
from hsu_core.model.enforcement import HostLayout, enforcement
from hsu_core.model.errors import Fault
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State, allowed_operations
from hsu_core.model.node import NodeState
from hsu_core.model.records import EventRecord, MasterAdvert
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire import keys

NOT_REPORTED = "waits for its node to take the order"
NOT_PLACED = "waits for the leader to place it"
NODE_LOST = "its node is lost; it may be running"


def instance_document(reading: Reading, instance: InstanceId, unplaced: Mapping[InstanceId, str]) -> InstanceDocument:
    """Return one instance of the reading's index: assigned, going away, or not placed yet."""
    document = _document_of(reading, instance, unplaced)
    document["operations"] = [str(operation) for operation in allowed_operations(State(document["state"]))]
    return document


def _document_of(reading: Reading, instance: InstanceId, unplaced: Mapping[InstanceId, str]) -> InstanceDocument:
    assignment = reading.view.assignments.get(instance)
    if assignment is not None:
        return _assigned(reading, assignment, reading.view.statuses.get((instance, assignment.node)))
    status = reading.index.latest.get(instance)
    if status is not None:
        return _leaving(reading, status)
    return _unplaced(reading, instance, unplaced.get(instance, NOT_PLACED))


def _assigned(reading: Reading, assignment: Assignment, status: InstanceStatus | None) -> InstanceDocument:
    instance = assignment.instance
    node = reading.view.nodes.get(assignment.node)
    document = _instance(instance, assignment.node, State.REGISTERED, NOT_REPORTED)
    document["app_revision"] = assignment.revision
    document["epoch"] = assignment.epoch
    document["ports"] = dict(assignment.ports)
    if status is not None:
        _describe(document, status)
    if node is not None and node.state is NodeState.LOST:
        document["state"], document["ready"], document["reason"] = str(State.UNKNOWN), False, NODE_LOST
    document["revision"] = max(
        reading.changed.get(keys.assignment(instance), 0),
        reading.changed.get(keys.status(instance, assignment.node), 0),
    )
    return document


def _leaving(reading: Reading, status: InstanceStatus) -> InstanceDocument:
    """Return an instance that has no assignment any more and is still seen."""
    document = _instance(status.instance, status.node, status.state, "")
    document["app_revision"] = status.revision
    document["epoch"] = status.epoch
    document["ports"] = dict(status.ports)
    _describe(document, status)
    document["reason"] = status.reason or "no longer wanted"
    node = reading.view.nodes.get(status.node)
    if node is not None and node.state is not NodeState.READY:
        document["state"], document["ready"] = str(State.UNKNOWN), False
        document["reason"] = f"no longer wanted; its node is {node.state}, it may be running until that is back"
    document["revision"] = reading.changed.get(keys.status(status.instance, status.node), 0)
    return document


def _unplaced(reading: Reading, instance: InstanceId, reason: str) -> InstanceDocument:
    record = reading.view.apps[instance.app_id]
    index = index_of(reading.view.rollouts.get(instance.app_id), instance.worker, instance.slot)
    if record.intent(instance.worker).wants_stopped(index):
        document = _instance(instance, None, State.STOPPED, "stopped on request")
    else:
        document = _instance(instance, None, State.REGISTERED, reason)
    document["app_revision"] = record.revision
    document["revision"] = reading.changed.get(keys.app(instance.app_id), 0)
    return document


def _instance(instance: InstanceId, node: str | None, state: State, reason: str) -> InstanceDocument:
    return {
        "id": instance.short,
        "namespace": instance.namespace,
        "app": instance.app,
        "worker": instance.worker,
        "slot": instance.slot,
        "node": node,
        "state": str(state),
        "ready": False,
        "pid": None,
        "app_revision": 0,
        "epoch": 0,
        "restarts": 0,
        "breaker": "closed",
        "last_exit": None,
        "ports": {},
        "started_at": None,
        "reason": reason,
        "operations": [],
        "revision": 0,
    }


def _describe(document: InstanceDocument, status: InstanceStatus) -> None:
    """Fill in what the node observed; `app_revision` is what runs, which may be older than what is ordered."""
    document["state"] = str(status.state)
    document["ready"] = status.is_ready and status.state is not State.UNKNOWN
    document["pid"] = status.pid
    document["app_revision"] = status.revision or document["app_revision"]
    document["restarts"] = status.restarts
    document["breaker"] = status.breaker or "closed"
    document["last_exit"] = _last_exit(status.last_exit)
    document["ports"] = dict(status.ports) or document["ports"]
    document["started_at"] = status.started_at
    document["reason"] = status.reason


def _last_exit(last: LastExit | None) -> LastExitDocument | None:
    if last is None:
        return None
    return {
        "code": last.code,
        "signal": last.signal,
        "at": last.at,
        "reason": last.reason,
        "cpu_s": last.cpu_s,
        "max_rss_bytes": last.max_rss_bytes,
    }


def app_document(reading: Reading, app: AppId, unplaced: Mapping[InstanceId, str], now_s: float) -> AppDocument:
    """Return one app of the reading with its workers."""
    record = reading.view.apps[app]
    health = health_of(reading.view, app, unplaced, now_s)
    revision = reading.changed.get(keys.app(app), 0)
    return {
        "namespace": app.namespace,
        "app": app.app,
        "app_revision": record.revision,
        "phase": str(health.phase),
        "reason": health.reason,
        "text": health.text,
        "workers": [_worker(reading, app, worker, revision) for worker in health.workers],
        "deployed_at": record.deployed_at,
        "deployed_by": record.deployed_by,
        "revision": revision,
    }


def _worker(reading: Reading, app: AppId, health: WorkerHealth, revision: int) -> WorkerDocument:
    record = reading.view.apps[app]
    stored = reading.view.revisions.get((app, record.revision))
    spec = stored.spec.worker(health.worker) if stored else None
    intent = record.intent(health.worker)
    return {
        "id": health.worker,
        "namespace": app.namespace,
        "app": app.app,
        "type": str(spec.type) if spec else "",
        "replicas": health.replicas,
        "ready": health.ready,
        "updated": health.updated,
        "available": health.available,
        "stopped": sum(intent.wants_stopped(slot) for slot in range(health.replicas)),
        "restarts": health.restarts,
        "phase": str(health.phase),
        "reason": health.reason,
        "text": health.text,
        "unenforced": _unenforced(reading, app, spec, health.slots),
        "revision": revision,
    }


def _unenforced(
    reading: Reading, app: AppId, spec: WorkerSpec | None, wanted: Sequence[int]
) -> list[UnenforcedDocument]:
    """Return the limits of a worker that the nodes of its instances do not hold, each with its nodes."""
    if spec is None or spec.limits.is_empty:
        return []
    view = reading.view
    slots = (view.assignments.get(InstanceId(app.namespace, app.app, spec.id, slot)) for slot in wanted)
    alike: dict[HostLayout, list[str]] = {}  # a fleet has few kinds of hosts
    for name in sorted({assignment.node for assignment in slots if assignment is not None}):
        node = view.nodes.get(name)
        if node is not None and node.host is not None:
            alike.setdefault(node.host, []).append(name)
    found: dict[tuple[str, str, str], list[str]] = {}
    for host, names in alike.items():
        for support in enforcement(spec.limits, host):
            if support.is_short:
                found.setdefault((support.name, str(support.how), support.reason), []).extend(names)
    return [
        {"limit": limit, "how": how, "reason": reason, "nodes": sorted(nodes)}
        for (limit, how, reason), nodes in found.items()
    ]


def plan_document(reading: Reading, app: AppId, plan: DeployPlan, warnings: Sequence[Fault], pin: str) -> PlanDocument:
    """Return what a deploy would do."""
    return {
        "namespace": app.namespace,
        "app": app.app,
        "app_revision": plan.current_revision or 0,
        "unchanged": not plan.has_changes,
        "changes": [_change(plan, change) for change in plan.workers],
        "fields": [{"path": field.path, "before": field.before, "after": field.after} for field in plan.fields],
        "placements": {instance.short: node for instance, node in sorted(plan.placements.items())},
        "unplaced": {instance.short: reason for instance, reason in sorted(plan.unplaced.items())},
        "no_room": dict(sorted(plan.no_room.items())),
        "pin": pin,
        "warnings": fault_documents(warnings),
        "revision": reading.revision,
    }


def _change(plan: DeployPlan, change: WorkerChange) -> ChangeDocument:
    counts = (
        (change.added, "to start"),
        (change.restarted, "to restart"),
        (change.moved, "to move"),
        (change.removed, "to stop"),
        (change.unplaced, "without a node"),
    )
    prefix = f"workers.{change.worker}."
    return {
        "worker": change.worker,
        "action": str(change.action),
        "text": ", ".join(f"{count} {what}" for count, what in counts if count),
        "why": change.why,
        "fields": [field.path.removeprefix(prefix) for field in plan.fields if field.path.startswith(prefix)],
    }


def revision_documents(reading: Reading, app: AppId) -> list[RevisionDocument]:
    """Return the revisions of an app, oldest first."""
    current = reading.view.apps[app].revision
    rollout = reading.view.rollouts.get(app)
    return [
        {
            "namespace": app.namespace,
            "app": app.app,
            "number": number,
            "content_hash": revision.content_hash,
            "created_at": revision.created_at,
            "created_by": revision.created_by,
            "is_current": number == current,
            "state": revision_state(rollout, number),
            "workers": [worker.id for worker in revision.spec.workers],
            "revision": reading.changed.get(keys.revision(app, number), 0),
        }
        for (_, number), revision in sorted(reading.view.revisions.items())
    ]


def event_document(key: str, event: EventRecord, revision: int) -> EventDocument:
    """Return one event; its id is the last part of its key."""
    return {
        "id": keys.parts(key)[1],
        "at": event.at,
        "code": event.code,
        "subject": event.subject,
        "text": event.text,
        "namespace": event.namespace,
        "app": event.app,
        "node": event.node,
        "actor": event.actor,
        "revision": revision,
    }


def master_document(advert: MasterAdvert) -> MasterDocument:
    """Return one master."""
    return {"name": advert.name, "url": advert.url, "version": advert.version, "since": advert.since}
