"""A small cluster for planner properties: applies plans, and lets agents act and report, each when told to.

Processes and reports are separate, so that a test can look at what really runs while the planner sees
what was reported. Agents follow the contract of `hsu_core.model.assignment` and nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hsu_cluster.planning.rebalance import with_rebalance
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.analysis import AnalysisRun
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import ALIVE, State
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState
from hsu_core.model.rebalance import DEFAULT_RULES, Rebalance, RebalanceIntent
from hsu_core.model.rollout import Rollout
from hsu_core.model.routes import RouteState
from hsu_core.model.spec import Guarantee, WorkerSpec
from hsu_core.model.view import (
    ClusterView,
    DropAssignment,
    DropRollout,
    DropRun,
    DropStatus,
    Plan,
    PutAssignment,
    PutRebalance,
    PutRollout,
    PutRun,
)


@dataclass(slots=True)
class Process:
    """What an agent holds of a slot: the order it follows and the state of the process."""

    order: Assignment
    state: State
    is_ready: bool = False


class Cluster:
    """Desired state, observed state and what really runs; every change moves the store revision on."""

    def __init__(self, nodes: list[NodeRecord]) -> None:
        self.revision = 10
        self.now_s = 1000.0
        self.apps: dict[AppId, AppRecord] = {}
        self.revisions: dict[tuple[AppId, int], Revision] = {}
        self.assignments: dict[InstanceId, Assignment] = {}
        self.statuses: dict[tuple[InstanceId, str], InstanceStatus] = {}
        self.nodes: dict[str, NodeRecord] = {node.name: node for node in nodes}
        self.node_intents: dict[str, NodeIntent] = {}
        self.processes: dict[tuple[InstanceId, str], Process] = {}
        self.broken_hashes: set[str] = set()
        self.rollouts: dict[AppId, Rollout] = {}
        self.runs: dict[tuple[AppId, str], AnalysisRun] = {}
        self.routes: dict[tuple[AppId, str], RouteState] = {}
        self.events: list[tuple[str, str]] = []
        self.crashing_hashes: set[str] = set()
        self.restarts: Counter[tuple[InstanceId, str]] = Counter()
        self.epochs: dict[InstanceId, int] = {}
        self.rebalance_intent: RebalanceIntent | None = None
        self.rebalance: Rebalance | None = None
        self.rebalance_rules = DEFAULT_RULES

    def view(self) -> ClusterView:
        """Return a snapshot."""
        return ClusterView(
            self.revision,
            dict(self.apps),
            dict(self.revisions),
            dict(self.assignments),
            dict(self.statuses),
            dict(self.nodes),
            dict(self.node_intents),
            rollouts=dict(self.rollouts),
            runs=dict(self.runs),
            routes=dict(self.routes),
            rebalance_intent=self.rebalance_intent,
            rebalance=self.rebalance,
            rebalance_rules=self.rebalance_rules,
        )

    def touch(self) -> None:
        """Count one commit."""
        self.revision += 1

    def plan_and_apply(self) -> Plan:
        """Run the planner on a fresh view, check its plan and apply all of it."""
        view = self.view()
        plan = with_rebalance(reconcile(view, self.now_s), view, self.now_s)
        before = dict(self.assignments)
        self.apply(plan)
        self.check_plan(plan, before)
        return plan

    def apply(self, plan: Plan) -> None:
        """Apply a plan as one commit, comparing every previous epoch."""
        for action in plan.actions:
            match action:
                case PutAssignment(assignment, previous_epoch, _):
                    current = self.assignments.get(assignment.instance)
                    assert (current.epoch if current else 0) == previous_epoch
                    assert assignment.epoch > self.epochs.get(assignment.instance, 0), "the epoch went back"
                    assert assignment.epoch == self.revision + 1
                    self.epochs[assignment.instance] = assignment.epoch
                    self.assignments[assignment.instance] = assignment
                case DropAssignment(instance, previous_epoch, _):
                    assert self.assignments.pop(instance).epoch == previous_epoch
                case PutRollout(rollout, events):
                    self.rollouts[rollout.id] = rollout
                    self.events += events
                case DropRollout(app):
                    del self.rollouts[app]
                case PutRebalance(rebalance, events):
                    self.rebalance = rebalance
                    self.events += events
                case PutRun(run):
                    self.runs[run.app, run.id] = run
                case DropRun(app, run_id):
                    del self.runs[app, run_id]
                case DropStatus(instance, node, _):
                    del self.statuses[instance, node]
                    process = self.processes.get((instance, node))
                    if process is not None and process.state not in ALIVE:
                        del self.processes[instance, node]
        if plan.actions:
            self.touch()

    # --- agents ------------------------------------------------------------------------------

    def act(self, node: str) -> None:
        """Let a node's agent take one step with every slot it knows: follow the order, stop, start, become ready."""
        record = self.nodes.get(node)
        if record is None or record.state is not NodeState.READY:
            return
        orders = {order.instance: order for order in self.assignments.values() if order.node == node}
        for instance in sorted(orders.keys() | {held for held, where in self.processes if where == node}):
            self._act_on(instance, node, orders.get(instance))

    def _act_on(self, instance: InstanceId, node: str, order: Assignment | None) -> None:
        process = self.processes.get((instance, node))
        if order is None:
            if process is not None:
                self._stop_a_step(process)
            return
        if process is None:
            self.processes[instance, node] = Process(order, State.STOPPED if order.is_stopped else State.STARTING)
            return
        if order.is_stopped:
            self._stop_a_step(process)
            if process.state is State.STOPPED:
                process.order = order
            return
        is_same = (process.order.spec_hash, process.order.generation) == (order.spec_hash, order.generation)
        if not is_same:
            self.restarts[instance, node] = 0
        if not is_same and process.state in (State.RUNNING, State.STARTING):
            process.state, process.is_ready = State.STOPPING, False
            return
        if process.state is State.RUNNING:
            process.is_ready = order.spec_hash not in self.broken_hashes
            if order.spec_hash in self.crashing_hashes:
                process.state, process.is_ready = State.RESTARTING, False
                self.restarts[instance, node] += 1
        elif process.state is State.STARTING:
            process.state = State.RUNNING
        else:
            process.state = State.STARTING
        process.order = order

    @staticmethod
    def _stop_a_step(process: Process) -> None:
        process.is_ready = False
        process.state = State.STOPPING if process.state in (State.RUNNING, State.STARTING) else State.STOPPED

    def report(self, node: str) -> None:
        """Let a node's agent report all it knows."""
        record = self.nodes.get(node)
        if record is None or record.state is not NodeState.READY:
            return
        for (instance, where), process in sorted(self.processes.items(), key=lambda pair: pair[0]):
            if where != node:
                continue
            order = process.order
            status = InstanceStatus(
                instance,
                node,
                order.epoch,
                process.state,
                is_ready=process.is_ready,
                revision=order.revision,
                spec_hash=order.spec_hash,
                generation=order.generation,
                ports=order.ports,
                restarts=max(0, self.restarts[instance, where] - 1) if order.spec_hash in self.crashing_hashes else 0,
                changed_at=self.now_s,
            )
            known = self.statuses.get((instance, node))
            if known is None or replace(known, changed_at=0.0) != replace(status, changed_at=0.0):
                self.statuses[instance, node] = status
                self.touch()

    def step_all(self) -> Plan:
        """Let every agent act and report, then plan and apply; one second passes."""
        for name in sorted(self.nodes):
            self.act(name)
            self.report(name)
        self.now_s += 1.0
        return self.plan_and_apply()

    def settle(self, rounds: int) -> Plan:
        """Step until nothing changes any more. Fails when that takes more than `rounds`."""
        for _ in range(rounds):
            before = (self.revision, self._picture())
            plan = self.step_all()
            if not plan.actions and (self.revision, self._picture()) == before:
                return plan
        raise AssertionError(f"not settled after {rounds} rounds; last plan: {plan}")

    def _picture(self) -> list[tuple[InstanceId, str, State, bool]]:
        return sorted((*key, process.state, process.is_ready) for key, process in self.processes.items())

    # --- nodes -------------------------------------------------------------------------------

    def set_state(self, node: str, state: NodeState) -> None:
        """Mark a node; its processes go on whatever the cluster thinks, but strict ones end where it can fence."""
        record = self.nodes[node] = replace(self.nodes[node], state=state)
        for (_, where), process in self.processes.items():
            is_strict = self.spec_of(process.order).guarantee is Guarantee.STRICT
            if where == node and is_strict and state is NodeState.LOST and record.fence == "":
                process.state, process.is_ready = State.RESTARTING, False
        self.touch()

    def remove_node(self, node: str) -> None:
        """Remove a node for good: whoever does it promises that nothing runs there."""
        del self.nodes[node]
        self.node_intents.pop(node, None)
        for key in [key for key in self.processes if key[1] == node]:
            del self.processes[key]
        self.touch()

    # --- what must hold ----------------------------------------------------------------------

    def spec_of(self, assignment: Assignment) -> WorkerSpec:
        """Return the worker specification an assignment was made from."""
        revision = self.revisions[assignment.instance.app_id, assignment.revision]
        spec = revision.spec.worker(assignment.instance.worker)
        assert spec is not None
        return spec

    def check_plan(self, plan: Plan, before: dict[InstanceId, Assignment]) -> None:
        """Check capacity, ports, max_per_node and the strict rule on the assignments after a plan."""
        per_node: dict[str, list[Assignment]] = {}
        for assignment in self.assignments.values():
            per_node.setdefault(assignment.node, []).append(assignment)
        for name, held in per_node.items():
            if name not in self.nodes:
                continue
            capacity = self.nodes[name].capacity
            specs = [self.spec_of(assignment) for assignment in held]
            assert sum(spec.resources.cpu_milli for spec in specs) <= capacity.cpu_milli, name
            assert sum(spec.resources.memory_bytes for spec in specs) <= capacity.memory_bytes, name
            ports = Counter(port for assignment in held for _, port in assignment.ports)
            assert not ports or max(ports.values()) == 1, (name, ports)
            for assignment, spec in zip(held, specs, strict=True):
                numbers = dict(assignment.ports)
                assert set(numbers) == {port.name for port in spec.ports}
                for port in spec.ports:
                    if port.is_dynamic:
                        assert capacity.port_low <= numbers[port.name] <= capacity.port_high
                    else:
                        assert numbers[port.name] == port.number
        for action in plan.actions:
            if isinstance(action, PutAssignment):
                self._check_put(action, before.get(action.assignment.instance), per_node)

    def _check_put(self, action: PutAssignment, old: Assignment | None, per_node: dict[str, list[Assignment]]) -> None:
        new = action.assignment
        spec = self.spec_of(new)
        limit = spec.placement.max_per_node
        mates = sum(
            (other.instance.app_id, other.instance.worker) == (new.instance.app_id, new.instance.worker)
            for other in per_node[new.node]
        )
        is_judged = old is None or old.node != new.node or old.revision != new.revision
        assert not (limit and is_judged and mates > limit), (new.instance, mates)
        was_on = self.nodes.get(old.node) if old is not None else None
        is_fenced = was_on is not None and was_on.state is NodeState.LOST and was_on.fence == ""
        if old is not None and old.node != new.node and was_on is not None and not is_fenced:
            assert spec.guarantee is not Guarantee.STRICT, f"{new.instance} is strict and moved in one step"

    def check_strict(self) -> None:
        """Check that no strict slot has two live processes."""
        live = Counter(
            instance
            for (instance, _), process in self.processes.items()
            if process.state in ALIVE and self.spec_of(process.order).guarantee is Guarantee.STRICT
        )
        assert not live or max(live.values()) == 1, live

    def ready_count(self, worker: str) -> int:
        """Return how many processes of a worker really are ready."""
        return sum(
            process.is_ready and process.state is State.RUNNING and instance.worker == worker
            for (instance, _), process in self.processes.items()
        )
