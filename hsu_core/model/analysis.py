"""Analyses: what is measured, how it is judged, and the record of a run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsu_core.model.ids import AppId


class Verdict(StrEnum):
    """What is known of a run or a metric; the worst of several counts, in the order of `VERDICTS`."""

    SUCCESSFUL = "Successful"
    RUNNING = "Running"
    PENDING = "Pending"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    FAILED = "Failed"


VERDICTS = tuple(Verdict)
"""From best to worst, as Argo Rollouts orders them."""


@dataclass(frozen=True, slots=True)
class PrometheusQuery:
    """The value of an instant query."""

    address: str
    query: str
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class WebQuery:
    """The JSON of a URL, at `json_path` (`$.data.ok`; empty: the whole)."""

    url: str
    json_path: str = ""
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ExecQuery:
    """A program on the master: its exit code, and what it prints if that is JSON."""

    command: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class BuiltinFigure:
    """A figure of the instances that needs no metrics server, such as `restarts`."""

    figure: str


Query = PrometheusQuery | WebQuery | ExecQuery | BuiltinFigure


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `count` 0: as often as the rollout lasts (background); conditions are expressions over `result`."""

    name: str
    query: Query
    interval_s: float = 0.0
    count: int = 1
    initial_delay_s: float = 0.0
    success_condition: str = ""
    failure_condition: str = ""
    failure_limit: int = 0
    consecutive_error_limit: int = 4
    inconclusive_limit: int = 0
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AnalysisSpec:
    """A named analysis: its metrics are measured side by side."""

    name: str
    metrics: tuple[MetricSpec, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer: when it came, what it was (as text) and what that means."""

    at: float
    verdict: Verdict
    value: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class MetricRun:
    """The measurements of one metric, oldest first."""

    name: str
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class AnalysisRun:
    """One run of an analysis for one worker's rollout to `revision`.

    `id` is unique within the app and says what it is for: `3-0-web-step2-errors` (revision, attempt, worker, place,
    analysis). `is_ended` is set by the rollout when it needs no more of it. `verdict` is the judgement of what was
    measured so far; Pending, Running are not over. `is_background` takes at least one sample before it may end.
    """

    app: AppId
    id: str
    analysis: str
    worker: str
    revision: int
    stable: int
    started_at: float
    is_background: bool = False
    is_ended: bool = False
    verdict: Verdict = Verdict.PENDING
    text: str = ""
    metrics: tuple[MetricRun, ...] = ()
    finished_at: float | None = None
