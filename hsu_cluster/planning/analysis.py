"""Judging what an analysis measures: one value, one metric, the whole run, and when what is measured next. Pure.

Semantics of Argo Rollouts' analysis (`utils/analysis`, `analysis/analysis.go`); where they differ is said here:
a metric without a condition is refused by the manifest, and one in the background takes one answer before it may end.
How values are got is in `hsu_cluster.leader.queries`; who writes the record in `hsu_cluster.leader.measuring`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hsu_core.model.analysis import (
    OVER,
    PLACEHOLDERS,
    VERDICTS,
    AnalysisRun,
    AnalysisSpec,
    ExecQuery,
    Measurement,
    MetricRun,
    MetricSpec,
    PrometheusQuery,
    Query,
    Verdict,
    WebQuery,
)
from hsu_core.model.expressions import InvalidExpression, Value, parse_expression

ERROR_RETRY_S = 10.0
"""Time to the next try after a measurement without an answer: Argo's `DefaultErrorRetryInterval`."""

KEPT_MEASUREMENTS = 100
"""Most measurements of a metric that are kept in the record; the counters count all."""

KEPT_IN_ALL = 240
"""Most measurements that the record of a run keeps: with the texts' limits it stays below 100 KB."""

VALUE_LIMIT_BYTES = 120
TEXT_LIMIT_BYTES = 200
"""Longest value and text of a measurement that is kept, in bytes of UTF-8."""

_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


def judge(metric: MetricSpec, value: Value) -> tuple[Verdict, str]:
    """Return what one value means, and for an error why."""
    try:
        is_failure = bool(metric.failure_condition) and parse_expression(metric.failure_condition).holds(value)
        if is_failure:
            return Verdict.FAILED, ""
        is_success = bool(metric.success_condition) and parse_expression(metric.success_condition).holds(value)
    except InvalidExpression as error:
        return Verdict.ERROR, error.sentence
    if is_success or not metric.success_condition:
        return Verdict.SUCCESSFUL, ""
    return (Verdict.INCONCLUSIVE if metric.failure_condition else Verdict.FAILED), ""


def measurement(metric: MetricSpec, value: Value, shown: str, at: float) -> Measurement:
    """Return the measurement of a value that was got at `at` (seconds since 1970); `shown` is its text."""
    verdict, text = judge(metric, value)
    return Measurement(at, verdict, shortened(shown, VALUE_LIMIT_BYTES), shortened(text, TEXT_LIMIT_BYTES))


def unanswered(text: str, at: float) -> Measurement:
    """Return the measurement of a query that had no answer, with the reason."""
    return Measurement(at, Verdict.ERROR, "", shortened(text, TEXT_LIMIT_BYTES))


def with_measurement(spec: AnalysisSpec, run: AnalysisRun, name: str, taken: Measurement) -> AnalysisRun:
    """Return the run with one more measurement of a metric, judged."""
    known = run.metric(name)
    counters = {
        Verdict.SUCCESSFUL: (1, 0, 0, 0),
        Verdict.FAILED: (0, 1, 0, 0),
        Verdict.INCONCLUSIVE: (0, 0, 1, 0),
        Verdict.ERROR: (0, 0, 0, 1),
    }[taken.verdict]
    kept = kept_measurements(len(spec.metrics))
    changed = replace(
        known,
        measurements=(*known.measurements, taken)[-kept:],
        successful=known.successful + counters[0],
        failed=known.failed + counters[1],
        inconclusive=known.inconclusive + counters[2],
        errors=known.errors + counters[3],
        consecutive_errors=known.consecutive_errors + 1 if counters[3] else 0,
    )
    others = {metric.name: metric for metric in run.metrics} | {name: changed}
    return judged(spec, replace(run, metrics=tuple(others.values())), taken.at)


def judged(spec: AnalysisSpec, run: AnalysisRun, now_s: float) -> AnalysisRun:
    """Return the run with the verdicts of its metrics and its own; a run that is over is not judged again."""
    if run.finished_at is not None:
        return run
    metrics = tuple(_judged_metric(metric, run.metric(metric.name), run) for metric in spec.metrics)
    counted = [metric for metric in metrics if not metric.is_dry_run]
    worst = max(counted, key=lambda metric: VERDICTS.index(metric.verdict), default=None)
    if worst is None:  # dry runs alone: they are measured to their end, and nothing they say counts
        is_over = all(metric.verdict in OVER for metric in metrics)
        verdict, text = (Verdict.SUCCESSFUL if is_over else Verdict.RUNNING), ""
    else:
        verdict = worst.verdict
        text = f"metric {worst.name}: {worst.text}" if worst.text else ""
    finished_at = None
    if verdict in OVER:
        finished_at = now_s
        metrics = tuple(metric if metric.verdict in OVER else _cut_off(metric) for metric in metrics)
    return replace(run, metrics=metrics, verdict=verdict, text=text, finished_at=finished_at)


