"""The plan while it is being made: what the view holds of the apps in question, and the actions so far. Pure.

The one mutable value of a reconcile pass. It knows how an action is written down (epoch, room in the
node table); it must not decide which action is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from hsu_cluster.planning.constraints import fence_why
from hsu_cluster.planning.departure import Departure, departure_of
from hsu_cluster.planning.failover import MassLoss, mass_loss
from hsu_cluster.planning.node_table import NodeTable
from hsu_cluster.planning.slots import Desired, has_failed
from hsu_cluster.planning.traffic import registered
from hsu_core.model.assignment import Assignment, InstanceStatus, Ports
from hsu_core.model.errors import Bug
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import NodeState
from hsu_core.model.rebalance import Move, MoveState
from hsu_core.model.view import (
    Action,
    ClusterView,
    DropAssignment,
    DropStatus,
    Plan,
    PutAssignment,
    Waiting,
)

WorkerName = tuple[AppId, str]
Avoided = tuple[tuple[str, float], ...]

NO_LEASES: Mapping[str, float] = {}


class Draft:
    """A plan in the making for `wanted` apps (None: all).

    `leases`: for lost nodes the seconds until the lease of each is surely over, where it is not.
    """

    def __init__(
        self, view: ClusterView, now_s: float, wanted: frozenset[AppId] | None, leases: Mapping[str, float] = NO_LEASES
    ) -> None:
        self.leases = leases
        self.view = view
        self.now_s = now_s
        self.wanted = wanted
        self.held: set[AppId] = set()
        self.assigned: dict[WorkerName, dict[int, Assignment]] = {}
        self.statuses: dict[InstanceId, dict[str, InstanceStatus]] = {}
        self.with_originals: set[WorkerName] = set()
        """Workers with an instance that was placed for one on a lost node, which has told of itself again."""
        apps: dict[tuple[str, str], AppId] = {}
        for instance, assignment in view.assignments.items():
            name = (instance.namespace, instance.app)
            app = apps.get(name) or apps.setdefault(name, AppId(*name))
            if wanted is None or app in wanted:
                self.assigned.setdefault((app, instance.worker), {})[instance.slot] = assignment
                if assignment.replaces and (instance, assignment.replaces) in view.statuses:
                    self.with_originals.add((app, instance.worker))
        for (instance, node), status in view.statuses.items():
            name = (instance.namespace, instance.app)
            app = apps.get(name) or apps.setdefault(name, AppId(*name))
            if wanted is None or app in wanted:
                self.statuses.setdefault(instance, {})[node] = status
        self.with_failing: set[WorkerName] = set()
        """Workers with an instance that has failed to start several times in a row."""
        self.with_busy_ports: set[WorkerName] = set()
        """Workers with an instance that cannot start because another program holds one of its ports."""
        for instance, found in self.statuses.items():
            if any(has_failed(status) for status in found.values()):
                self.with_failing.add((instance.app_id, instance.worker))
            if any(status.busy_ports for status in found.values()):
                self.with_busy_ports.add((instance.app_id, instance.worker))
        self._puts: dict[InstanceId, PutAssignment] = {}
        self._drops: dict[InstanceId, DropAssignment] = {}
        self._forgotten: list[DropStatus] = []
        self._waiting: list[Waiting] = []
        self._unplaced: dict[InstanceId, str] = {}
        self._retry_at_s: float | None = None
        self._rollouts: list[Action] = []
        self._leaving: set[InstanceId] = set()
        self.weights: dict[WorkerName, int] = {}
        self._routed = registered(view)

    @cached_property
    def table(self) -> NodeTable:
        """Return the node table, built on first use: most passes place nothing.

        Drops made before are already taken out of it.
        """
        table = NodeTable.from_view(self.view, self.now_s)
        for instance in self._drops:
            table.release(instance)
        return table

    @cached_property
    def steady_nodes(self) -> frozenset[str]:
        """Return the names of the nodes that keep what they have: neither lost nor draining."""
        return frozenset(
            name
            for name, node in self.view.nodes.items()
            if node.state is not NodeState.LOST and not self.is_draining(name)
        )

    @cached_property
    def brake(self) -> MassLoss:
        """Return the lost nodes that nothing is moved off, because so many were lost together."""
        return mass_loss(self.view.nodes, self.now_s, self.view.times.ttl_s)

    def is_lost(self, node: str) -> bool:
        """Return whether a node is lost or removed."""
        record = self.view.nodes.get(node)
        return self.is_removed(node) if record is None else record.state is NodeState.LOST

    def is_removed(self, node: str) -> bool:
        """Return whether somebody removed the node: it is promised that nothing runs there."""
        return node not in self.view.nodes and node not in self.view.unreadable_nodes

    def why_unfenced(self, node: str) -> tuple[str, str] | None:
        """Return code and reason why a strict worker may still run on a node that is lost; None: it does not.

        It does not once the node's lease is over, which is before: its keeper has killed it then.
        """
        record = self.view.nodes.get(node)
        if record is None:
            return None if self.is_removed(node) else ("strict.unfenced", "its record cannot be read")
        why = fence_why(record)
        if why:
            return "strict.unfenced", f"that cannot end it by itself: {why}"
        left_s = self.leases.get(node, 0.0)
        if record.state is NodeState.LOST and left_s <= 0:
            return None
        self.retry_at(self.now_s + left_s)
        return "strict.lease", "its lease may not be over yet"

    def is_draining(self, node: str) -> bool:
        """Return whether a node is to be emptied."""
        intent = self.view.node_intents.get(node)
        return intent is not None and intent.is_draining

    @cached_property
    def has_departures(self) -> bool:
        """Return whether anything is to leave a node that lives."""
        return bool(self.moving) or any(intent.is_draining for intent in self.view.node_intents.values())

    @cached_property
    def moving(self) -> Mapping[InstanceId, Move]:
        """Return the moves of a rebalance that are on the way."""
        held = self.view.rebalance
        if held is None or not held.is_active:
            return {}
        return {move.instance: move for move in held.moves if move.state is MoveState.PENDING}

    @cached_property
    def moving_workers(self) -> frozenset[tuple[str, str, str]]:
        """Return (namespace, app, worker) of what a rebalance moves."""
        return frozenset((one.namespace, one.app, one.worker) for one in self.moving)

    def departure(self, assignment: Assignment) -> Departure | None:
        """Return why an instance is to leave its node (None: it stays)."""
        intent = self.view.node_intents.get(assignment.node)
        found = None if intent is None else departure_of(intent, self.now_s)
        if found is None and self.moving:
            move = self.moving.get(assignment.instance)
            if move is not None and move.source == assignment.node:
                return Departure(f"rebalance: {move.why}", to=move.target)
        return found

    def status(self, assignment: Assignment) -> InstanceStatus | None:
        """Return what the assigned node observed of the slot."""
        return self.statuses.get(assignment.instance, {}).get(assignment.node)

    def hold(self, app: AppId) -> None:
        """Change nothing of this app in this pass."""
        self.held.add(app)

    def put(
        self,
        instance: InstanceId,
        node: str,
        desired: Desired,
        ports: Ports,
        why: str,
        *,
        is_extra: bool = False,
        replaces: str = "",
        beside: str = "",
        avoided: Avoided = (),
        code: str = "Assigned",
    ) -> None:
        """Write down a new or changed assignment. Room in the table is the caller's to reserve."""
        previous = self.view.assignments.get(instance)
        previous_epoch = previous.epoch if previous else 0
        forced_off = "" if previous is None or previous.node == node else self._forced_off(previous)
        if previous is not None and _ends_process(previous, node, desired) and self._must_leave(instance):
            return
        if previous is not None and previous.spec_hash == desired.spec_hash:
            avoided = (*(one for one in previous.avoided if one[1] > self.now_s), *avoided)
        assignment = Assignment(
            instance,
            node,
            self._next_epoch(instance, previous_epoch),
            desired.revision,
            desired.spec_hash,
            desired.generation,
            ports,
            desired.is_stopped,
            is_extra or (previous is not None and previous.is_extra),
            replaces,
            beside,
            avoided,
        )
        self._puts[instance] = PutAssignment(assignment, previous_epoch, why, forced_off, code)

    def drop(self, assignment: Assignment, why: str) -> None:
        """Write down that a slot loses its assignment, and free its room: what this pass gave it before is void."""
        if self._must_leave(assignment.instance):
            return
        self._next_epoch(assignment.instance, assignment.epoch)
        self._puts.pop(assignment.instance, None)
        self._drops[assignment.instance] = DropAssignment(
            assignment.instance, assignment.epoch, why, self._forced_off(assignment)
        )
        if "table" in self.__dict__:
            self.table.release(assignment.instance)

    def _forced_off(self, assignment: Assignment) -> str:
        """Return the node if the instance is taken off it by force."""
        departure = self.departure(assignment) if self.has_departures else None
        return assignment.node if departure is not None and departure.forced_why else ""

    def is_changed(self, instance: InstanceId) -> bool:
        """Return whether this pass already changes the slot."""
        return instance in self._puts or instance in self._drops or instance in self._leaving

    def put_node(self, instance: InstanceId) -> str | None:
        """Return the node this pass assigns the slot to, if it does."""
        action = self._puts.get(instance)
        return action.assignment.node if action else None

    def forget(self, status: InstanceStatus, why: str) -> None:
        """Write down that a status means nothing any more."""
        self._forgotten.append(DropStatus(status.instance, status.node, why))

    def wait(self, subject: str, code: str, text: str) -> None:
        """Write down something that is not done now."""
        self._waiting.append(Waiting(subject, code, text))

    def unplaced(self, instance: InstanceId, reason: str) -> None:
        """Write down that no node can take the slot."""
        self._unplaced[instance] = reason

    def roll(self, *actions: Action) -> None:
        """Write down how far a rollout is, before anything that follows from it."""
        self._rollouts += actions

    def _must_leave(self, instance: InstanceId) -> bool:
        """Return whether an instance has to be out of its routes before its process is ended."""
        if instance not in self._routed.get(instance.app_id, ()):
            return False
        record = self.view.assignments.get(instance)
        if record is not None and self.is_lost(record.node):
            return False  # it serves nobody
        self._leaving.add(instance)
        self.wait(str(instance), "route.leaving", f"{instance} leaves its routes before it is stopped")
        return True

    def lacks_room(self, app: AppId) -> bool:
        """Return whether something of the app has no place."""
        return any(instance.app_id == app for instance in self._unplaced)

    def is_asked(self, app: AppId) -> bool:
        """Return whether this pass is about the app."""
        return self.wanted is None or app in self.wanted

    def retry_at(self, time_s: float) -> None:
        """Ask for another look when this time has come."""
        if time_s > self.now_s and (self._retry_at_s is None or time_s < self._retry_at_s):
            self._retry_at_s = time_s

    def plan(self) -> Plan:
        """Return the finished plan: statuses forgotten first, then drops, then assignments, each sorted."""
        forgotten = sorted(self._forgotten, key=lambda action: (action.instance, action.node))
        actions: list[Action] = [*forgotten]
        actions += [self._drops[instance] for instance in sorted(self._drops)]
        actions += [self._puts[instance] for instance in sorted(self._puts)]
        unplaced = {instance: self._unplaced[instance] for instance in sorted(self._unplaced)}
        waiting = tuple(sorted(set(self._waiting), key=lambda item: (item.subject, item.code, item.text)))
        return Plan(
            (*self._rollouts, *actions),
            waiting,
            self._retry_at_s,
            unplaced,
            frozenset(self._leaving),
            dict(self.weights),
        )

    def _next_epoch(self, instance: InstanceId, previous_epoch: int) -> int:
        """Return the epoch of a change made on this view. Raises Bug unless it grows."""
        epoch = self.view.revision + 1
        if epoch <= previous_epoch:
            raise Bug(
                f"change the assignment of {instance}",
                f"its epoch {previous_epoch} is not older than the view's revision {self.view.revision}",
                "the view was not built from the store; restart this master",
                code="internal.epoch",
            )
        return epoch


def _ends_process(previous: Assignment, node: str, desired: Desired) -> bool:
    """Return whether a change of an order ends the process that follows it."""
    return (
        previous.node != node
        or previous.spec_hash != desired.spec_hash
        or previous.generation < desired.generation
        or (desired.is_stopped and not previous.is_stopped)
    )
