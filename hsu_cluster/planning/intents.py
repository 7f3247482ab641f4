"""What people ask of an app, as pure edits of its record: deploy, scale, stop, start, restart.

The API reads a record, edits it here and writes it back with a compare-and-set. Nothing here looks at
what runs. Targets that do not exist raise NotFound with the names that do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from hsu_core.model.assignment import AppRecord, Revision, WorkerIntent
from hsu_core.model.errors import Conflict, InvalidInput, NotFound
from hsu_core.model.ids import SLOT_LIMIT, TargetName
from hsu_core.model.spec import AppSpec, WorkerSpec

Edit = Callable[[WorkerIntent, WorkerSpec], WorkerIntent]


def deploy(
    record: AppRecord | None,
    revision: Revision,
    explicit_replicas: Collection[str] | None = None,
    *,
    deployed_at: float | None = None,
    deployed_by: str | None = None,
    still_known: Collection[str] = (),
) -> AppRecord:
    """Return the record that asks for `revision`.

    A worker whose file states `replicas` (`explicit_replicas`; None: as the revision says) takes back an
    earlier `scale`; stops and restart counts stay; what was asked of workers that are gone is forgotten, except
    of those in `still_known`: they run until the rollout is decided.
    """
    explicit = revision.spec.explicit_replicas if explicit_replicas is None else explicit_replicas
    kept: dict[str, WorkerIntent] = {}
    for worker, intent in record.intents if record else ():
        if revision.spec.worker(worker) is not None or worker in still_known:
            kept[worker] = replace(intent, replicas=None) if worker in explicit else intent
    return AppRecord(
        id=revision.id,
        revision=revision.number,
        intents=_as_pairs(kept),
        deployed_at=revision.created_at if deployed_at is None else deployed_at,
        deployed_by=revision.created_by if deployed_by is None else deployed_by,
    )


def scale(record: AppRecord, spec: AppSpec, worker: str, replicas: int) -> AppRecord:
    """Return the record with `worker` at `replicas` instances, whatever its file says."""
    if not 0 <= replicas <= SLOT_LIMIT:
        raise InvalidInput(
            f"scale {spec.app}/{worker} to {replicas}",
            f"a worker has 0 to {SLOT_LIMIT} instances",
            "give a number in that range",
            code="input.replicas",
        )

    def edit(intent: WorkerIntent, _: WorkerSpec) -> WorkerIntent:
        stopped = tuple(slot for slot in intent.stopped_slots if slot < replicas)
        return replace(intent, replicas=replicas, stopped_slots=stopped)

    return _edit(record, [_worker(record, spec, worker)], edit)


def stop(record: AppRecord, spec: AppSpec, target: TargetName) -> AppRecord:
    """Return the record in which the target is stopped until somebody starts it."""
    slot = target.slot

    def edit(intent: WorkerIntent, _: WorkerSpec) -> WorkerIntent:
        if slot is None:
            return replace(intent, is_stopped=True, stopped_slots=())
        if intent.wants_stopped(slot):
            return intent
        return replace(intent, stopped_slots=tuple(sorted({*intent.stopped_slots, slot})))

    return _edit(record, _targeted(record, spec, target), edit)


def start(record: AppRecord, spec: AppSpec, target: TargetName) -> AppRecord:
    """Return the record in which the target is no longer stopped; one slot of a stopped worker starts alone."""
    slot = target.slot

    def edit(intent: WorkerIntent, worker: WorkerSpec) -> WorkerIntent:
        if slot is None:
            return replace(intent, is_stopped=False, stopped_slots=())
        stopped = range(_replicas(intent, worker)) if intent.is_stopped else intent.stopped_slots
        return replace(intent, is_stopped=False, stopped_slots=tuple(number for number in stopped if number != slot))

    return _edit(record, _targeted(record, spec, target), edit)


def restart(record: AppRecord, spec: AppSpec, target: TargetName) -> AppRecord:
    """Return the record with a higher generation for the target; running instances restart in waves.

    Raises Conflict when all of it is stopped: a restart is not a start.
    """
    workers = _targeted(record, spec, target)
    slot = target.slot

    def is_stopped(worker: WorkerSpec) -> bool:
        intent = record.intent(worker.id)
        return intent.is_stopped if slot is None else intent.wants_stopped(slot)

    if workers and all(is_stopped(worker) for worker in workers):
        raise Conflict(
            f"restart {_text(target)}",
            "it is stopped on request",
            f"start it with `hsu-cluster start {_text(target)}`",
            code="conflict.stopped",
        )

    def edit(intent: WorkerIntent, _: WorkerSpec) -> WorkerIntent:
        if slot is None:
            return replace(intent, restart_generation=intent.restart_generation + 1)
        counts = dict(intent.slot_restarts)
        counts[slot] = counts.get(slot, 0) + 1
        return replace(intent, slot_restarts=tuple(sorted(counts.items())))

    return _edit(record, workers, edit)


def _edit(record: AppRecord, workers: Iterable[WorkerSpec], edit: Edit) -> AppRecord:
    intents = dict(record.intents)
    for worker in workers:
        intents[worker.id] = edit(intents.get(worker.id, WorkerIntent()), worker)
    return replace(record, intents=_as_pairs(intents))


def _as_pairs(intents: dict[str, WorkerIntent]) -> tuple[tuple[str, WorkerIntent], ...]:
    """Return the intents as sorted pairs, without those that ask for nothing, so that equal wishes are equal."""
    return tuple((worker, intents[worker]) for worker in sorted(intents) if intents[worker] != WorkerIntent())


def _targeted(record: AppRecord, spec: AppSpec, target: TargetName) -> list[WorkerSpec]:
    """Return the workers that a target names. Raises NotFound."""
    if target.worker is None:
        return list(spec.workers)
    worker = _worker(record, spec, target.worker)
    if target.slot is not None:
        replicas = _replicas(record.intent(worker.id), worker)
        if target.slot >= replicas:
            raise NotFound(
                f"find {_text(target)}",
                f"worker {worker.id} has {replicas} instances"
                + (f", numbered 0 to {replicas - 1}" if replicas else ""),
                f"name one of these, or scale it with `hsu-cluster scale {spec.app}/{worker.id}={target.slot + 1}`",
                code="not-found.instance",
            )
    return [worker]


def _worker(record: AppRecord, spec: AppSpec, name: str) -> WorkerSpec:
    worker = spec.worker(name)
    if worker is None:
        raise NotFound(
            f"find worker {name} of app {record.id}",
            f"revision {record.revision} has {suggestion(name, [known.id for known in spec.workers], 'worker')}",
            "name one of its workers",
            code="not-found.worker",
        )
    return worker


def suggestion(name: str, known: Collection[str], noun: str) -> str:
    """Return what there is instead of `name`: `worker web (a typing error?)`, `workers a, b, c` or `no worker`."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    if close:
        return f"{noun} {close[0]} (a typing error?)"
    if not known:
        return f"no {noun}"
    shown = ", ".join(sorted(known)[:10])
    return f"{noun}s {shown}" + (f" and {len(known) - 10} more" if len(known) > 10 else "")


def _replicas(intent: WorkerIntent, worker: WorkerSpec) -> int:
    if not worker.is_enabled:
        return 0
    return worker.replicas if intent.replicas is None else intent.replicas


def _text(target: TargetName) -> str:
    text = target.app
    if target.worker is not None:
        text += f"/{target.worker}"
    if target.slot is not None:
        text += f".{target.slot}"
    return text
