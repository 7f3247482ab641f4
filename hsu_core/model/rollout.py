"""The record of a rollout: how far an app is on its way from one revision to another. Pure.

Written by the leader alone. What people ask of a rollout is in `RolloutIntent`, part of the app's head.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsu_core.model.ids import AppId


class RolloutPhase(StrEnum):
    """The word for a rollout; Healthy and Degraded are ends."""

    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    ROLLING_BACK = "RollingBack"
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"  # over, and the stable revision runs (or the first one fails)


class Stage(StrEnum):
    """Where one worker is."""

    WAITING = "waiting"  # for the workers it depends on
    STEPS = "steps"  # canary: at `step`
    ROLLING = "rolling"  # its slots are replaced in waves
    PREVIEW = "preview"  # blue-green: the second set comes up
    PRE_PROMOTION = "pre-promotion"  # blue-green: analysis of the preview
    PROMOTABLE = "promotable"  # blue-green: waits for a person or for auto_promote_after
    SCALING = "scaling"  # the new set grows to all its replicas
    SWITCHED = "switched"  # all traffic is on the new set; it is judged
    PROMOTED = "promoted"  # its outcome is decided; the old set may still run
    DONE = "done"  # only the new revision is left


@dataclass(frozen=True, slots=True)
class WorkerRollout:
    """One worker's way. `stable_base` and `new_base` are the first slots of the two sets (equal: one set, in place).

    `step` counts the steps that are over; `position` counts everything that a promotion can end, so that a promotion is
    for one place only. `weight` is the percent that the new set is to have in the end of the step, `traffic` that which
    routes are to give it now: it follows when the instances for it are there. `scale_replicas`, `scale_percent`: the
    canary instances fixed by set_canary_scale, None: as the weight asks. `since_at`: when the present step or stage
    began; `is_paused`: that it waits by itself for a time, a person or a measurement, so that no deadline runs.
    `replicas`: as many were asked for when it began. `skips_steps`: it goes back to a version that was in force lately,
    so neither steps nor analyses are needed.
    """

    worker: str
    strategy: str
    stage: Stage
    stable_base: int = 0
    new_base: int = 0
    step: int = 0
    position: int = 0
    weight: int = 0
    traffic: int = 0
    scale_replicas: int | None = None
    scale_percent: int | None = None
    since_at: float = 0.0
    is_paused: bool = False
    skips_steps: bool = False
    replicas: int = 0
    waits_for: str = ""

    @property
    def has_two_sets(self) -> bool:
        """Return whether the new revision has slots of its own, beside those of the stable one."""
        return self.new_base != self.stable_base

    @property
    def is_promoted(self) -> bool:
        """Return whether its own outcome is decided."""
        return self.stage in (Stage.PROMOTED, Stage.DONE)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One app's rollout from revision `stable` (0: there was none) to `revision`.

    `attempt` counts retries. `progress` is the best of (updated, old gone, ready, available) so far and `progress_at`
    when it grew; the deadline counts from there. `paused_at`: since when it has been paused. `failed_why`: why it is
    rolled back (empty: it is not). `is_aborted`: a person wanted that. `proven`: earlier revisions that were rolled out
    well, oldest first. `is_unproven`: it is over, and of some worker no instance was ever seen to work.
    """

    id: AppId
    revision: int
    stable: int = 0
    attempt: int = 0
    phase: RolloutPhase = RolloutPhase.PROGRESSING
    reason: str = ""
    text: str = ""
    workers: tuple[WorkerRollout, ...] = ()
    started_at: float = 0.0
    ended_at: float | None = None
    progress: tuple[int, ...] = ()
    progress_at: float = 0.0
    paused_at: float | None = None
    failed_at: float | None = None
    failed_why: str = ""
    is_aborted: bool = False
    proven: tuple[int, ...] = ()
    is_unproven: bool = False

    @property
    def is_over(self) -> bool:
        """Return whether its outcome is decided and nothing is left to be done."""
        return self.ended_at is not None

    @property
    def is_going_back(self) -> bool:
        """Return whether everything returns (or has returned) to the stable revision."""
        return self.failed_at is not None

    def worker(self, name: str) -> WorkerRollout | None:
        """Return where a worker is, None for one that has no part in it."""
        return next((worker for worker in self.workers if worker.worker == name), None)


@dataclass(frozen=True, slots=True)
class RolloutIntent:
    """What people asked of the rollout to `revision`; it means nothing for another one.

    `promoted`: (worker, position) pairs that need not wait any longer; `is_full`: no step and no analysis is left.
    """

    revision: int = 0
    attempt: int = 0
    is_paused: bool = False
    is_aborted: bool = False
    is_full: bool = False
    promoted: tuple[tuple[str, int], ...] = ()


NO_INTENT = RolloutIntent()
