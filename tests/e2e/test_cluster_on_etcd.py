"""The product's main job on real processes: three etcd members, three masters, three agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, eventually, new_pids, shell, sleeper
from tests.support.etcd import EtcdCluster, default_etcd
from tests.support.walk import agent_comes_back, node_is_lost, scales_and_goes, workers_come_back

NODES = ("node-a", "node-b", "node-c")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with EtcdCluster(default_etcd().path, size=3) as etcd, Cluster(tmp_path) as cluster:
        store = {"etcd": {"endpoints": list(etcd.endpoints)}}
        for name in ("master-1", "master-2", "master-3"):
            cluster.master(name, store, leader_ttl="4s")
        for name in NODES:
            cluster.agent(name)
        cluster.wait_nodes(*NODES)
        yield cluster


@pytest.mark.etcd
@pytest.mark.timeout(420)
def test_deploy_survive_every_death_and_remove(cluster: Cluster) -> None:
    looping = "trap 'exit 0' TERM; while :; do sleep 0.2 & wait $!; done"
    manifest = cluster.manifest("shop", [sleeper("web", 8), shell("loop", looping, 4)])

    cluster.cli("deploy", str(manifest), "--timeout", "60s")
    first = cluster.wait_ready("shop", 12)
    assert {item["node"] for item in first.values()} == set(NODES)
    assert sorted(cluster.workers()) == sorted(first)

    workers_come_back(cluster, first)
    before = cluster.wait_ready("shop", 12)
    agent_comes_back(cluster, "node-a", before)
    _leader_is_replaced(cluster)
    after = cluster.wait_ready("shop", 12)
    assert list(new_pids(before, after)) == [], "nothing restarts when agent or leader die"
    node_is_lost(cluster, "node-b", 12)
    scales_and_goes(cluster)


def _leader_is_replaced(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.masters[leader].kill()
    eventually("another master leads", lambda: cluster.leader() != leader, timeout_s=20.0)
    extra = cluster.manifest("extra", [sleeper("one", 3)])
    cluster.cli("deploy", str(extra), "--timeout", "60s")
    cluster.cli("remove", "extra")
    eventually("the extra app is gone", lambda: not cluster.instances("extra"))
