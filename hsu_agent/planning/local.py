"""What one host without a cluster is to run: orders out of the workers of its files. Pure.

An order that is unchanged keeps its epoch and its ports; whatever differs gets the next epoch. An instance whose
dependencies are not met is held back (it gets no order); one that has an order keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hsu_agent.planning import stop as stop_rules
from hsu_agent.planning.observed import Desired
from hsu_core.model.assignment import Assignment, InstanceStatus, Ports
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.order import OrderSpec
from hsu_core.model.spec import WorkerSpec

LOCAL_NODE = "local"
"""Name of the node in orders that no master gave."""


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """One worker of the files, and the hash of what its process must be restarted for."""

    spec: OrderSpec
    spec_hash: str

    def instances(self) -> tuple[InstanceId, ...]:
        """Return its slots."""
        app, worker = self.spec.app, self.spec.worker
        count = worker.replicas if worker.is_enabled else 0
        return tuple(InstanceId(app.namespace, app.app, worker.id, slot) for slot in range(count))


@dataclass(frozen=True, slots=True)
class Asked:
    """What people asked since: instances stopped on request, and how often each was to be started anew."""

    stopped: frozenset[InstanceId] = frozenset()
    generations: tuple[tuple[InstanceId, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """Orders to put, instances whose order is to be dropped, and who is held back with the reason.

    `lacking`: dynamic ports that were not there to be given, by instance.
    """

    put: tuple[Desired, ...] = ()
    drop: tuple[InstanceId, ...] = ()
    held: tuple[tuple[InstanceId, str], ...] = ()


def plan(
    workers: Iterable[LocalWorker],
    present: Mapping[InstanceId, Desired],
    statuses: Mapping[InstanceId, InstanceStatus],
    asked: Asked,
    free_ports: Iterable[int],
    ending: Mapping[InstanceId, Desired],
) -> LocalPlan:
    """Return what brings the orders in force to what the files say.

    `present` are the orders in force, `ending` those that were dropped and whose processes are not gone yet,
    `free_ports` numbers that nobody uses, tried in this order and only as far as they are needed.
    """
    by_worker = {(worker.spec.app, worker.spec.worker.id): worker for worker in workers}
    wanted = {instance: worker for worker in by_worker.values() for instance in worker.instances()}
    gone = {instance: present[instance] for instance in present.keys() - wanted.keys()}
    drop = tuple(found for found in next_to_end({**ending, **gone}) if found in gone) if gone else ()
    taken = {number for order in present.values() for _, number in order.assignment.ports}
    numbers = (number for number in free_ports if number not in taken)
    generations = dict(asked.generations)
    put: list[Desired] = []
    held: list[tuple[InstanceId, str]] = []
    for instance, worker in wanted.items():
        current = present.get(instance)
        waits_for = "" if current is not None else _waits_for(worker.spec, by_worker, statuses)
        if waits_for:
            held.append((instance, waits_for))
            continue
        ports = _ports(worker.spec.worker, current, numbers)
        if ports is None:
            held.append((instance, "waits for a free port of the range `ports`"))
            continue
        order = _order(instance, worker, current, ports, generations.get(instance, 0), instance in asked.stopped)
        if order != current:
            put.append(order)
    return LocalPlan(tuple(put), drop, tuple(held))


def _order(
    instance: InstanceId, worker: LocalWorker, current: Desired | None, ports: Ports, generation: int, is_stopped: bool
) -> Desired:
    assignment = Assignment(
        instance,
        LOCAL_NODE,
        current.assignment.epoch if current is not None else 1,
        worker.spec.revision,
        worker.spec_hash,
        generation,
        ports,
        is_stopped,
    )
    order = Desired(assignment, worker.spec)
    if current is None or order == current:
        return order
    return Desired(replace(assignment, epoch=assignment.epoch + 1), worker.spec)


def _ports(worker: WorkerSpec, current: Desired | None, numbers: Iterator[int]) -> Ports | None:
    """Return a number for each port of an instance: fixed, as it has it now, or free; None if there is none left."""
    known = dict(current.assignment.ports) if current is not None else {}
    was_fixed = {port.name for port in current.spec.worker.ports if not port.is_dynamic} if current is not None else ()
    found: list[tuple[str, int]] = []
    for port in worker.ports:
        number = port.number or (known.get(port.name, 0) if port.name not in was_fixed else 0)
        number = number or next(numbers, 0)
        if not number:
            return None
        found.append((port.name, number))
    return tuple(found)


def _waits_for(
    spec: OrderSpec, by_worker: Mapping[tuple[AppId, str], LocalWorker], statuses: Mapping[InstanceId, InstanceStatus]
) -> str:
    """Return what an instance waits for before its first start, or an empty text."""
    for needed in spec.worker.depends_on:
        condition = dict(spec.worker.dependency_conditions).get(needed, "healthy")
        worker = by_worker.get((spec.app, needed))
        if worker is None or not worker.spec.worker.is_enabled:
            continue
        missing = [found for found in worker.instances() if not _is_met(condition, statuses.get(found))]
        if missing:
            return f"waits for {missing[0].short} to be {condition.replace('_', ' ')}"
    return ""


def _is_met(condition: str, status: InstanceStatus | None) -> bool:
    if status is None:
        return False
    if condition == "started":
        return status.pid is not None or status.last_exit is not None
    if condition == "healthy":
        return status.is_ready
    has_ended = status.state in (State.STOPPED, State.FAILED) and status.last_exit is not None
    if condition == "completed":
        return has_ended
    return has_ended and status.last_exit is not None and status.last_exit.is_success


def next_to_end(living: Mapping[InstanceId, Desired]) -> tuple[InstanceId, ...]:
    """Return the instances to end first when all of `living` end: nobody else of them depends on these.

    A circle cannot be in checked files; if there is one, all of it ends at once.
    """
    needed = {(instance.app_id, other) for instance, order in living.items() for other in order.spec.worker.depends_on}
    ready = tuple(sorted(found for found in living if (found.app_id, found.worker) not in needed))
    return ready or tuple(sorted(living))


def longest_end_s(living: Mapping[InstanceId, Desired]) -> float:
    """Return the longest that the end of all of `living` takes by its own rules, in seconds.

    That is the sum of the stops along the longest chain of workers that depend on each other.
    """
    left, total_s = dict(living), 0.0
    chains: dict[tuple[AppId, str], float] = {}
    while left:
        for instance in next_to_end(left):
            order = left.pop(instance)
            own_s = chains.get((instance.app_id, instance.worker), 0.0) + stop_rules.longest_s(order)
            total_s = max(total_s, own_s)
            for other in order.spec.worker.depends_on:
                key = (instance.app_id, other)
                chains[key] = max(chains.get(key, 0.0), own_s)
    return total_s


def changed_keys(before: WorkerSpec, after: WorkerSpec) -> tuple[str, ...]:
    """Return the names of the parts of a worker that differ, sorted."""
    names = WorkerSpec.__slots__
    return tuple(sorted(name for name in names if getattr(before, name) != getattr(after, name)))
