"""What one slot is worth at this moment: available, serving, ended; and what it should be. Pure.

Exists so that waves, drains, dependencies and health judge a slot by the same words. It must not decide
what to do: that is `reconcile` and its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision, WorkerIntent
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import RestartPolicy, WorkerSpec

ENDED = frozenset({State.STOPPED, State.FAILED, State.REGISTERED})
"""States without a process, in which nothing starts by itself."""


FAILED_STARTS = 5
"""Starts in vain in a row after which the node itself is suspected: with the usual back-off within about 15 s."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What a slot should run."""

    revision: int
    spec_hash: str
    generation: int
    is_stopped: bool


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """One worker of the current revision with what people asked of it."""

    app: AppId
    spec: WorkerSpec
    intent: WorkerIntent
    revision: int
    spec_hash: str
    base: int = 0
    """First slot of its set."""
    min_healthy_s: float = 0.0
    """Ready for so long counts as available."""

    @property
    def name(self) -> str:
        """Return `shop/web`."""
        return f"{self.app}/{self.spec.id}"

    @property
    def replicas(self) -> int:
        """Return how many slots there should be: 0 when disabled, else what was scaled to, else the specification's."""
        if not self.spec.is_enabled:
            return 0
        scaled = self.intent.replicas
        return self.spec.replicas if scaled is None else scaled

    def instance(self, slot: int) -> InstanceId:
        """Return the id of a slot."""
        return InstanceId(self.app.namespace, self.app.app, self.spec.id, slot)

    def desired(self, slot: int, current: Assignment | None = None) -> Desired:
        """Return what the slot should run; a generation never goes back, as any change of it is a restart."""
        intent, index = self.intent, slot - self.base
        generation = max(intent.generation(index), current.generation if current else 0)
        return Desired(self.revision, self.spec_hash, generation, intent.wants_stopped(index))

    def is_run_by(self, assignment: Assignment) -> bool:
        """Return whether a process of this order is one of this target: nothing that needs a restart differs."""
        return assignment.spec_hash == self.spec_hash


def target_of(record: AppRecord, revision: Revision, worker: str) -> WorkerTarget | None:
    """Return the target of a worker as a revision has it, None if that has no such worker."""
    spec = revision.spec.worker(worker)
    if spec is None:
        return None
    wait_s = spec.rollout.min_healthy_s
    return WorkerTarget(
        record.id, spec, record.intent(worker), revision.number, dict(revision.spec_hashes).get(worker, ""),
        min_healthy_s=wait_s,
    )  # fmt: skip


def is_restart_needed(assignment: Assignment, desired: Desired) -> bool:
    """Return whether the process has to be replaced to become what is desired."""
    return assignment.spec_hash != desired.spec_hash or assignment.generation < desired.generation


def is_as_desired(assignment: Assignment, desired: Desired) -> bool:
    """Return whether nothing is left to change."""
    return (
        not is_restart_needed(assignment, desired)
        and assignment.revision == desired.revision
        and assignment.is_stopped == desired.is_stopped
    )


def status_of(
    assignment: Assignment, statuses: Mapping[tuple[InstanceId, str], InstanceStatus]
) -> InstanceStatus | None:
    """Return what the assigned node observed of this slot, if anything."""
    return statuses.get((assignment.instance, assignment.node))


def has_ended(status: InstanceStatus) -> bool:
    """Return whether it is certain that no process of the instance is left on that node."""
    return status.state in ENDED and not status.has_processes


def has_failed(status: InstanceStatus) -> bool:
    """Return whether it does not start on its node: several times in a row in vain, or given up."""
    if status.failures < FAILED_STARTS and status.state is not State.FAILED:
        return False
    return status.failures > 0 and not is_serving(status)


def is_completed(status: InstanceStatus, spec: WorkerSpec) -> bool:
    """Return whether it ended well and its policy wants no other start: as good as ready (a task is done)."""
    if spec.schedule is not None and status.state is State.STOPPED:
        return True  # it waits for its next run
    return (
        status.state is State.STOPPED
        and spec.restart.policy in (RestartPolicy.NEVER, RestartPolicy.ON_FAILURE)
        and status.last_exit is not None
        and status.last_exit.is_success
    )


def is_serving(status: InstanceStatus | None) -> bool:
    """Return whether the slot was last seen ready, whatever order it was following."""
    return status is not None and status.state is State.RUNNING and status.is_ready


def is_ready(assignment: Assignment, status: InstanceStatus | None, spec: WorkerSpec) -> bool:
    """Return whether the slot follows its current order and is ready (or completed)."""
    if status is None or status.epoch != assignment.epoch or assignment.is_stopped:
        return False
    return is_serving(status) or is_completed(status, spec)


def available_at_s(
    assignment: Assignment, status: InstanceStatus | None, target: WorkerTarget, now_s: float
) -> float | None:
    """Return since when (or from when on) the slot counts as available; None while it is not ready.

    Ready for the target's `min_healthy_s`, measured from `changed_at`, which is the node's clock: a node whose clock
    is ahead by more than that cannot be timed, and its ready instances count at once.
    """
    if status is None or not is_ready(assignment, status, target.spec):
        return None
    wait_s = target.min_healthy_s
    if wait_s <= 0 or status.changed_at > now_s + wait_s:
        return now_s
    return status.changed_at + wait_s


def describe_state(assignment: Assignment, status: InstanceStatus | None) -> str:
    """Return in a few words why a slot is not ready: `web.2 on node-a: restarting, exit code 1`."""
    head = f"{assignment.instance.worker}.{assignment.instance.slot} on {assignment.node}"
    if status is None:
        return f"{head}: not reported yet"
    if status.epoch != assignment.epoch:
        return f"{head}: has not taken the newest order yet"
    text = str(status.state)
    if status.state is State.RUNNING:
        text += ", ready, but not long enough (min_healthy)" if status.is_ready else ", not ready"
    return f"{head}: {text}" + (f", {status.reason}" if status.reason else "")
