"""Which instances a route should send requests to, with what share, and when one has left. Pure.

`wanted` is read by the leader's traffic loop, `registered` and `new_percent` by whoever stops instances: nothing is
stopped before it is out of every route. This module must not know how a provider is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hsu_cluster.planning.layout import is_routed, traffic_of
from hsu_cluster.planning.slots import is_serving, status_of
from hsu_cluster.planning.weights import server_weights
from hsu_core.model.assignment import Assignment, InstanceStatus, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeRecord, NodeState
from hsu_core.model.rollout import Rollout, WorkerRollout
from hsu_core.model.routes import Endpoint, RouteSpec, RouteState
from hsu_core.model.view import ClusterView, DropAssignment, Plan, PutAssignment

RouteKey = tuple[AppId, str]

OLD_GROUPS: Mapping[str, str] = {"blue-green": "active"}
NEW_GROUPS: Mapping[str, str] = {"blue-green": "preview"}
"""Names of the two sets by strategy; every other strategy has `stable` and `canary`."""

NEW_GROUP_NAMES = frozenset({"canary", "preview"})


@dataclass(frozen=True, slots=True)
class WantedRoute:
    """What a route should be now. `weights`: (group, percent), the old set first; one entry while there is one set.

    `alive`: instances whose process may be at a request, so that one which leaves is given time. `is_needed`: False
    for a route that nobody asks for any more; it is cleared and forgotten.
    """

    app: AppId
    spec: RouteSpec
    endpoints: tuple[Endpoint, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    alive: frozenset[InstanceId] = frozenset()
    is_needed: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """An endpoint with its own weight (0..256) among the servers of its route."""

    endpoint: Endpoint
    weight: int


def wanted(
    view: ClusterView,
    leaving: Collection[InstanceId],
    weights: Mapping[tuple[AppId, str], int],
    *,
    apps: Collection[AppId] | None = None,
) -> dict[RouteKey, WantedRoute]:
    """Return what each route of `apps` (None: all) should be; routes of apps that cannot be read are left out.

    An endpoint is an instance that runs ready under its present order (`serves`) and is not in `leaving`. Those on
    lost nodes are left out, unless none would be left: a master that is cut off must not empty a load balancer. Then
    those stay that were ready when they were last heard of.
    `weights`: percent of the new set, by (app, worker); without an entry what the rollout's record says.
    """
    chosen = {app for app in {*view.apps, *(app for app, _ in view.routes)} if apps is None or app in apps}
    found: dict[RouteKey, WantedRoute] = {}
    specs: dict[AppId, tuple[RouteSpec, ...]] = {}
    for app in sorted(chosen - view.held):
        if app not in view.apps:
            specs[app] = ()
        elif (revision := _revision(view, app)) is not None:
            specs[app] = revision.spec.routes
    assigned = _assigned(view, {(app, route.worker) for app, routes in specs.items() for route in routes})
    for app, routes in specs.items():
        for spec in routes:
            found[app, spec.name] = _wanted_route(view, app, spec, assigned[app, spec.worker], leaving, weights)
        for (owner, name), state in sorted(view.routes.items()):
            if owner == app and (app, name) not in found:
                spec = state.spec or RouteSpec(name, "", "")
                known = [view.assignments[one] for one in _members(state) if one in view.assignments]
                found[app, name] = WantedRoute(app, spec, alive=_alive(view, known), is_needed=False)
    return found


def _revision(view: ClusterView, app: AppId) -> Revision | None:
    """Return the revision whose routes hold: the app's own, or the stable one while everything returns to it."""
    rollout = view.rollouts.get(app)
    current = view.apps[app].revision
    if rollout is not None and rollout.is_going_back and rollout.revision == current and rollout.stable:
        current = rollout.stable
    return view.revisions.get((app, current))


def _assigned(
    view: ClusterView, workers: Collection[tuple[AppId, str]]
) -> Mapping[tuple[AppId, str], Sequence[Assignment]]:
    grouped: dict[tuple[AppId, str], list[Assignment]] = defaultdict(list)
    for instance, assignment in view.assignments.items() if workers else ():
        key = (instance.app_id, instance.worker)
        if key in workers:
            grouped[key].append(assignment)
    for group in grouped.values():
        group.sort(key=lambda one: one.instance)
    return grouped


