"""Rollouts end to end: real processes behind a real HAProxy under a steady load, with good and bad versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.rollouts import Site, running_site, watching_floor
from tests.support.cluster import Cluster
from tests.support.steady_load import statistics_of

QUICK = {"min_healthy": "1s"}
ROLLING = {"strategy": "rolling"}
CANARY = {
    "strategy": "canary",
    "steps": [{"set_weight": 20}, {"pause": "1s"}, {"set_weight": 60}, {"pause": "1s"}],
    "scale_down_delay": "1s",
}
BLUE_GREEN = {"strategy": "blue-green", "scale_down_delay": "2s"}
STRATEGIES = [ROLLING, CANARY, BLUE_GREEN]
Measured = Callable[[str, object], None]
NAMES = ["rolling", "canary", "blue-green"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a master on SQLite and two agents; nothing of them is harmed by the tests that share it."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.master("master")
        for node in ("node-a", "node-b"):
            cluster.agent(node)
        cluster.wait_nodes("node-a", "node-b")
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES, ids=NAMES)
def test_a_good_version_loses_no_request(cluster: Cluster, strategy: dict[str, Any], record_property: Measured) -> None:
    rollout = {**QUICK, **strategy}
    with running_site(cluster, f"good-{strategy['strategy']}", 4, rollout) as site, watching_floor(site) as ready:
        site.deploy("v2", rollout)
        assert site.rollout()["phase"] == "Healthy"
        site.is_settled_on("v2")
    no_request_failed(site, record_property)
    assert set(site.load.versions()) == {"v1", "v2"}
    assert min(ready) >= (3 if strategy is ROLLING else 4), "the floor holds all the time"


def no_request_failed(site: Site, measured: Measured) -> None:
    """Assert it, of enough requests to mean something."""
    measured("requests", len(site.load.answers))
    assert len(site.load.answers) > 200
    assert not site.load.failures


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES, ids=NAMES)
def test_a_version_that_crashes_at_start_is_rolled_back_with_the_defaults(
    cluster: Cluster, strategy: dict[str, Any], record_property: Measured
) -> None:
    with running_site(cluster, f"crash-{strategy['strategy']}", 4, strategy) as site, watching_floor(site) as ready:
        told = site.deploy("v2", strategy, mode="crash", expect=1)
        assert "deploy.degraded" in told
        found = site.waits_in("Degraded")
        assert found["reason"] == "RolledBack"
        (started,), (ended,) = site.events("RollbackStarted"), site.events("RolledBack")
        record_property("decided_s", round(started["at"] - found["started_at"], 2))
        record_property("rolled_back_s", round(ended["at"] - found["started_at"], 2))
        assert "ended with code 3" in started["text"]
        assert ended["at"] - found["started_at"] <= 15.0
        assert found["ended_at"] - found["started_at"] <= 15.0
        site.answers()
        assert site.cluster.cli("rollout", "status", site.name, expect=1).returncode == 1
    no_request_failed(site, record_property)
    assert set(site.load.versions()) == {"v1"}
    assert min(ready) >= (3 if strategy is ROLLING else 4), "the floor holds all the time"


@pytest.mark.slow
def test_a_version_that_never_becomes_ready_is_rolled_back_at_the_deadline(
    cluster: Cluster, record_property: Measured
) -> None:
    rollout = {**ROLLING, **QUICK, "progress_deadline": "5s"}
    with running_site(cluster, "unready", 4, rollout) as site, watching_floor(site) as ready:
        site.deploy("v2", rollout, mode="unready", expect=1)
        found = site.waits_in("Degraded")
        assert found["reason"] == "RolledBack"
        (started,) = site.events("RollbackStarted")
        record_property("decided_s", round(started["at"] - found["started_at"], 2))
        assert "no progress for 5 s" in started["text"]
        site.is_settled_on("v1")
    no_request_failed(site, record_property)
    assert set(site.load.versions()) == {"v1"}
    assert min(ready) >= 3


@pytest.mark.slow
def test_a_version_that_answers_500_is_rolled_back_by_its_analysis(cluster: Cluster, record_property: Measured) -> None:
    interval_s, count, percent = 1, 5, 20
    rollout = {
        "strategy": "canary",
        **QUICK,
        "steps": [{"set_weight": percent}, {"analysis": ["errors"]}, {"set_weight": 100}],
        "abort_scale_down_delay": "1s",
    }
    with running_site(cluster, "errors", 4, rollout) as site, statistics_of(site.load) as url:
        metric = {
            "name": "share",
            "provider": {"web": {"url": url, "json_path": "$.errors"}},
            "interval": f"{interval_s}s",
            "count": count,
            "failure_limit": 1,
            "success_condition": "result < 0.05",
        }
        begin_at = time.time()
        site.deploy("v2", rollout, mode="bad", analyses={"errors": {"metrics": [metric]}}, expect=1)
        found = site.waits_in("Degraded")
        assert found["reason"] == "RolledBack"
        (started,), (ended,), (step,) = (site.events(code) for code in ("RollbackStarted", "RolledBack", "RolloutStep"))
        record_property("decided_s", round(started["at"] - step["at"], 2))
        record_property("rolled_back_s", round(ended["at"] - step["at"], 2))
        assert "analysis errors of worker web: Failed" in started["text"]
        assert ended["at"] - step["at"] <= interval_s * count, "within the time of the analysis"
        site.is_settled_on("v1")
        bad = [one for one in site.load.failures if one.status == 500]
        record_property("requests", len(site.load.answers))
        record_property("answered_500", len(bad))
        record_property("share_in_the_canary", round(site.load.share_of_errors(step["at"]), 3))
        assert bad == site.load.failures, "nothing failed but what the bad version answered"
        assert bad, "the canary had traffic"
        assert site.load.share_of_errors(begin_at) <= percent / 100
        exposed = [one for one in site.load.answers if bad[0].at <= one.at <= bad[-1].at]
        assert len(bad) / len(exposed) <= percent / 100 + 0.05, "no more than its share while it had one"
        assert not [one for one in bad if one.at > ended["at"]], "none when it is rolled back"