def failed_run(run: AnalysisRun, text: str, now_s: float) -> AnalysisRun:
    """Return the run with the verdict Error: it cannot be measured at all, for the reason in `text`."""
    return replace(run, verdict=Verdict.ERROR, text=shortened(text, TEXT_LIMIT_BYTES), finished_at=now_s)


def due(spec: AnalysisSpec, run: AnalysisRun) -> Mapping[str, float]:
    """Return for each metric that is to be measured again when that is (seconds since 1970, perhaps long ago).

    A run in the background that is ended before its first answer gets that at once.
    """
    if run.finished_at is not None:
        return {}
    found: dict[str, float] = {}
    for metric in spec.metrics:
        known = run.metric(metric.name)
        if _verdict(metric, known, run)[0] in OVER:
            continue
        last = known.measurements[-1] if known.measurements else None
        if last is None:
            found[metric.name] = run.started_at + (0.0 if run.is_ended else metric.initial_delay_s)
        elif last.verdict is Verdict.ERROR:
            found[metric.name] = last.at + ERROR_RETRY_S
        else:
            found[metric.name] = last.at + metric.interval_s
    return found


def kept_measurements(metrics: int) -> int:
    """Return how many measurements of each of so many metrics are kept."""
    return max(1, min(KEPT_MEASUREMENTS, KEPT_IN_ALL // max(1, metrics)))


def filled(query: Query, run: AnalysisRun) -> Query:
    """Return the query with `{app}`, `{namespace}`, `{worker}`, `{revision}` and `{stable}` filled in."""
    match query:
        case PrometheusQuery():
            return replace(query, query=_filled(query.query, run))
        case WebQuery():
            return replace(query, url=_filled(query.url, run))
        case ExecQuery():
            return replace(query, command=tuple(_filled(part, run) for part in query.command))
    return query


def placeholders(run: AnalysisRun) -> Mapping[str, str]:
    """Return what each placeholder stands for."""
    return {
        "app": run.app.app,
        "namespace": run.app.namespace,
        "worker": run.worker,
        "revision": str(run.revision),
        "stable": str(run.stable),
    }


def shortened(text: str, limit_bytes: int) -> str:
    """Return the text, cut to so many bytes of UTF-8 and ended by `...` if it was longer."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode("utf-8")
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "..."


def _filled(text: str, run: AnalysisRun) -> str:
    known = placeholders(run)
    return _PLACEHOLDER.sub(lambda match: known[match[1]], text)


def _judged_metric(metric: MetricSpec, known: MetricRun, run: AnalysisRun) -> MetricRun:
    verdict, text = _verdict(metric, known, run)
    return replace(known, verdict=verdict, text=text, is_dry_run=metric.is_dry_run)


def _cut_off(metric: MetricRun) -> MetricRun:
    """Return a metric that was still measured when the run was over: nothing stood against it."""
    text = "the run was over before its end" if metric.measurements else "the run was over before it was measured"
    return replace(metric, verdict=Verdict.SUCCESSFUL, text=text)


def _verdict(metric: MetricSpec, known: MetricRun, run: AnalysisRun) -> tuple[Verdict, str]:
    """Return the verdict of a metric and its reason: limits first, then the count, then the end of the rollout."""
    for count, limit, verdict, word in (
        (known.failed, metric.failure_limit, Verdict.FAILED, "failed"),
        (known.inconclusive, metric.inconclusive_limit, Verdict.INCONCLUSIVE, "inconclusive"),
        (known.consecutive_errors, metric.consecutive_error_limit, Verdict.ERROR, "consecutive without an answer"),
    ):
        if count > limit:
            return verdict, _exceeded(count, limit, word, verdict, known)
    is_endless = run.is_background and metric.interval_s > 0
    wanted = metric.count or (0 if is_endless else 1)
    if wanted and known.answered >= wanted:
        return Verdict.SUCCESSFUL, ""
    is_enough = known.answered > 0 or not run.is_background or metric.is_dry_run
    if run.is_ended and is_enough:
        return Verdict.SUCCESSFUL, "ended by the rollout"
    return (Verdict.RUNNING if known.measurements else Verdict.PENDING), ""


def _exceeded(count: int, limit: int, word: str, verdict: Verdict, known: MetricRun) -> str:
    last = next((each for each in reversed(known.measurements) if each.verdict is verdict), None)
    said = (last.text or last.value) if last is not None else ""
    counted = "1 measurement was" if count == 1 else f"{count} measurements were"
    text = f"{counted} {word}, more than {limit}" + (f" (last: {said})" if said else "")
    return shortened(text, TEXT_LIMIT_BYTES)
