"""Analysis runs of an app: what was measured of its rollouts, and what that means."""

from __future__ import annotations

from hsu_cluster.api.calls import Answer, Call, list_document, no_such_app, page_request
from hsu_cluster.api.reading import Reading, Scope
from hsu_cluster.client.analysis_documents import AnalysisRunDocument, MetricRunDocument
from hsu_core.model.analysis import (
    AnalysisRun,
    BuiltinFigure,
    ExecQuery,
    MetricRun,
    MetricSpec,
    PrometheusQuery,
    Query,
)
from hsu_core.wire import keys


async def list_runs(call: Call) -> Answer:
    """Return the analysis runs of an app, oldest first."""
    app, page = call.app, page_request(call)
    reading = await call.services.reader.read(Scope(app.namespace, app.app), revision=page.revision)
    if app not in reading.view.apps:
        raise no_such_app(app)
    runs = sorted(reading.view.runs.values(), key=_place)
    return Answer(list_document(runs, _place, page, reading.revision, lambda run: run_document(reading, run)))


def _place(run: AnalysisRun) -> tuple[str, ...]:
    return f"{run.started_at:020.3f}", run.id


def run_document(reading: Reading, run: AnalysisRun) -> AnalysisRunDocument:
    """Return one run."""
    revision = reading.view.revisions.get((run.app, run.revision))
    spec = revision.spec.analysis(run.analysis) if revision is not None else None
    metrics = {metric.name: metric for metric in (spec.metrics if spec is not None else ())}
    return {
        "id": run.id,
        "namespace": run.app.namespace,
        "app": run.app.app,
        "worker": run.worker,
        "analysis": run.analysis,
        "app_revision": run.revision,
        "stable_revision": run.stable,
        "background": run.is_background,
        "ended": run.is_ended,
        "verdict": str(run.verdict),
        "text": run.text,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "metrics": [_metric(metric, metrics.get(metric.name)) for metric in run.metrics],
        "revision": reading.changed.get(keys.run(run.app, run.id), 0),
    }


def _metric(metric: MetricRun, spec: MetricSpec | None) -> MetricRunDocument:
    return {
        "name": metric.name,
        "source": _source(spec.query) if spec is not None else "",
        "success_condition": spec.success_condition if spec is not None else "",
        "failure_condition": spec.failure_condition if spec is not None else "",
        "dry_run": metric.is_dry_run,
        "verdict": str(metric.verdict),
        "text": metric.text,
        "successful": metric.successful,
        "failed": metric.failed,
        "inconclusive": metric.inconclusive,
        "errors": metric.errors,
        "consecutive_errors": metric.consecutive_errors,
        "measurements": [
            {"at": each.at, "verdict": str(each.verdict), "value": each.value, "text": each.text}
            for each in metric.measurements
        ],
    }


def _source(query: Query) -> str:
    if isinstance(query, BuiltinFigure):
        return query.figure
    if isinstance(query, PrometheusQuery):
        return "prometheus"
    return "exec" if isinstance(query, ExecQuery) else "web"
