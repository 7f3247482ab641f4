"""From the `rollout` block of a worker to its specification, with the rules between its keys."""

from __future__ import annotations

from collections.abc import Mapping

from hsu_core.model.rollout_spec import (
    DEFAULT_ROLLOUT,
    Analyse,
    Approve,
    Pause,
    RolloutSpec,
    RolloutStep,
    SetCanaryScale,
    SetWeight,
)
from hsu_core.model.spec import AppSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.manifest_models import WorkerModel
from hsu_core.wire.rollout_models import RolloutModel, StepModel
from hsu_core.wire.tree import Path

OF_STRATEGY = {
    "steps": "canary",
    "analysis": "canary",
    "auto_promote": "blue-green",
    "auto_promote_after": "blue-green",
    "preview_replicas": "blue-green",
    "pre_promotion": "blue-green",
    "post_promotion": "blue-green",
}
"""Keys that mean something for one strategy alone."""


def convert_rollout(body: RolloutModel | None, path: Path, found: FaultList) -> RolloutSpec:
    """Return how a worker is rolled out; what contradicts itself is a fault, what has no effect a warning."""
    default = DEFAULT_ROLLOUT
    if body is None:
        return default
    strategy = body.strategy or default.strategy
    for key, other in OF_STRATEGY.items():
        if key in body.model_fields_set and strategy != other:
            found.warn((*path, key), f"has no effect with strategy {strategy}", f"it belongs to {other}")
    surge = body.max_surge or (default.max_surge, default.is_max_surge_percent)
    unavailable = body.max_unavailable or (default.max_unavailable, default.is_max_unavailable_percent)
    if unavailable[1] and unavailable[0] > 100:
        found.fault((*path, "max_unavailable"), f"{unavailable[0]}% is more than all", "write 100% or less")
    if surge[0] == 0 and unavailable[0] == 0:
        found.warn(
            (*path, "max_unavailable"),
            "0 together with max_surge 0 would let nothing be replaced, so it counts as 1",
            "let one of them be 1 or more",
        )
    promote_after_s = body.auto_promote_after or 0.0
    if promote_after_s and body.auto_promote is False:
        found.fault((*path, "auto_promote_after"), "contradicts auto_promote: false", "keep one of them")
    return RolloutSpec(
        strategy,
        *unavailable,
        *surge,
        min_healthy_s=body.min_healthy or 0.0,
        is_min_healthy_given=body.min_healthy is not None,
        progress_deadline_s=default.progress_deadline_s if body.progress_deadline is None else body.progress_deadline,
        max_failures=default.max_failures if body.max_failures is None else body.max_failures,
        is_auto_rollback=body.auto_rollback is not False,
        rollback_window=body.rollback_window or 0,
        steps=_steps(body.steps or [], (*path, "steps"), found),
        analysis=tuple(body.analysis or ()),
        is_auto_promoted=body.auto_promote is not False,
        auto_promote_after_s=promote_after_s,
        preview_replicas=body.preview_replicas,
        pre_promotion=tuple(body.pre_promotion or ()),
        post_promotion=tuple(body.post_promotion or ()),
        scale_down_delay_s=default.scale_down_delay_s if body.scale_down_delay is None else body.scale_down_delay,
        abort_scale_down_delay_s=default.abort_scale_down_delay_s
        if body.abort_scale_down_delay is None
        else body.abort_scale_down_delay,
    )


def check_analyses(workers: Mapping[int, WorkerModel], spec: AppSpec, found: FaultList) -> None:
    """Warn of analyses that rollouts name and the file does not have."""
    known = {analysis.name for analysis in spec.analyses}
    for index, worker in workers.items():
        body = worker.rollout
        if body is None:
            continue
        path: Path = ("workers", index, "rollout")
        named: list[tuple[Path, str]] = [
            ((*path, key), name)
            for key, names in (
                ("analysis", body.analysis),
                ("pre_promotion", body.pre_promotion),
                ("post_promotion", body.post_promotion),
            )
            for name in names or ()
        ]
        for number, step in enumerate(body.steps or ()):
            named += [((*path, "steps", number, "analysis"), name) for name in step.analysis or ()]
        for place, name in named:
            if name not in known:
                there = f"there are {', '.join(sorted(known))}" if known else "the file has no analyses"
                fix = f"add it below analyses; {there}"
                found.warn(place, f"there is no analysis {name}: the rollout fails here and turns back", fix)


def _steps(steps: list[StepModel], path: Path, found: FaultList) -> tuple[RolloutStep, ...]:
    converted = [_step(step, (*path, index), found) for index, step in enumerate(steps)]
    for index, step in enumerate(converted):
        after = converted[index + 1] if index + 1 < len(converted) else None
        if isinstance(step, SetWeight) and not isinstance(after, Pause | Analyse | Approve | SetCanaryScale):
            found.warn(
                (*path, index, "set_weight"),
                "nothing waits behind it, so the next step can come before a single measurement",
                "put a pause or an analysis behind it",
            )
    return tuple(step for step in converted if step is not None)


def _step(step: StepModel, path: Path, found: FaultList) -> RolloutStep | None:
    given = sorted(step.model_fields_set)
    if len(given) != 1:
        text = f"a step is one of {', '.join(StepModel.model_fields)}, found {', '.join(given) or 'nothing'}"
        found.fault(path, text, "write one per step")
        return None
    if step.set_weight is not None:
        return SetWeight(step.set_weight)
    if step.analysis is not None:
        return Analyse(tuple(step.analysis))
    if given == ["pause"]:
        return Pause(step.pause.duration if step.pause is not None else None)
    if given == ["approve"]:
        return Approve("" if step.approve in (None, True) else str(step.approve))
    scale = step.set_canary_scale
    if scale is None:
        found.fault(path, f"{given[0]} says nothing", "give it a value")
        return None
    if len([key for key in scale.model_fields_set if getattr(scale, key) is not None]) != 1:
        found.fault((*path, "set_canary_scale"), "needs one of replicas, weight, match_traffic", "keep one")
    return SetCanaryScale(scale.replicas, scale.weight)
