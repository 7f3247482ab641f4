"""Which moves make the load of the nodes more even by a clear margin. Pure.

Every move that is chosen makes one measure of the whole cluster smaller: first the copies per value of each `spread`
label (squares, in the order of the labels), then, where these stay the same, co-location, load and count together, by
at least a margin. The measure depends on the state alone, so moves end, and none is ever taken back by another. What
people asked of a worker stays true: conditions, ports, `max_per_node`, affinity. Left alone are workers that must not
run twice, are packed (`binpack`), want to be near others, are rolled out, or have an instance that is not available.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from hsu_cluster.planning.constraints import holds
from hsu_cluster.planning.layout import base_of, limits_of, may_run_twice
from hsu_cluster.planning.node_table import Demand, NodeEntry, NodeTable, WorkerKey, misfit, pick_ports
from hsu_cluster.planning.scoring import COLOCATION_POINTS, LOAD_POINTS
from hsu_cluster.planning.slots import available_at_s, status_of, target_of
from hsu_core.model.assignment import Assignment, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import NodeState
from hsu_core.model.rebalance import Move
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.model.spec import WorkerSpec
from hsu_core.model.view import ClusterView

LOAD_MARGIN = 0.10
"""After a move for the load its old node is still fuller than the new one by this share: less is worth no restart."""

COUNT_MARGIN = 0.10
"""Of workers that reserve nothing: instances by which the nodes must differ after a move, as a share of the mean."""

NODES_COMPARED = 64
"""The fullest and the emptiest nodes that are compared: in a larger cluster a node that joins is among the latter."""


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker that may be moved."""

    spec: WorkerSpec
    demand: Demand
    reserves: bool


@dataclass(frozen=True, slots=True)
class _Gain:
    """What a move makes better: `spread` per label, the rest in points; `threshold`: the least that counts."""

    spread: tuple[int, ...]
    points: float
    threshold: float

    @property
    def nearer(self) -> int:
        """Return what the first label that it changes gains."""
        return next((one for one in self.spread if one), 0)

    @property
    def is_clear(self) -> bool:
        """Return whether it is worth a restart."""
        return self.nearer > 0 or (self.nearer == 0 and self.points >= self.threshold)


def choose_moves(
    view: ClusterView, now_s: float, limit: int, left_alone: Collection[InstanceId] = ()
) -> tuple[Move, ...]:
    """Return at most `limit` moves, the best first, each instance at most once."""
    field = _Field(view, now_s, frozenset(left_alone))
    moves: list[Move] = []
    while len(moves) < limit:
        found = sorted(field.candidates(), key=lambda one: (-one[0].nearer, -one[0].points, one[1:]))
        before = len(moves)
        for _, key, source, target in found:
            if len(moves) >= limit:
                break
            move = field.take(key, source, target)
            if move is not None:
                moves.append(move)
        if len(moves) == before:
            break
    return tuple(moves)