def _wanted_route(
    view: ClusterView,
    app: AppId,
    spec: RouteSpec,
    assigned: Sequence[Assignment],
    leaving: Collection[InstanceId],
    weights: Mapping[tuple[AppId, str], int],
) -> WantedRoute:
    rollout = two_sets(view, app, spec.worker)
    serving = [
        made
        for one in assigned
        if one.instance not in leaving and (made := _endpoint(view, one, spec, rollout)) is not None
    ]
    near = [endpoint for endpoint in serving if is_known_to_serve(view, view.assignments[endpoint.instance])]
    percent = weights.get((app, spec.worker), traffic_of(view.rollouts.get(app), rollout))
    return WantedRoute(
        app, spec, tuple(near or serving), group_weights(view, app, spec.worker, percent), _alive(view, assigned)
    )


def _endpoint(
    view: ClusterView, assignment: Assignment, spec: RouteSpec, rollout: WorkerRollout | None
) -> Endpoint | None:
    status = status_of(assignment, view.statuses)
    if status is None or not may_serve(assignment, status):
        return None
    own = view.revisions.get((assignment.instance.app_id, assignment.revision))
    named = next((route for route in (own.spec.routes if own else ()) if route.name == spec.name), spec)
    ports = dict(status.ports)
    port = ports.get(named.port, ports.get(spec.port))
    if port is None:
        return None
    group = group_of(view, assignment.instance, rollout)
    return Endpoint(assignment.instance, status.epoch, host_of(view.nodes.get(assignment.node)), port, group)


def serves(assignment: Assignment, status: InstanceStatus) -> bool:
    """Return whether the process runs ready and will go on under the present order.

    A newer order that the agent has not taken yet is no reason to lose a process, unless it asks for another one.
    """
    is_same = status.spec_hash == assignment.spec_hash and status.generation == assignment.generation
    return is_serving(status) and not assignment.is_stopped and (status.epoch == assignment.epoch or is_same)


def may_serve(assignment: Assignment, status: InstanceStatus) -> bool:
    """Return whether the process serves, or did so when its node was last heard of: what is lost may go on."""
    if status.state is State.UNKNOWN:
        status = replace(status, state=State.RUNNING)
    return serves(assignment, status)


def is_known_to_serve(view: ClusterView, assignment: Assignment) -> bool:
    """Return whether the process serves on a node that is not lost."""
    status = status_of(assignment, view.statuses)
    return status is not None and serves(assignment, status) and not is_on_lost_node(view, assignment)


def is_on_lost_node(view: ClusterView, assignment: Assignment) -> bool:
    """Return whether nothing is known of the node; one whose agent said good-bye runs its workers on."""
    node = view.nodes.get(assignment.node)
    return node is None or node.state is NodeState.LOST


def _alive(view: ClusterView, assigned: Iterable[Assignment]) -> frozenset[InstanceId]:
    statuses = ((one, status_of(one, view.statuses)) for one in assigned)
    return frozenset(
        one.instance
        for one, status in statuses
        if status is not None and status.state in (State.RUNNING, State.STOPPING) and not is_on_lost_node(view, one)
    )


def _members(state: RouteState) -> set[InstanceId]:
    return {endpoint.instance for endpoint in state.endpoints} | set(state.leaving)


def host_of(node: NodeRecord | None) -> str:
    """Return where other hosts reach the workers of a node."""
    return "127.0.0.1" if node is None else node.address or node.name


def two_sets(view: ClusterView, app: AppId, worker: str) -> WorkerRollout | None:
    """Return where the worker's rollout is while two sets of it exist, else None."""
    rollout = view.rollouts.get(app)
    found = rollout.worker(worker) if rollout is not None else None
    return found if found is not None and found.has_two_sets else None


def is_of_new_set(slot: int, rollout: WorkerRollout) -> bool:
    """Return whether a slot belongs to the new of two sets: the greatest base that is not above it decides."""
    if rollout.new_base > rollout.stable_base:
        return slot >= rollout.new_base
    return slot < rollout.stable_base


