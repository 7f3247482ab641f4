"""The words of `analyses:`: what is measured of a rollout. No meaning yet: that is in `analysis_convert`."""

from __future__ import annotations

from typing import Annotated

from hsu_core.wire.fields import Boolean, Count, Duration, Name, Strict, Text, TextList, whole_number

Measurements = Annotated[int, whole_number(1, 100_000)]


class PrometheusModel(Strict):
    """`prometheus:` of a provider: an instant query."""

    address: Text
    query: Text
    timeout: Duration | None = None


class WebModel(Strict):
    """`web:` of a provider: a URL that answers with JSON, and what to take of it."""

    url: Text
    json_path: Text | None = None
    timeout: Duration | None = None


class AnalysisExecModel(Strict):
    """`exec:` of a provider: program and arguments, run by the leader without a shell."""

    command: TextList
    timeout: Duration | None = None


class ProviderModel(Strict):
    """Where the value comes from: exactly one."""

    prometheus: PrometheusModel | None = None
    web: WebModel | None = None
    exec: AnalysisExecModel | None = None
    builtin: Text | None = None


class MetricModel(Strict):
    """One metric: what is measured, how often, and what its values mean."""

    name: Name
    provider: ProviderModel
    interval: Duration | None = None
    count: Measurements | None = None
    initial_delay: Duration | None = None
    success_condition: Text | None = None
    failure_condition: Text | None = None
    failure_limit: Count | None = None
    consecutive_error_limit: Count | None = None
    inconclusive_limit: Count | None = None
    dry_run: Boolean | None = None


class AnalysisModel(Strict):
    """A named analysis: metrics that are measured side by side."""

    metrics: list[MetricModel]