class _Field:
    """The cluster while moves are tried on it."""

    def __init__(self, view: ClusterView, now_s: float, left_alone: frozenset[InstanceId]) -> None:
        self._view = view
        self._table = NodeTable.from_view(view, now_s)
        self._workers: dict[WorkerKey, _Worker] = {}
        self._movable: dict[tuple[WorkerKey, str], list[InstanceId]] = {}
        self._light: dict[str, int] = {}
        self._totals = _mean_totals(self._table)
        by_worker: dict[tuple[AppId, str], list[Assignment]] = {}
        for instance, assignment in view.assignments.items():
            by_worker.setdefault((instance.app_id, instance.worker), []).append(assignment)
        for (app, name), assigned in by_worker.items():
            revision = _settled_revision(view, app)
            spec = revision.spec.worker(name) if revision is not None else None
            if spec is None or revision is None:
                continue
            if not (spec.resources.cpu_milli or spec.resources.memory_bytes):
                for one in assigned:
                    self._light[one.node] = self._light.get(one.node, 0) + 1
            if _is_movable(view, app, revision, spec, assigned, now_s):
                self._add(app, spec, assigned, left_alone)
        self._count_margin = max(1.0, COUNT_MARGIN * sum(self._light.values()) / max(1, len(self._table.entries)))

    def _add(self, app: AppId, spec: WorkerSpec, assigned: list[Assignment], left_alone: frozenset[InstanceId]) -> None:
        demand = self._table.demand(app, spec)
        self._workers[demand.key] = _Worker(spec, demand, bool(demand.cpu_milli or demand.memory_bytes))
        for one in sorted(assigned, key=lambda held: held.instance, reverse=True):
            intent = self._view.node_intents.get(one.node)
            is_kept = intent is not None and (intent.is_cordoned or intent.is_draining)
            if not is_kept and one.instance not in left_alone:
                self._movable.setdefault((demand.key, one.node), []).append(one.instance)

    def candidates(self) -> Iterator[tuple[_Gain, WorkerKey, str, str]]:
        """Give every move that would be clearly better now."""
        order = sorted(self._table.entries, key=lambda entry: (*_pressure(entry), entry.name))
        emptiest, fullest = order[:NODES_COMPARED], {entry.name for entry in order[-NODES_COMPARED:]}
        targets: dict[WorkerKey, list[NodeEntry]] = {}
        for (key, source), instances in self._movable.items():
            if not instances or source not in fullest:
                continue
            worker = self._workers[key]
            if key not in targets:
                open_nodes = {entry.name for entry in self._table.eligible(worker.demand.constraints)}
                targets[key] = [entry for entry in emptiest if entry.name in open_nodes]
            entry = self._table.by_name[source]
            for target in targets[key]:
                gain = self._gain(worker, entry, target)
                if gain is not None and gain.is_clear:
                    yield gain, key, source, target.name

    def take(self, key: WorkerKey, source: str, target: str) -> Move | None:
        """Make a move if it is still clearly better; None if it is not."""
        worker, instances = self._workers[key], self._movable.get((key, source))
        entry, other = self._table.by_name[source], self._table.by_name[target]
        if not instances:
            return None
        gain = self._gain(worker, entry, other)
        if gain is None or not gain.is_clear:
            return None
        why = self._why(worker, gain, entry, other)
        instance = instances.pop()
        self._table.release(instance)
        ports = pick_ports(other, worker.demand, instance)
        self._table.take(other, key, instance, worker.spec.resources, ports)
        if not worker.reserves:
            self._light[source] -= 1
            self._light[target] = self._light.get(target, 0) + 1
        return Move(instance, source, target, why)

    def _gain(self, worker: _Worker, source: NodeEntry, target: NodeEntry) -> _Gain | None:
        """Return what the move of one instance is worth, None if the target cannot take it or suits it less."""
        demand, spec = worker.demand, worker.spec
        if source is target or misfit(target, demand) is not None:
            return None
        wishes = sum(
            wish.weight * (holds(wish.constraint, target.facts) - holds(wish.constraint, source.facts))
            for wish in spec.placement.affinity
        )
        points = float(min(0, wishes))  # a wish alone moves nothing, and nothing moves against one for little
        own = demand.key
        points += COLOCATION_POINTS * (source.workers.get(own, 0) - target.workers.get(own, 0) - 1)
        if not worker.reserves:
            threshold = self._count_margin
            points += self._light.get(source.name, 0) - self._light.get(target.name, 0) - 1
        else:
            cpu_mean, memory_mean = self._totals
            cpu, cpu_share = _load_gain(
                demand.cpu_milli, source.cpu_free, source.cpu_total, target.cpu_free, target.cpu_total, cpu_mean
            )
            memory, memory_share = _load_gain(
                demand.memory_bytes,
                *(source.memory_free, source.memory_total, target.memory_free, target.memory_total),
                memory_mean,
            )
            points += cpu + memory
            threshold = LOAD_POINTS * 2 * LOAD_MARGIN * max(cpu_share, memory_share)
        return _Gain(self._spread(worker, source, target), points, threshold)

    def _spread(self, worker: _Worker, source: NodeEntry, target: NodeEntry) -> tuple[int, ...]:
        """Return per label by how many copies the values come nearer to each other (below 0: they part)."""
        gains = []
        for label in worker.spec.placement.spread:
            fact = label.removeprefix("node.labels.")
            here, there = source.facts.get(fact), target.facts.get(fact)
            if here == there:
                gains.append(0)
            elif there is None:
                gains.append(-1)
            elif here is None:
                gains.append(1)
            else:
                copies = {here: 0, there: 0}
                for node, count in self._table.worker_nodes.get(worker.demand.key, {}).items():
                    value = self._table.by_name[node].facts.get(fact)
                    if value in copies:
                        copies[value] += count
                gains.append(copies[here] - copies[there] - 1)
        return tuple(gains)

    def _why(self, worker: _Worker, gain: _Gain, source: NodeEntry, target: NodeEntry) -> str:
        for label, one in zip(worker.spec.placement.spread, gain.spread, strict=True):
            if one > 0:
                return f"spread over {label}"
        copies = source.workers.get(worker.demand.key, 0)
        others = target.workers.get(worker.demand.key, 0)
        if copies - others > 1:
            return f"{copies} copies on {source.name}, {others} on {target.name}"
        if not worker.reserves:
            here, there = self._light.get(source.name, 0), self._light.get(target.name, 0)
            return f"{here} instances without reservation on {source.name}, {there} on {target.name}"
        return f"{source.name} is {_percent(source)} % full, {target.name} {_percent(target)} %"


