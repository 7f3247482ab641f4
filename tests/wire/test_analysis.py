"""`analyses:` of a manifest: what it comes to, and every fault with its place and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from hsu_core.model.analysis import (
    FIGURES,
    AnalysisSpec,
    BuiltinFigure,
    ExecQuery,
    MetricSpec,
    PrometheusQuery,
    WebQuery,
)
from hsu_core.runtime.settings import HostDefaults
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.hashes import content_hash
from hsu_core.wire.manifest_schema import manifest_schema
from hsu_core.wire.settings import parse_master_settings
from tests.wire.builders import faults, manifest, only_fault, parse

PROMETHEUS = {"prometheus": {"address": "http://127.0.0.1:9090/", "query": 'errors{app="{app}"}', "timeout": "5s"}}
GOOD = {"name": "m", "provider": {"builtin": "restarts"}, "success_condition": "result < 1"}


def text(*metrics: Any) -> str:
    """Return a manifest with one analysis of these metrics."""
    return manifest(analyses={"errors": {"metrics": list(metrics)}})


def metric(**fields: Any) -> MetricSpec:
    """Return what a metric with these keys comes to."""
    return parse(text({**GOOD, **fields})).spec.analyses[0].metrics[0]


def test_an_analysis_is_read_with_all_its_words() -> None:
    spec = parse(
        text(
            {
                "name": "errors",
                "provider": PROMETHEUS,
                "interval": "30s",
                "count": 5,
                "initial_delay": "1m",
                "success_condition": "result[0] < 0.05",
                "failure_condition": "result[0] > 0.5",
                "failure_limit": 2,
                "consecutive_error_limit": 0,
                "inconclusive_limit": 1,
                "dry_run": True,
            },
            GOOD,
        )
    ).spec
    query = PrometheusQuery("http://127.0.0.1:9090", 'errors{app="{app}"}', 5.0)
    conditions = ("result[0] < 0.05", "result[0] > 0.5")
    assert spec.analyses == (
        AnalysisSpec(
            "errors",
            (
                MetricSpec("errors", query, 30.0, 5, 60.0, *conditions, 2, 0, 1, True),
                MetricSpec("m", BuiltinFigure("restarts"), success_condition="result < 1"),
            ),
        ),
    )
    assert decode(type(spec), encode(spec)) == spec


def test_without_a_count_there_is_one_measurement_or_with_an_interval_as_many_as_the_rollout_lasts() -> None:
    assert metric().count == 1
    assert metric(interval="5s").count == 0
    assert metric(interval="5s", count=3).count == 3


def test_providers_of_every_kind_are_read() -> None:
    web = {"web": {"url": "http://{app}.example/ok", "json_path": "$.data.ok"}}
    assert metric(provider=web).query == WebQuery("http://{app}.example/ok", "$.data.ok")
    assert metric(provider={"exec": {"command": ["check", "{revision}"], "timeout": 3}}).query == ExecQuery(
        ("check", "{revision}"), 3.0
    )
    for name in FIGURES:
        assert metric(provider={"builtin": name}).query == BuiltinFigure(name)


def test_analyses_are_part_of_the_content_and_an_app_without_them_is_as_before() -> None:
    assert content_hash(parse(text(GOOD)).spec) != content_hash(parse(manifest()).spec)
    assert parse(manifest()).spec.analyses == ()


def test_the_resolved_document_gives_the_same_analyses() -> None:
    parsed = parse(text({**GOOD, "provider": PROMETHEUS}))
    assert parse(json.dumps(parsed.document)).spec == parsed.spec


def test_the_schema_for_editors_takes_it_and_refuses_a_misspelt_key() -> None:
    schema = Draft202012Validator(manifest_schema())
    good = {**GOOD, "provider": PROMETHEUS, "interval": "5s", "count": 3, "dry_run": True}
    assert not list(schema.iter_errors(yaml.safe_load(text(good))))
    assert list(schema.iter_errors(yaml.safe_load(text({**good, "failure_limits": 1}))))


@pytest.mark.parametrize(
    ("fields", "path", "said", "fix"),
    [
        ({"success_condition": None}, "", "has no condition", "add success_condition"),
        ({"success_condition": None, "dry_run": True}, "", "has no condition", "add success_condition"),
        (
            {"success_condition": "result <"},
            ".success_condition",
            "found the end where a value should be (character 9)",
            "write",
        ),
        (
            {"failure_condition": "reslt > 1"},
            ".failure_condition",
            "'reslt' is not known (character 1)",
            "known are result",
        ),
        ({"count": 3}, ".count", "3 measurements need an interval", "interval: 30s"),
        ({"count": 0}, ".count", "0 is outside 1", "write one"),
        ({"interval": "1ms"}, ".interval", "0.001 s is too often", "write 1s"),
        ({"provider": {}}, ".provider", "has no source", "write one of prometheus, web, exec, builtin"),
        ({"provider": {"builtin": "ready", **PROMETHEUS}}, ".provider", "2 sources (prometheus, builtin)", "write one"),
        (
            {"provider": {"builtin": "restart"}},
            ".provider.builtin",
            "no figure 'restart'",
            "did you mean restarts? known are",
        ),
        ({"provider": {"builtin": "zzz"}}, ".provider.builtin", "no figure 'zzz'", "known are instances, ready"),
        ({"provider": {"web": {"url": "ftp://x"}}}, ".provider.web.url", "'ftp://x' is not a URL", "http://"),
        (
            {"provider": {"web": {"url": "http://x", "json_path": "data"}}},
            ".provider.web.json_path",
            "begins with $",
            "$.data",
        ),
        (
            {"provider": {"web": {"url": "http://x", "timeout": "5m"}}},
            ".provider.web.timeout",
            "300 s is no time",
            "60s",
        ),
        (
            {"provider": {"exec": {"command": []}}},
            ".provider.exec.command",
            "the command is empty",
            "write for example",
        ),
        (
            {"provider": {"prometheus": {"address": "http://x", "query": " "}}},
            ".provider.prometheus.query",
            "1 characters",
            "write 1",
        ),
        ({"failure_limits": 1}, ".failure_limits", "unknown key 'failure_limits'", "did you mean failure_limit?"),
    ],
)
def test_a_fault_says_where_what_and_what_to_do(fields: dict[str, Any], path: str, said: str, fix: str) -> None:
    keys = {key: value for key, value in {**GOOD, **fields}.items() if value is not None}
    found = only_fault(text(keys))
    assert found.path == f"analyses.errors.metrics[0]{path}" or found.path == f"analyses.errors.metrics[m]{path}"
    assert said in found.text
    assert fix in found.fix
    assert found.line > 0


def test_metrics_have_names_of_their_own_and_are_neither_none_nor_many() -> None:
    assert only_fault(text(GOOD, GOOD)).text == "metric m is there twice"
    assert only_fault(text()).text == "holds 0 metrics"
    many = [{**GOOD, "name": f"m{number}"} for number in range(21)]
    assert only_fault(text(*many)).text == "holds 21 metrics"


def test_all_faults_of_all_metrics_are_told_at_once() -> None:
    bad = {**GOOD, "success_condition": "1 <", "provider": {"builtin": "x"}}
    assert len(faults(text({**bad, "name": "a"}, {**bad, "name": "b"}))) == 4


def test_a_master_runs_programs_of_analyses_only_if_its_settings_say_so() -> None:
    host = HostDefaults("a", Path("/home/me"), is_root=False)

    def allows(settings: str) -> bool:
        return parse_master_settings(settings, file="/etc/hsu/master.yaml", host=host).allow_exec_analysis

    assert not allows("")
    assert not allows("analysis: {}")
    assert allows("analysis: {allow_exec: true}")
