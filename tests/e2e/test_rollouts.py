"""Rollouts end to end: real processes behind a real HAProxy under a steady load, with good and bad versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.rollouts import Site, running_site, watching_floor
from tests.support.cluster import Cluster

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
