"""Analyses: what is measured, how it is judged, and the record of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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

OVER = frozenset({Verdict.SUCCESSFUL, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAILED})
"""Verdicts after which nothing more is measured."""


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
    """A program on the master; its result is a map of `exit_code` and `output` (what it prints: JSON, else a text)."""

    command: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class BuiltinFigure:
    """A figure of the instances that needs no metrics server, such as `restarts`."""

    figure: str


FIGURES: Mapping[str, str] = {
    "instances": "instances of the new revision that are assigned",
    "ready": "those of them that are ready",
    "not_ready": "those of them that are not ready",
    "ready_ratio": "part of them that is ready, 0 to 1",
    "restarts": "automatic restarts of the new instances, in all",
    "restarts_per_instance": "automatic restarts of the new instances, on average",
    "restarts_above_stable": "that average less the one of the other revisions (negative: fewer)",
    "exit_failures": "new instances whose last end was an exit code other than 0 or a signal",
    "failed": "new instances that have failed and are not started again",
    "open_breakers": "new instances whose breaker of restarts is not closed",
    "exit_max_rss_bytes": "most memory that a new instance which ended had used (0: none has ended)",
    "exit_max_rss_to_limit": "that memory as a part of limits.memory.max_rss",
    "exit_cpu_s": "most processor time that a new instance which ended had used, in seconds (0: none has ended)",
}
"""What `builtin` can be: figures of the instances of the rollout's worker, with their meaning."""

METRICS_LIMIT = 20
"""Most metrics of one analysis."""

PLACEHOLDERS = ("app", "namespace", "worker", "revision", "stable")
"""What `{...}` in a query, url or command may name; filled in when it is measured."""

Query = PrometheusQuery | WebQuery | ExecQuery | BuiltinFigure


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric; conditions are expressions over `result`.

    `count`: how many answers it takes; 0: in the background as many as the rollout lasts, else one. The limits are what
    is still borne: one more, and the metric has that verdict.
    """

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
    """What is known of one metric. `measurements` are the newest, oldest first; the counters count all there were.

    `errors` are measurements without an answer; `consecutive_errors` of them are the last ones. `text` says why the
    verdict is what it is. A `is_dry_run` one does not count in the verdict of the run.
    """

    name: str
    measurements: tuple[Measurement, ...] = ()
    verdict: Verdict = Verdict.PENDING
    text: str = ""
    successful: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors: int = 0
    consecutive_errors: int = 0
    is_dry_run: bool = False

    @property
    def answered(self) -> int:
        """Return how many measurements had an answer."""
        return self.successful + self.failed + self.inconclusive


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

    def metric(self, name: str) -> MetricRun:
        """Return what is known of a metric (nothing, before its first measurement)."""
        return next((metric for metric in self.metrics if metric.name == name), MetricRun(name))
