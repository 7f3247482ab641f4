"""Rollouts end to end: real processes behind a real HAProxy under a steady load, with good and bad versions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rollouts import Site, running_site, watching_floor
from tests.support.cluster import Cluster, eventually
from tests.support.etcd import EtcdCluster, default_etcd
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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a master on SQLite and two agents."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.master("master")
        for node in ("node-a", "node-b"):
            cluster.agent(node)
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Return the shared cluster, whatever the last test has killed of it."""
    if shared.masters["master"].has_ended():
        shared.master("master")
    shared.wait_nodes(*shared.agents)
    return shared


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
        site.cli("status", expect=1)
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


# --- kill -9 in the middle ----------------------------------------------------------------------

SLOW_CANARY = {
    "strategy": "canary",
    **QUICK,
    "steps": [{"set_weight": 20}, {"pause": "2s"}, {"set_weight": 60}, {"pause": "1s"}],
    "scale_down_delay": "1s",
}
SLOW_BLUE_GREEN = {"strategy": "blue-green", **QUICK, "auto_promote_after": "2s", "scale_down_delay": "1s"}
SLOW_ROLLING = {"strategy": "rolling", **QUICK}


@pytest.mark.slow
@pytest.mark.etcd
@pytest.mark.parametrize("strategy", [SLOW_CANARY, SLOW_BLUE_GREEN], ids=NAMES[1:])
def test_another_leader_goes_on_from_the_same_point(
    tmp_path: Path, strategy: dict[str, Any], record_property: Measured
) -> None:
    with EtcdCluster(default_etcd().path, size=1) as etcd, Cluster(tmp_path) as cluster:
        for name in ("master-1", "master-2"):
            cluster.master(name, {"etcd": {"endpoints": list(etcd.endpoints)}}, leader_ttl="3s")
        cluster.agent("node-a")
        cluster.wait_nodes("node-a")
        with running_site(cluster, "shop", 4, strategy) as site, watching_floor(site) as ready:
            site.deploy("v2", strategy, is_waiting=False)
            in_the_middle(site)
            before, leader = site.rollout(), cluster.leader()
            killed_at = time.time()
            cluster.masters[leader].kill()
            eventually("another master leads", lambda: cluster.leader() != leader)
            ended_well_once(site, before, strategy)
            record_property("after_the_kill_s", round(site.rollout()["ended_at"] - killed_at, 2))
            site.is_settled_on("v2")
        no_request_failed(site, record_property)
        assert min(ready) >= 4, "the floor holds all the time"


@pytest.mark.slow
def test_the_only_master_is_killed_and_goes_on_from_the_same_point(cluster: Cluster, record_property: Measured) -> None:
    with running_site(cluster, "master-dies", 4, SLOW_ROLLING) as site:
        site.deploy("v2", SLOW_ROLLING, is_waiting=False)
        in_the_middle(site)
        before = site.rollout()
        cluster.masters["master"].kill()
        assert site.answers() == {"v1", "v2"}, "both serve on while no master lives"
        cluster.master("master")
        ended_well_once(site, before, SLOW_ROLLING)
        site.is_settled_on("v2")
    no_request_failed(site, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [SLOW_ROLLING, SLOW_CANARY, SLOW_BLUE_GREEN], ids=NAMES)
def test_agents_are_killed_and_find_their_workers_again(
    cluster: Cluster, strategy: dict[str, Any], record_property: Measured
) -> None:
    with running_site(cluster, f"agents-{strategy['strategy']}", 4, strategy) as site:
        site.deploy("v2", strategy, is_waiting=False)
        in_the_middle(site)
        before = site.rollout()
        new = eventually("one that is to stay is replaced", lambda: new_instances(site))
        kill_agents(cluster)
        ended_well_once(site, before, strategy)
        after = cluster.ready(site.name)
        assert {name: after[name]["pid"] for name in new} == new, "nothing that ran was started twice"
        site.is_settled_on("v2")
    no_request_failed(site, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["crash", "unready"])
def test_master_and_agents_are_killed_in_the_middle_of_a_rollback(
    cluster: Cluster, mode: str, record_property: Measured
) -> None:
    rollout = {**SLOW_ROLLING, "progress_deadline": "4s"}
    with running_site(cluster, f"killed-{mode}", 4, rollout) as site:
        site.deploy("v2", rollout, mode=mode, is_waiting=False)
        eventually("the new version is started", lambda: len(site.part()["sets"]) == 2 or site.events("RolledBack"))
        kill_agents(cluster)
        cluster.masters["master"].kill()
        assert site.answers() == {"v1"}
        cluster.master("master")
        found = site.waits_in("Degraded")
        assert (found["reason"], found["app_revision"]) == ("RolledBack", 2)
        assert len(site.events("RollbackStarted")) == len(site.events("RolledBack")) == 1
        record_property("rolled_back_s", round(found["ended_at"] - found["started_at"], 2))
        site.is_settled_on("v1")
    no_request_failed(site, record_property)
    assert set(site.load.versions()) == {"v1"}


