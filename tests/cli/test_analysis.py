"""Analysis runs in the API and on the command line: what was measured is kept and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hsu_cluster.cli.render_analysis import run_lines
from hsu_core.model.analysis import AnalysisRun, Measurement, MetricRun, Verdict
from hsu_core.model.ids import AppId
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.api.harness import APP, Api, asynchronous, running_api
from tests.api.test_openapi import _check
from tests.cli.documents import NOW
from tests.cli.harness import SHOP, running_cli

WITH_ANALYSIS = f"""{SHOP}
analyses:
  errors:
    metrics:
      - {{name: rate, provider: {{web: {{url: "http://127.0.0.1:1/"}}}}, success_condition: result < 1}}
      - {{name: restarts, provider: {{builtin: restarts}}, failure_condition: result > 0, dry_run: true}}
"""

RUN = AnalysisRun(
    AppId("default", "shop"),
    "1-0-web-step2-errors",
    "errors",
    "web",
    1,
    0,
    NOW - 60,
    is_background=True,
    verdict=Verdict.FAILED,
    text="metric rate: 1 measurement was failed, more than 0 (last: 7)",
    metrics=(
        MetricRun(
            "rate",
            (
                Measurement(NOW - 30, Verdict.SUCCESSFUL, "0.5"),
                Measurement(NOW - 20, Verdict.ERROR, "", "cannot ask http://127.0.0.1:1/: refused"),
                Measurement(NOW - 10, Verdict.FAILED, "7"),
            ),
            Verdict.FAILED,
            "1 measurement was failed, more than 0 (last: 7)",
            successful=1,
            failed=1,
            errors=1,
        ),
        MetricRun(
            "restarts", (Measurement(NOW - 5, Verdict.SUCCESSFUL, "0"),), Verdict.RUNNING, "", 1, is_dry_run=True
        ),
    ),
    finished_at=NOW - 10,
)


async def _put(api: Api, run: AnalysisRun) -> None:
    await api.store.put(keys.run(run.app, run.id), encode(run))


@asynchronous
async def test_the_api_lists_runs_oldest_first_with_all_that_was_measured(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy(WITH_ANALYSIS)
        assert (await api.get(f"{APP}/analysis-runs"))["items"] == []
        await _put(api, AnalysisRun(AppId("default", "shop"), "1-0-db-a", "gone", "db", 9, 1, NOW - 5))
        await _put(api, AnalysisRun(AppId("default", "shop2"), "1-0-db-a", "gone", "db", 9, 1, NOW - 5))
        await _put(api, RUN)
        listed = await api.get(f"{APP}/analysis-runs")
        _check(await api.get("/openapi.json"), "AnalysisRunList", listed)
        assert [item["id"] for item in listed["items"]] == [RUN.id, "1-0-db-a"]
        found = listed["items"][0]
        assert (found["verdict"], found["text"], found["background"]) == ("Failed", RUN.text, True)
        rate, restarts = found["metrics"]
        assert (rate["source"], rate["success_condition"]) == ("web", "result < 1")
        assert (restarts["source"], restarts["dry_run"]) == ("restarts", True)
        assert rate["measurements"][1] == {
            "at": NOW - 20,
            "verdict": "Error",
            "value": "",
            "text": "cannot ask http://127.0.0.1:1/: refused",
        }
        first = await api.get(f"{APP}/analysis-runs?limit=1")
        second = await api.get(f"{APP}/analysis-runs?limit=1&page={first['next']}")
        assert [item["id"] for item in second["items"]] == ["1-0-db-a"]


@asynchronous
async def test_runs_of_an_app_that_is_not_there_are_not_found(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.send("GET", f"{APP}/analysis-runs")).code == "not-found"


@asynchronous
async def test_the_command_line_prints_the_document_or_a_table(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        cli.shop.write_text(WITH_ANALYSIS)
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await _put(cli.api, RUN)
        document = await cli.api.get(f"{APP}/analysis-runs")
        assert json.loads((await cli.run("rollout", "analysis", "shop", "-o", "json")).output) == document
        assert yaml.safe_load((await cli.run("rollout", "analysis", "shop", "-o", "yaml")).output) == document
        lines = (await cli.run("rollout", "analysis", "shop")).output.splitlines()
        assert len(lines) == 3
        assert "restarts (dry run)" in lines[2]
        await cli.run("rollout", "analysis", "shop/web", expect=2)
        await cli.run("rollout", "analysis", "other", expect=1)


def _document(**fields: Any) -> Any:
    metric = {
        "name": "rate",
        "source": "web",
        "success_condition": "result < 1",
        "failure_condition": "",
        "dry_run": False,
        "verdict": "Failed",
        "text": "1 measurement was failed, more than 0 (last: 7)",
        "successful": 4,
        "failed": 1,
        "inconclusive": 0,
        "errors": 1,
        "consecutive_errors": 0,
        "measurements": [
            {"at": NOW - 20, "verdict": "Successful", "value": "0.1", "text": ""},
            {"at": NOW - 15, "verdict": "Successful", "value": '"' + "x" * 100 + '"', "text": ""},
            {"at": NOW - 10, "verdict": "Error", "value": "", "text": "no answer within 10 s"},
            {"at": NOW - 5, "verdict": "Failed", "value": "\x1b[31m7", "text": ""},
        ],
    }
    return {
        "id": "3-0-web-step2-errors",
        "verdict": "Failed",
        "text": "",
        "started_at": NOW - 60,
        "metrics": [metric],
    } | fields


def test_runs_are_a_table_with_the_last_values_and_the_reason(golden: Callable[[str, str], None]) -> None:
    dry = {**_document()["metrics"][0], "name": "latency", "dry_run": True, "verdict": "Running", "text": ""}
    running = _document(id="3-0-db-step2-errors", verdict="Running", metrics=[dry])
    pending = _document(id="3-0-db-step2-slow", verdict="Pending", metrics=[])
    golden("rollout-analysis", "\n".join(line.plain for line in run_lines([_document(), running, pending], NOW)))


def test_without_a_run_there_is_the_head_alone() -> None:
    assert [line.plain.split()[0] for line in run_lines([], NOW)] == ["RUN"]