def group_of(view: ClusterView, instance: InstanceId, rollout: WorkerRollout | None) -> str:
    """Return the set of an instance: stable or canary, with blue-green active or preview."""
    if rollout is not None and is_of_new_set(instance.slot, rollout):
        return NEW_GROUPS.get(rollout.strategy, "canary")
    return OLD_GROUPS.get(_strategy(view, instance.app_id, instance.worker, rollout), "stable")


def _strategy(view: ClusterView, app: AppId, worker: str, rollout: WorkerRollout | None) -> str:
    if rollout is not None:
        return rollout.strategy
    record = view.apps.get(app)
    revision = view.revisions.get((app, record.revision)) if record is not None else None
    spec = revision.spec.worker(worker) if revision is not None else None
    return spec.rollout.strategy if spec is not None else ""


def group_weights(view: ClusterView, app: AppId, worker: str, percent: int) -> tuple[tuple[str, int], ...]:
    """Return (group, percent) of a worker's sets, the new set having `percent` where there are two."""
    rollout = two_sets(view, app, worker)
    old = OLD_GROUPS.get(_strategy(view, app, worker, rollout), "stable")
    if rollout is None:
        return ((old, 100),)
    return (old, 100 - percent), (NEW_GROUPS.get(rollout.strategy, "canary"), percent)


def servers(endpoints: Sequence[Endpoint], weights: Sequence[tuple[str, int]]) -> tuple[Server, ...]:
    """Return the endpoints with weights of their own, so that each group has its percent of the whole."""
    percent = next((share for group, share in weights if group in NEW_GROUP_NAMES), 0)
    old = [one for one in endpoints if one.group not in NEW_GROUP_NAMES]
    new = [one for one in endpoints if one.group in NEW_GROUP_NAMES]
    old_weights, new_weights = server_weights(percent, len(old), len(new))
    weighted = [*zip(old, old_weights, strict=True), *zip(new, new_weights, strict=True)]
    return tuple(Server(one, weight) for one, weight in sorted(weighted, key=lambda pair: pair[0].instance))


def new_percent(state: RouteState) -> int:
    """Return the percent that the new set has, as confirmed; 0 where there is one set."""
    return next((share for group, share in state.weights if group in NEW_GROUP_NAMES), 0)


def unconfirmed_route(view: ClusterView, rollout: Rollout, part: WorkerRollout) -> str:
    """Return which route has not confirmed that the new set has `part.traffic` percent (empty: all have)."""
    number = rollout.stable if rollout.is_going_back else rollout.revision
    revision = view.revisions.get((rollout.id, number))
    if not is_routed(revision, part.worker):
        return ""
    assert revision is not None
    for route in revision.spec.routes:
        if route.worker != part.worker or route.provider is None:
            continue
        state = view.routes.get((rollout.id, route.name))
        if state is None:
            return f"route {route.name}: its provider has confirmed nothing yet"
        if state.trouble:
            return f"route {route.name}: {state.trouble}"
        if new_percent(state) != part.traffic:
            return f"route {route.name} to give it {part.traffic} %"
    return ""


def registered(view: ClusterView) -> dict[AppId, set[InstanceId]]:
    """Return by app who is in a route or perhaps still at a request: it must not be stopped yet."""
    found: dict[AppId, set[InstanceId]] = {}
    for (app, _), state in view.routes.items():
        found.setdefault(app, set()).update(_members(state))
    return found


def leaving_of(plan: Plan, view: ClusterView) -> frozenset[InstanceId]:
    """Return whose process a plan, made on `view`, ends: what it says is leaving, and what its actions replace."""
    gone = set(plan.leaving)
    for action in plan.actions:
        if isinstance(action, DropAssignment):
            gone.add(action.instance)
        elif isinstance(action, PutAssignment):
            new, old = action.assignment, view.assignments.get(action.assignment.instance)
            if old is not None and (new.is_stopped or _process(new) != _process(old)):
                gone.add(new.instance)
    return frozenset(gone)


def _process(assignment: Assignment) -> tuple[str, str, int]:
    return assignment.node, assignment.spec_hash, assignment.generation