def kill_agents(cluster: Cluster) -> None:
    """Kill every agent; its keeper starts another one."""
    for node in cluster.agents:
        cluster.agent_process(node).kill()


def in_the_middle(site: Site) -> None:
    """Wait until the new version has traffic (or, in a preview, runs), and the rollout is not over."""
    if site.part()["strategy"] == "blue-green":
        eventually("the preview runs", lambda: site.part()["stage"] == "promotable")
    else:
        eventually("the new version has traffic", lambda: "v2" in site.load.versions())
    assert site.rollout()["ended_at"] is None


def new_instances(site: Site) -> dict[str, int]:
    """Return the process of each ready instance of the new revision by id, but for one that only helps."""
    (new,) = [one for one in site.part()["sets"] if one["app_revision"] == 2]
    helper = f"{site.name}/web.{site.replicas}" if site.part()["strategy"] == "rolling" else ""
    ready = site.cluster.ready(site.name)
    return {name: ready[name]["pid"] for name in new["instances"] if name in ready and name != helper}


def ended_well_once(site: Site, before: dict[str, Any], strategy: dict[str, Any]) -> None:
    """Assert that the rollout that was under way ends well, and that nothing of it was done twice."""
    after = site.waits_in("Healthy", "Degraded")
    assert (after["phase"], after["attempt"], after["started_at"]) == ("Healthy", 0, before["started_at"])
    steps = strategy.get("steps", [])
    told = [f"worker web: step {number} of {len(steps)} is done" for number in range(1, len(steps) + 1)]
    assert [one["text"] for one in site.events("RolloutStep")] == told
    assert len(site.events("RolloutSwitched")) == (0 if strategy is SLOW_ROLLING else 1)
    assert len(site.events("RolloutStarted")) == 2, "of each version one"


# --- verbs --------------------------------------------------------------------------------------


LED = {
    "strategy": "canary",
    "steps": [{"set_weight": 20}, {"pause": {}}, {"set_weight": 60}, {"approve": "look at the figures"}],
    "scale_down_delay": "1s",
    "abort_scale_down_delay": "1s",
}


@pytest.mark.slow
def test_a_canary_is_led_by_the_command_line(cluster: Cluster, record_property: Measured) -> None:
    rollout = {**LED, "min_healthy": "500ms"}
    with running_site(cluster, "led", 4, rollout) as site:
        site.deploy("v2", rollout, mode="unready", is_waiting=False)
        assert "conflict.not-waiting" in site.cli("promote", expect=1), "the canary is never there"
        site.deploy("v3", rollout, is_waiting=False)
        waits_for(site, "a person")
        assert site.cli("status", expect=3).startswith("led  revision 3 (from 1)  Paused")
        shown = json.loads(site.cli("status", "-o", "json", expect=3))
        assert (shown["phase"], shown["app_revision"], shown["stable_revision"]) == ("Paused", 3, 1)

        site.cli("pause")
        eventually("it is paused on request", lambda: site.rollout()["reason"] == "PausedOnRequest")
        assert site.rollout()["paused"] is True
        site.cli("resume")
        eventually("it is not any more", lambda: site.rollout()["reason"] == "RolloutPaused")
        site.cli("promote")
        waits_for(site, "approval: look at the figures")
        assert (site.part()["step"], site.part()["actual_weight"]) == (3, 60)

        site.cli("promote")
        told = site.cli("status", "--watch", "-o", "json", expect=0).splitlines()
        assert json.loads(told[-1])["phase"] == "Healthy", "it is followed to its end"
        assert "conflict.rollout-over" in site.cli("promote", expect=1)
        site.is_settled_on("v3")
    no_request_failed(site, record_property)


@pytest.mark.slow
def test_a_canary_is_aborted_tried_again_and_undone_by_the_command_line(
    cluster: Cluster, record_property: Measured
) -> None:
    rollout = {**LED, "min_healthy": "500ms"}
    with running_site(cluster, "undone", 4, rollout) as site:
        site.deploy("v2", rollout, is_waiting=False)
        waits_for(site, "a person")
        site.cli("abort")
        found = site.waits_in("Degraded")
        assert (found["reason"], found["aborted"]) == ("Aborted", True)
        site.cli("status", expect=1)
        assert "conflict.aborted" in site.cli("promote", expect=1), "an abort beats a promotion"
        site.is_settled_on("v1")

        site.cli("retry")
        waits_for(site, "a person")
        assert (site.rollout()["attempt"], site.part()["step"]) == (1, 1)
        site.cli("promote", "--full")
        site.cli("status", "--watch", expect=0)
        site.is_settled_on("v2")

        site.cli("undo", "--no-wait")
        waits_for(site, "a person")
        assert site.rollout()["app_revision"] == 3
        site.cli("promote", "--full")
        site.waits_in("Healthy")
        site.is_settled_on("v1")
    no_request_failed(site, record_property)


def waits_for(site: Site, what: str) -> None:
    """Wait until the rollout waits for something."""
    eventually(f"it waits for {what}", lambda: site.part()["waits_for"].startswith(what), every_s=0.1)
