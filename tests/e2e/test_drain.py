"""Nodes are emptied and filled: never fewer ready than promised, by a deadline, by force, and as nodes join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rollouts import running_site, watching_floor
from tests.support.cluster import Cluster, eventually, sleeper

NODES = ("node-a", "node-b", "node-c")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        cluster.master("master")
        for node in NODES:
            cluster.agent(node)
        cluster.wait_nodes(*NODES)
        yield cluster


def _on(cluster: Cluster, node: str) -> list[str]:
    return [item["id"] for item in cluster.instances() if item["node"] == node]


@pytest.mark.timeout(300)
def test_a_drain_under_load_loses_no_request_and_keeps_every_copy_ready(cluster: Cluster) -> None:
    with running_site(cluster, "site", 4, {}) as site:
        with watching_floor(site) as counts:
            plan = cluster.cli("node", "drain", "node-a", "--dry-run").stdout
            assert "site/web: all 4 stay ready" in plan
            told = cluster.cli("node", "drain", "node-a", "--timeout", "90s").stdout
        assert told.splitlines()[-1] == "done"
        assert _on(cluster, "node-a") == []
        assert min(counts) >= 4
        assert counts
        site.is_settled_on("v1")
        assert site.load.failures == []
        cluster.cli("node", "uncordon", "node-a")


@pytest.mark.timeout(300)
def test_a_drain_without_another_place_waits_until_its_deadline_or_force(cluster: Cluster) -> None:
    tied = {"placement": {"constraints": ["node.name == node-b"]}}
    cluster.cli("deploy", str(cluster.manifest("tied", [sleeper("web", 2, **tied)])), "--timeout", "60s")
    late = cluster.cli("node", "drain", "node-b", "--timeout", "2s", expect=1)
    assert "2 instances left after 2s: tied/web.0 stays on node-b, no other node can take it" in late.stderr
    assert "tied/web.0 stays on node-b" in cluster.cli("node", "list").stdout
    assert len(cluster.ready("tied")) == 2

    cluster.cli("node", "drain", "node-b", "--cancel")
    told = cluster.cli("node", "drain", "node-b", "--deadline", "3s")
    assert "done: 2 instances taken off by force" in told.stdout
    assert eventually("its processes have ended", lambda: not cluster.workers())
    assert "the deadline of the drain of node node-b is over" in cluster.cli("describe", "node/node-b").stdout

    cluster.cli("node", "uncordon", "node-b")
    cluster.wait_ready("tied", 2)
    forced = cluster.cli("node", "drain", "node-b", "--force")
    assert "done: 2 instances taken off by force" in forced.stdout


@pytest.mark.timeout(300)
def test_a_rebalance_fills_a_node_that_joins_and_no_copy_is_missed(cluster: Cluster) -> None:
    with running_site(cluster, "site", 8, {"max_unavailable": 0, "max_surge": 2}) as site:
        cluster.agent("node-d")
        cluster.wait_nodes(*NODES, "node-d")
        assert "2 instances would move" in cluster.cli("node", "rebalance", "--dry-run").stdout
        with watching_floor(site) as counts:
            told = cluster.cli("node", "rebalance", "--timeout", "120s").stdout
        assert told.splitlines()[-1].startswith("2 moves done; no other would make it better")
        assert min(counts) >= 8
        site.is_settled_on("v1")
        assert site.load.failures == []
        assert len(_on(cluster, "node-d")) == 2
        assert "no move would make it better" in cluster.cli("node", "rebalance", "--dry-run").stdout


@pytest.mark.timeout(300)
def test_the_automatic_rebalance_begins_when_a_node_has_joined(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.master("master", rebalance={"automatic": True, "max_moves": 2, "interval": "1s"})
        cluster.agent("node-a")
        cluster.wait_nodes("node-a")
        cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", 4)])), "--timeout", "60s")
        cluster.agent("node-b")
        cluster.wait_nodes("node-b")
        eventually("both have two", lambda: len(_on(cluster, "node-b")) == 2, timeout_s=120.0, every_s=0.5)
        cluster.wait_ready("shop", 4)
        assert "automatic" in cluster.cli("node", "rebalance", "--status").stdout
