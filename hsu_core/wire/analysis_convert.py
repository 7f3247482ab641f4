"""The meaning of `analyses:`: models in, `AnalysisSpec`s out. A condition is read here, so that a deploy refuses it."""

from __future__ import annotations

from collections.abc import Mapping

from hsu_core.model.analysis import (
    FIGURES,
    METRICS_LIMIT,
    AnalysisSpec,
    BuiltinFigure,
    ExecQuery,
    MetricSpec,
    PrometheusQuery,
    Query,
    WebQuery,
)
from hsu_core.model.expressions import InvalidExpression, parse_expression, parse_path
from hsu_core.wire.analysis_models import (
    AnalysisExecModel,
    AnalysisModel,
    MetricModel,
    PrometheusModel,
    ProviderModel,
    WebModel,
)
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import nearest
from hsu_core.wire.tree import Path

SHORTEST_INTERVAL_S = 1.0
"""Measurements more often than this cost more than they tell: each writes the run's record again."""

LONGEST_TIMEOUT_S = 60.0
"""Longest wait for one answer: an analysis has to notice an outage while it matters."""

QUERY_LIMIT = 4000
"""Longest query or URL, in characters: what servers take in a request line, with room for its encoding."""

_PROVIDERS = ("prometheus", "web", "exec", "builtin")
_NOTHING = BuiltinFigure("")


def convert_analyses(model: Mapping[str, AnalysisModel] | None, found: FaultList) -> tuple[AnalysisSpec, ...]:
    """Return the analyses of a manifest, sorted by name."""
    return tuple(
        AnalysisSpec(name, _metrics(body, ("analyses", name), found)) for name, body in sorted((model or {}).items())
    )


def _metrics(body: AnalysisModel, path: Path, found: FaultList) -> tuple[MetricSpec, ...]:
    at = (*path, "metrics")
    if not 1 <= len(body.metrics) <= METRICS_LIMIT:
        found.fault(at, f"holds {len(body.metrics)} metrics", f"write 1 to {METRICS_LIMIT}")
    places: dict[str, int] = {}
    for index, metric in enumerate(body.metrics):
        if places.setdefault(metric.name, index) != index:
            found.fault((*at, index, "name"), f"metric {metric.name} is there twice", "rename one")
    return tuple(_metric(metric, (*at, index), found) for index, metric in enumerate(body.metrics))


def _metric(body: MetricModel, path: Path, found: FaultList) -> MetricSpec:
    default = MetricSpec(body.name, _NOTHING)
    _check_conditions(body, path, found)
    interval_s = body.interval or 0.0
    if body.interval is not None and interval_s < SHORTEST_INTERVAL_S:
        text = f"{interval_s:g} s is too often"
        found.fault((*path, "interval"), text, f"write {SHORTEST_INTERVAL_S:g}s or more")
    if body.count is not None and body.count > 1 and body.interval is None:
        found.fault((*path, "count"), f"{body.count} measurements need an interval", "add for example interval: 30s")
    endless = 0 if body.interval is not None else default.count
    return MetricSpec(
        name=body.name,
        query=_query(body.provider, (*path, "provider"), found),
        interval_s=interval_s,
        count=endless if body.count is None else body.count,
        initial_delay_s=body.initial_delay or 0.0,
        success_condition=body.success_condition or "",
        failure_condition=body.failure_condition or "",
        failure_limit=body.failure_limit or 0,
        consecutive_error_limit=(
            default.consecutive_error_limit if body.consecutive_error_limit is None else body.consecutive_error_limit
        ),
        inconclusive_limit=body.inconclusive_limit or 0,
        is_dry_run=body.dry_run is True,
    )


def _check_conditions(body: MetricModel, path: Path, found: FaultList) -> None:
    conditions = (("success_condition", body.success_condition), ("failure_condition", body.failure_condition))
    given = [(key, text) for key, text in conditions if text is not None and text.strip()]
    if not given:
        text = "the metric has no condition, so that any value would be a success"
        found.fault(path, text, "add success_condition or failure_condition, such as `result < 0.05`")
    for key, text in given:
        try:
            parse_expression(text)
        except InvalidExpression as error:
            found.fault((*path, key), error.why, error.fix or "write for example result[0] < 0.05")


def _query(body: ProviderModel, path: Path, found: FaultList) -> Query:
    kinds = [kind for kind in _PROVIDERS if getattr(body, kind) is not None]
    if len(kinds) != 1:
        said = "no source" if not kinds else f"{len(kinds)} sources ({', '.join(kinds)})"
        found.fault(path, f"the provider has {said}", f"write one of {', '.join(_PROVIDERS)}")
        return _NOTHING
    if body.prometheus is not None:
        return _prometheus(body.prometheus, (*path, "prometheus"), found)
    if body.web is not None:
        return _web(body.web, (*path, "web"), found)
    if body.exec is not None:
        return _exec(body.exec, (*path, "exec"), found)
    return _builtin(body.builtin or "", (*path, "builtin"), found)


def _prometheus(body: PrometheusModel, path: Path, found: FaultList) -> PrometheusQuery:
    _check_url(body.address, (*path, "address"), found)
    if not body.query.strip() or len(body.query) > QUERY_LIMIT:
        text = f"the query has {len(body.query)} characters"
        found.fault((*path, "query"), text, f"write 1 to {QUERY_LIMIT}, such as sum(rate(errors_total[1m]))")
    return PrometheusQuery(body.address.rstrip("/"), body.query, _timeout(body.timeout, path, found))


def _web(body: WebModel, path: Path, found: FaultList) -> WebQuery:
    _check_url(body.url, (*path, "url"), found)
    try:
        parse_path(body.json_path or "")
    except InvalidExpression as error:
        found.fault((*path, "json_path"), error.why, error.fix or "write for example $.data.ok")
    return WebQuery(body.url, body.json_path or "", _timeout(body.timeout, path, found))


def _exec(body: AnalysisExecModel, path: Path, found: FaultList) -> ExecQuery:
    if not body.command or not body.command[0] or any("\0" in part for part in body.command):
        found.fault((*path, "command"), "the command is empty", "write for example [/opt/shop/check, --errors]")
    return ExecQuery(tuple(body.command), _timeout(body.timeout, path, found))


def _builtin(name: str, path: Path, found: FaultList) -> BuiltinFigure:
    if name not in FIGURES:
        near = nearest(name, list(FIGURES))
        known = f"known are {', '.join(FIGURES)}"
        found.fault(path, f"there is no figure {name[:60]!r}", f"did you mean {near}? {known}" if near else known)
    return BuiltinFigure(name)


def _check_url(url: str, path: Path, found: FaultList) -> None:
    if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url or len(url) > QUERY_LIMIT:
        found.fault(path, f"{url[:60]!r} is not a URL", "write http://... or https://...")


def _timeout(timeout_s: float | None, path: Path, found: FaultList) -> float:
    default = WebQuery("").timeout_s
    if timeout_s is not None and not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        text = f"{timeout_s:g} s is no time to wait for an answer"
        found.fault((*path, "timeout"), text, f"write more than 0 and at most {LONGEST_TIMEOUT_S:g}s")
    return default if timeout_s is None else timeout_s
