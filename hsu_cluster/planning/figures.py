"""Figures of a rollout's instances that need no metrics server: what `builtin` of an analysis can name. Pure.

The new set are the assignments of the run's worker at its revision, the others are the stable set. The names and their
meaning are `hsu_core.model.analysis.FIGURES`. What an instance uses while it runs is not in the view (agents tell what
ended processes had used), so there is no figure of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hsu_cluster.planning.slots import is_ready, status_of
from hsu_core.model.analysis import AnalysisRun
from hsu_core.model.assignment import Assignment, InstanceStatus, LastExit
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import WorkerSpec
from hsu_core.model.view import ClusterView


@dataclass(frozen=True, slots=True)
class _Member:
    """An instance, with what is known of it under its present order."""

    assignment: Assignment
    status: InstanceStatus | None
    spec: WorkerSpec | None

    @property
    def is_ready(self) -> bool:
        return self.spec is not None and is_ready(self.assignment, self.status, self.spec)

    @property
    def restarts(self) -> int:
        return self.status.restarts if self.status is not None else 0

    @property
    def has_ended(self) -> bool:
        """Return whether `last_exit` is of a process of this order: a start for another one counts from 0 again."""
        status = self.status
        return status is not None and (status.restarts > 0 or status.state in (State.RESTARTING, State.FAILED))


def figure(name: str, view: ClusterView, run: AnalysisRun) -> tuple[float | None, str]:
    """Return a figure of the run's instances, or None and the reason why there is none.

    Raises KeyError for a name that is not in FIGURES.
    """
    new, others = _sets(view, run)
    if not new:
        return None, f"worker {run.worker} has no instance of revision {run.revision}"
    if name == "restarts_above_stable":
        if not others:
            return None, f"worker {run.worker} has no instance of another revision to compare with"
        return _restarts(new) / len(new) - _restarts(others) / len(others), ""
    found = _OF_NEW[name](new)
    return found, "" if found is not None else f"worker {run.worker} has no limits.memory.max_rss"


def _sets(view: ClusterView, run: AnalysisRun) -> tuple[list[_Member], list[_Member]]:
    new: list[_Member] = []
    others: list[_Member] = []
    specs: dict[int, WorkerSpec | None] = {}
    for instance, assignment in view.assignments.items():
        if instance.app_id != run.app or instance.worker != run.worker:
            continue
        number = assignment.revision
        if number not in specs:
            revision = view.revisions.get((run.app, number))
            specs[number] = revision.spec.worker(run.worker) if revision is not None else None
        status = status_of(assignment, view.statuses)
        current = status if status is not None and status.epoch == assignment.epoch else None
        (new if number == run.revision else others).append(_Member(assignment, current, specs[number]))
    return new, others


def _restarts(members: Sequence[_Member]) -> int:
    return sum(member.restarts for member in members)


def _ready(members: Sequence[_Member]) -> int:
    return sum(member.is_ready for member in members)


def _exit_failures(members: Sequence[_Member]) -> int:
    return sum(not last.is_success for last in _ends(members))


def _in_state(members: Sequence[_Member], state: State) -> int:
    return sum(member.status is not None and member.status.state is state for member in members)


def _ends(members: Sequence[_Member]) -> list[LastExit]:
    return [
        member.status.last_exit
        for member in members
        if member.has_ended and member.status is not None and member.status.last_exit is not None
    ]


def _max_rss(members: Sequence[_Member]) -> float:
    return max((float(last.max_rss_bytes or 0) for last in _ends(members)), default=0.0)


def _max_cpu(members: Sequence[_Member]) -> float:
    return max((last.cpu_s or 0.0 for last in _ends(members)), default=0.0)


def _rss_to_limit(members: Sequence[_Member]) -> float | None:
    spec = members[0].spec
    limit = spec.limits.memory.max_rss_bytes if spec is not None else None
    return _max_rss(members) / limit if limit else None


_OF_NEW: Mapping[str, Callable[[Sequence[_Member]], float | None]] = {
    "instances": len,
    "ready": _ready,
    "not_ready": lambda members: len(members) - _ready(members),
    "ready_ratio": lambda members: _ready(members) / len(members),
    "restarts": _restarts,
    "restarts_per_instance": lambda members: _restarts(members) / len(members),
    "exit_failures": _exit_failures,
    "failed": lambda members: _in_state(members, State.FAILED),
    "open_breakers": lambda members: sum(
        member.status is not None and bool(member.status.breaker) for member in members
    ),
    "exit_max_rss_bytes": _max_rss,
    "exit_max_rss_to_limit": _rss_to_limit,
    "exit_cpu_s": _max_cpu,
}
