"""Shapes of the API's documents about rollouts."""

from __future__ import annotations

from typing import TypedDict


class RolloutSetDocument(TypedDict):
    """The instances of one worker that are to run one revision: their ids, how many are ready and available."""

    app_revision: int
    instances: list[str]
    ready: int
    available: int


class RolloutWorkerDocument(TypedDict):
    """One worker's way. `stage` and `step` (steps that are over, of `steps`) say where it is.

    `weight`: percent that the new revision is to have now, `actual_weight`: what routes have confirmed, without routes
    its share of the available instances. `until`: when the present wait ends by time, seconds since 1970.
    """

    worker: str
    strategy: str
    stage: str
    step: int
    steps: list[str]
    weight: int
    actual_weight: int
    waits_for: str
    until: float | None
    since: float
    sets: list[RolloutSetDocument]


class RolloutDocument(TypedDict):
    """The last rollout of an app, from `stable_revision` (0: there was none) to `app_revision`.

    `phase`: Progressing, Paused, RollingBack, Healthy or Degraded; `deadline_at`: when it fails without progress.
    """

    namespace: str
    app: str
    app_revision: int
    stable_revision: int
    attempt: int
    phase: str
    reason: str
    text: str
    paused: bool
    aborted: bool
    started_at: float
    ended_at: float | None
    deadline_at: float | None
    workers: list[RolloutWorkerDocument]
    revision: int


class RolloutList(TypedDict):
    """A page of rollouts."""

    items: list[RolloutDocument]
    revision: int
    next: str | None


class PromoteBody(TypedDict, total=False):
    """Body of promote: of one `worker` alone; `full`: skip all steps and analyses that are left."""

    worker: str
    full: bool
