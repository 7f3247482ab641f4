"""How a new revision of a worker replaces the old one: strategy, arithmetic, steps, limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MIN_HEALTHY_S = 10.0
"""Ready for so long counts as available while another version is replaced (the rollout semantics, deadlines)."""

PROGRESS_DEADLINE_S = 600.0
"""Kubernetes' `progressDeadlineSeconds`."""

SCALE_DOWN_DELAY_S = 30.0
"""Argo Rollouts' `scaleDownDelaySeconds`, also after an abort."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """The new version gets `percent` of the traffic (without a route: of the instances)."""

    percent: int


@dataclass(frozen=True, slots=True)
class SetCanaryScale:
    """How many canary instances, apart from the weight: `replicas`, or `percent` of the replicas; both None: as the
    traffic asks again."""

    replicas: int | None = None
    percent: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait `duration_s`, or (None) until somebody promotes."""

    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Analyse:
    """Run these analyses to their end; a failed one ends the rollout."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Approve:
    """Wait until somebody promotes; `text` says what has to be approved."""

    text: str = ""


RolloutStep = SetWeight | SetCanaryScale | Pause | Analyse | Approve


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How a new revision replaces the old. Numbers of instances are counts, or percent of the replicas (`is_...`).

    `min_healthy_s` that is not given: MIN_HEALTHY_S while another version is replaced, else none. `max_failures`: so
    many early ends of new instances, and the rollout has failed (0: however many). `rollback_window`: going back at
    most so many revisions skips the steps. `analysis` runs in the background of a canary, the promotion analyses belong
    to blue-green.
    """

    strategy: str = "rolling"
    max_unavailable: int = 25
    is_max_unavailable_percent: bool = True
    max_surge: int = 25
    is_max_surge_percent: bool = True
    min_healthy_s: float = 0.0
    is_min_healthy_given: bool = False
    progress_deadline_s: float = PROGRESS_DEADLINE_S
    max_failures: int = 3
    is_auto_rollback: bool = True
    rollback_window: int = 0
    steps: tuple[RolloutStep, ...] = ()
    analysis: tuple[str, ...] = ()
    is_auto_promoted: bool = True
    auto_promote_after_s: float = 0.0
    preview_replicas: int | None = None
    pre_promotion: tuple[str, ...] = ()
    post_promotion: tuple[str, ...] = ()
    scale_down_delay_s: float = SCALE_DOWN_DELAY_S
    abort_scale_down_delay_s: float = SCALE_DOWN_DELAY_S


DEFAULT_ROLLOUT = RolloutSpec()
