"""The documents of analysis runs; beside `documents`, whose rules hold here too (fields are added, never renamed)."""

from __future__ import annotations

from typing import TypedDict


class MeasurementDocument(TypedDict):
    """One answer: when, what it means, the value as JSON (shortened; empty: there was none) and the reason."""

    at: float
    verdict: str
    value: str
    text: str


class MetricRunDocument(TypedDict):
    """One metric of a run. The counters count all measurements, `measurements` are the newest, oldest first.

    `source`: prometheus, web, exec, or the name of a built-in figure; empty if the revision is gone. `dry_run`: it does
    not count in the verdict of the run.
    """

    name: str
    source: str
    success_condition: str
    failure_condition: str
    dry_run: bool
    verdict: str
    text: str
    successful: int
    failed: int
    inconclusive: int
    errors: int
    consecutive_errors: int
    measurements: list[MeasurementDocument]


class AnalysisRunDocument(TypedDict):
    """One run of an analysis for the rollout of a worker from `stable_revision` to `app_revision`.

    `verdict`: Pending, Running, Successful, Inconclusive, Error or Failed. `ended`: the rollout needs no more of it.
    """

    id: str
    namespace: str
    app: str
    worker: str
    analysis: str
    app_revision: int
    stable_revision: int
    background: bool
    ended: bool
    verdict: str
    text: str
    started_at: float
    finished_at: float | None
    metrics: list[MetricRunDocument]
    revision: int


class AnalysisRunList(TypedDict):
    """A page of analysis runs, oldest first."""

    items: list[AnalysisRunDocument]
    revision: int
    next: str | None