def _mean_totals(table: NodeTable) -> tuple[float, float]:
    count = max(1, len(table.entries))
    cpu = sum(entry.cpu_total for entry in table.entries) / count
    memory = sum(entry.memory_total for entry in table.entries) / count
    return max(1.0, cpu), max(1.0, memory)


def _load_gain(
    size: int, source_free: int, source_total: int, target_free: int, target_total: int, mean: float
) -> tuple[float, float]:
    """Return (points, share of a mean node) of moving `size` of one resource.

    The measure is used squared over total, summed over the nodes: least when all are equally full.
    """
    if not size or not source_total or not target_total:
        return 0.0, 0.0
    here, there = source_total - source_free, target_total - target_free
    before = here * here / source_total + there * there / target_total
    after = (here - size) ** 2 / source_total + (there + size) ** 2 / target_total
    return LOAD_POINTS * (before - after) / mean, size / mean


def _pressure(entry: NodeEntry) -> tuple[float, int]:
    cpu = (entry.cpu_total - entry.cpu_free) / entry.cpu_total if entry.cpu_total else 0.0
    memory = (entry.memory_total - entry.memory_free) / entry.memory_total if entry.memory_total else 0.0
    return max(cpu, memory), entry.instances


def _percent(entry: NodeEntry) -> int:
    return round(100 * _pressure(entry)[0])


def _settled_revision(view: ClusterView, app: AppId) -> Revision | None:
    """Return the revision of an app that nothing is rolled out of, None while something is."""
    record, rollout = view.apps.get(app), view.rollouts.get(app)
    if record is None or rollout is None or app in view.held:
        return None
    is_settled = rollout.is_over and rollout.phase is RolloutPhase.HEALTHY and rollout.revision == record.revision
    return view.revisions.get((app, record.revision)) if is_settled and not _has_two_sets(rollout) else None


def _has_two_sets(rollout: Rollout) -> bool:
    return any(part.has_two_sets for part in rollout.workers)


def _is_movable(
    view: ClusterView, app: AppId, revision: Revision, spec: WorkerSpec, assigned: list[Assignment], now_s: float
) -> bool:
    """Return whether instances of a worker may be moved: it allows that, and all of it is available."""
    placement = spec.placement
    is_wanted_near = any(spec.id in other.placement.near for other in revision.spec.workers)
    if not may_run_twice(spec) or spec.rollout.strategy == "recreate" or placement.near or is_wanted_near:
        return False
    if placement.strategy == "binpack":
        return False
    target = target_of(view.apps[app], revision, spec.id)
    if target is None or not target.replicas or len(assigned) != target.replicas:
        return False
    surge, floor = limits_of(spec, target.replicas)
    if not surge and floor >= target.replicas:
        return False
    base = base_of(view.rollouts.get(app), spec.id)
    for one in assigned:
        node = view.nodes.get(one.node)
        if node is None or node.state is not NodeState.READY or one.spec_hash != target.spec_hash or one.is_stopped:
            return False
        if not base <= one.instance.slot < base + target.replicas:
            return False
        since_s = available_at_s(one, status_of(one, view.statuses), target, now_s)
        if since_s is None or since_s > now_s:
            return False
    return True


def node_loads(view: ClusterView, moves: Collection[Move], now_s: float) -> Mapping[str, tuple[int, int]]:
    """Return for each node that the moves touch how many instances it has before and after them."""
    touched = {name for move in moves for name in (move.source, move.target)}
    before = {name: entry.instances for name, entry in NodeTable.from_view(view, now_s).by_name.items()}
    after = dict(before)
    for move in moves:
        after[move.source] -= 1
        after[move.target] += 1
    return {name: (before[name], after[name]) for name in sorted(touched)}
