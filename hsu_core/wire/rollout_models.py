"""The words of a worker's `rollout` block. The meaning is in `rollout_convert`."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire import forms
from hsu_core.wire.fields import (
    Boolean,
    Count,
    Duration,
    Percent,
    PercentOrCount,
    Replicas,
    Strict,
    TextList,
    choice,
)
from hsu_core.wire.forms import Takes, beside


class CanaryScale(Strict):
    """How many canary instances, in one of three ways."""

    replicas: Replicas | None = None
    weight: Percent | None = None
    match_traffic: Boolean | None = None


class PauseModel(Strict):
    """A pause with an end, or (without `duration`) until someone promotes."""

    duration: Duration | None = None


def _pause(value: Any) -> Any:
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"duration": value}


class StepModel(Strict):
    """One step of a canary: exactly one key."""

    set_weight: Percent | None = None
    set_canary_scale: CanaryScale | None = None
    pause: Annotated[PauseModel, Takes(_pause, beside({"type": "null"}, forms.DURATION))] | None = None
    analysis: TextList | None = None
    approve: Any = None


class RolloutModel(Strict):
    """How a new revision replaces the old; keys of other strategies have no effect."""

    strategy: Annotated[str, choice("rolling", "recreate", "canary", "blue-green")] | None = None
    max_surge: PercentOrCount | None = None
    max_unavailable: PercentOrCount | None = None
    min_healthy: Duration | None = None
    steps: list[StepModel] | None = None
    analysis: TextList | None = None
    auto_promote: Boolean | None = None
    auto_promote_after: Duration | None = None
    preview_replicas: Replicas | None = None
    pre_promotion: TextList | None = None
    post_promotion: TextList | None = None
    scale_down_delay: Duration | None = None
    abort_scale_down_delay: Duration | None = None
    progress_deadline: Duration | None = None
    max_failures: Count | None = None
    auto_rollback: Boolean | None = None
    rollback_window: Count | None = None
