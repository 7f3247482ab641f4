"""Whether a cluster stands as it is wanted: what people asked, what is assigned, what runs, and what was reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hsu_core.model.assignment import AppRecord, Assignment
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.wire import keys
from hsu_core.wire.codec import decode

if TYPE_CHECKING:
    from tests.sim.world import World


def unsettled(world: World) -> Iterator[str]:
    """Yield what is not as it is wanted, in words; nothing: all is well."""
    checks = world.checks
    if checks.leader is None:
        yield "nobody leads"
        return
    for name in world.nodes:
        if name not in checks.nodes or checks.nodes[name].state is not NodeState.READY:
            yield f"{name} is not back"
    given: Counter[tuple[str, str]] = Counter()
    wanted = 0
    for assignment in checks.assignments:
        instance = assignment.instance
        given[str(instance.app_id), instance.worker] += 1
        running = checks.alive.get(instance, [])
        here = [found for host, found in running if host == assignment.node]
        if assignment.is_stopped:
            if running:
                yield f"{instance} is to be stopped and runs on {[host for host, _ in running]}"
            continue
        wanted += 1
        if len(here) != 1 or len(running) != 1:
            yield f"{instance} is to run on {assignment.node}, and runs on {[host for host, _ in running]}"
            continue
        version = f"v={_version(checks.spec_of(assignment).execution.args)}"
        if here[0].version != version:
            yield f"{instance} runs {here[0].version} instead of {version}"
        status = checks.statuses.get((instance, assignment.node))
        if status is None or status.state is not State.RUNNING or not status.is_ready:
            yield f"{instance} runs, and its status is {status and status.state}"
        elif status.epoch != assignment.epoch:
            yield f"{instance} has epoch {assignment.epoch}, and its status {status.epoch}"
    runs = sum(len(running) for running in checks.alive.values())
    if runs != wanted:
        yield f"{runs} processes run, {wanted} are assigned"
    for entry in world.truth.everything(keys.ROLLOUTS):
        rollout = decode(Rollout, entry.value)
        if rollout.phase in (RolloutPhase.PROGRESSING, RolloutPhase.ROLLING_BACK):
            yield f"the rollout of {rollout.id} is {rollout.phase}"
    yield from _asked(world, given)


def _asked(world: World, given: Counter[tuple[str, str]]) -> Iterator[str]:
    """Yield which workers have another number of slots than people asked for."""
    wanted: Counter[tuple[str, str]] = Counter()
    for entry in world.truth.everything(keys.APPS):
        record = decode(AppRecord, entry.value)
        for spec in world.checks.revisions[str(record.id), record.revision].spec.workers:
            replicas = record.intent(spec.id).replicas
            wanted[str(record.id), spec.id] = spec.replicas if replicas is None else replicas
    for each in sorted(wanted.keys() | given.keys()):
        if wanted[each] != given[each]:
            yield f"{'/'.join(each)} has {given[each]} slots, {wanted[each]} are asked for"


def _version(arguments: tuple[str, ...]) -> str:
    return next((part.removeprefix("v=") for part in arguments if part.startswith("v=")), "")


def view_faults(world: World) -> Iterator[str]:
    """Yield where the leader's view is not what was committed up to its revision (I13)."""
    for master in world.masters.values():
        reign = master.service._reign if master.service is not None else None
        if reign is None or not master.is_running:
            continue
        snapshot, truth = reign.snapshot, world.truth
        if snapshot.revision < truth._state.compacted or snapshot.revision > truth.revision:
            continue
        page = truth._state.range(keys.ASSIGNMENTS, None, 100_000, snapshot.revision)
        committed = {entry.key for entry in page.entries}
        held = {keys.assignment(instance) for instance in snapshot.view().assignments}
        if committed != held:
            yield f"{master.name} sees other assignments at {snapshot.revision}: {sorted(committed ^ held)[:3]}"
        for entry in page.entries:
            seen = next(
                (each for each in snapshot.view().assignments.values() if keys.assignment(each.instance) == entry.key),
                None,
            )
            if seen is not None and seen.epoch != _epoch(entry.value):
                yield f"{master.name} sees {entry.key} of epoch {seen.epoch} at {snapshot.revision}"


def _epoch(value: bytes) -> int:
    return decode(Assignment, value).epoch
