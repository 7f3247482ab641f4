"""Short ways to write views, specifications and statuses in tests. Knows the model, and no planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, LastExit, Revision, WorkerIntent
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity, NodeIntent, NodeRecord, NodeState
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.model.spec import (
    AppSpec,
    Constraint,
    Execution,
    PlacementSpec,
    PortSpec,
    Resources,
    RolloutSpec,
    WorkerSpec,
)
from hsu_core.model.view import ClusterView

MEBIBYTE = 2**20
SHOP = AppId("default", "shop")


def slot(worker: str, number: int, app: AppId = SHOP) -> InstanceId:
    """Return an instance id: `slot("web", 2)` is shop/web.2."""
    return InstanceId(app.namespace, app.app, worker, number)


def make_worker(
    name: str = "web",
    replicas: int = 1,
    *,
    cpu: int = 0,
    memory_mib: int = 0,
    ports: Mapping[str, int] | Sequence[str] = (),
    constraints: Iterable[str] = (),
    placement: PlacementSpec | None = None,
    max_unavailable: int | str = 1,
    strategy: str = "rolling",
    min_healthy_s: float = 0.0,
    rollout: Mapping[str, Any] | None = None,
    **others: Any,
) -> WorkerSpec:
    """Return a worker, without surge unless `rollout` (fields of a RolloutSpec) says so.

    `ports`: names of dynamic ports, or name -> number; `constraints`: `"zone == a"`.
    """
    numbers = ports if isinstance(ports, Mapping) else dict.fromkeys(ports, 0)
    is_percent = isinstance(max_unavailable, str)
    conditions = tuple(make_constraint(text) for text in constraints)
    return WorkerSpec(
        name,
        Execution(f"./{name}"),
        replicas=replicas,
        ports=tuple(PortSpec(port, number) for port, number in numbers.items()),
        resources=Resources(cpu, memory_mib * MEBIBYTE),
        placement=placement or PlacementSpec(constraints=conditions),
        rollout=replace(
            RolloutSpec(
                strategy=strategy,
                max_unavailable=int(str(max_unavailable).rstrip("%")),
                is_max_unavailable_percent=is_percent,
                max_surge=0,
                is_max_surge_percent=False,
                min_healthy_s=min_healthy_s,
                is_min_healthy_given=True,
            ),
            **(rollout or {}),
        ),
        **others,
    )


def make_constraint(text: str) -> Constraint:
    """Return the condition written `key operator operand`."""
    key, operator, *operand = text.split(" ", 2)
    return Constraint(key, operator, *operand)


def make_revision(
    number: int, *workers: WorkerSpec, app: AppId = SHOP, hashes: Mapping[str, str] | None = None
) -> Revision:
    """Return a revision; each worker's spec hash is `s1` unless `hashes` says otherwise."""
    return Revision(
        app,
        number,
        f"content-{number}",
        AppSpec(app.namespace, app.app, tuple(workers)),
        tuple((worker.id, (hashes or {}).get(worker.id, "s1")) for worker in workers),
    )


def make_node(
    name: str,
    *,
    state: NodeState = NodeState.READY,
    cpu: int = 4000,
    memory_mib: int = 4096,
    ports: tuple[int, int] = (20000, 29999),
    os: str = "linux",
    arch: str = "x86_64",
    version: str = "1.0.0",
    fence: str | None = "",
    **labels: str,
) -> NodeRecord:
    """Return a node; keyword arguments that are left are labels."""
    return NodeRecord(
        name,
        state,
        labels=tuple(sorted(labels.items())),
        capacity=Capacity(cpu, memory_mib * MEBIBYTE, *ports),
        os=os,
        arch=arch,
        version=version,
        fence=fence,
    )


def make_assignment(
    instance: InstanceId,
    node: str,
    *,
    epoch: int = 5,
    revision: int = 1,
    spec_hash: str = "s1",
    generation: int = 0,
    ports: Mapping[str, int] | None = None,
    is_stopped: bool = False,
) -> Assignment:
    """Return an assignment."""
    numbers = tuple((ports or {}).items())
    return Assignment(instance, node, epoch, revision, spec_hash, generation, numbers, is_stopped)


def make_status(
    assignment: Assignment,
    state: State = State.RUNNING,
    *,
    is_ready: bool | None = None,
    node: str | None = None,
    epoch: int | None = None,
    restarts: int = 0,
    exit_code: int | None = None,
    changed_at: float = 0.0,
    reason: str = "",
) -> InstanceStatus:
    """Return what the assigned node would report; running is ready unless said otherwise."""
    return InstanceStatus(
        assignment.instance,
        node or assignment.node,
        assignment.epoch if epoch is None else epoch,
        state,
        is_ready=state is State.RUNNING if is_ready is None else is_ready,
        revision=assignment.revision,
        spec_hash=assignment.spec_hash,
        generation=assignment.generation,
        ports=assignment.ports,
        restarts=restarts,
        last_exit=None if exit_code is None else LastExit(exit_code),
        changed_at=changed_at,
        reason=reason,
    )


def make_rollout(app: AppId, revision: int) -> Rollout:
    """Return a rollout that has ended well."""
    return Rollout(app, revision, phase=RolloutPhase.HEALTHY, ended_at=0.0)


def make_view(
    *revisions: Revision,
    nodes: Iterable[NodeRecord] = (),
    assignments: Iterable[Assignment] = (),
    statuses: Iterable[InstanceStatus] | None = None,
    intents: Mapping[str, WorkerIntent] | None = None,
    node_intents: Iterable[NodeIntent] = (),
    revision: int = 100,
) -> ClusterView:
    """Return a view in which the newest of each app's revisions is deployed.

    `statuses` None: every assignment runs and is ready. `intents` go to every app. The oldest revision was rolled
    out well, and the rollout of a newer one is about to begin.
    """
    held = tuple(assignments)
    reported = [make_status(one) for one in held] if statuses is None else list(statuses)
    newest = {one.id: max(other.number for other in revisions if other.id == one.id) for one in revisions}
    oldest = {one.id: min(other.number for other in revisions if other.id == one.id) for one in revisions}
    asked = tuple(sorted((intents or {}).items()))
    return ClusterView(
        revision=revision,
        apps={app: AppRecord(app, number, asked) for app, number in newest.items()},
        revisions={(one.id, one.number): one for one in revisions},
        assignments={one.instance: one for one in held},
        statuses={(one.instance, one.node): one for one in reported},
        nodes={node.name: node for node in nodes},
        node_intents={intent.name: intent for intent in node_intents},
        rollouts={app: make_rollout(app, number) for app, number in oldest.items()},
    )
