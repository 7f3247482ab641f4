"""The product's main job on real processes: three etcd members, three masters, three agents."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, eventually, new_pids, shell, sleeper
from tests.support.etcd import EtcdCluster, default_etcd

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

    _workers_come_back(cluster, first)
    before = cluster.wait_ready("shop", 12)

    _agent_comes_back(cluster, before)
    _leader_is_replaced(cluster)
    after = cluster.wait_ready("shop", 12)
    assert list(new_pids(before, after)) == [], "nothing restarts when agent or leader die"

    cluster.cli("scale", "shop/web=10")
    cluster.wait_ready("shop", 14)

    lost = "node-b"
    cluster.kill_node(lost)
    eventually(
        "the lost node's instances run elsewhere",
        lambda: len([i for i in cluster.ready("shop").values() if i["node"] != lost]) == 14,
        timeout_s=15.0,
    )
    cluster.agents[lost].start()
    cluster.wait_nodes(*NODES)
    cluster.wait_ready("shop", 14)
    eventually("no copy is left on the node that came back", lambda: _is_single(cluster))

    cluster.cli("scale", "shop/web=26")
    cluster.wait_ready("shop", 30)
    cluster.cli("scale", "shop/web=1")
    cluster.cli("scale", "shop/loop=2")
    cluster.wait_ready("shop", 3)
    cluster.cli("remove", "shop")
    eventually("no worker is left", lambda: not cluster.workers())
    assert cluster.instances() == []


def _workers_come_back(cluster: Cluster, before: dict[str, dict[str, object]]) -> None:
    for instance, item in sorted(before.items()):
        os.kill(int(str(item["pid"])), signal.SIGKILL)
        again = eventually(
            f"{instance} runs again",
            lambda instance=instance, item=item: (
                (now := cluster.ready("shop").get(instance)) and now["pid"] != item["pid"] and now
            ),
            timeout_s=5.0,
        )
        assert again["started_at"] - again["last_exit"]["at"] < 1.0, "back within a second"
        assert again["last_exit"]["signal"] == "SIGKILL"
        assert again["restarts"] == 1


def _agent_comes_back(cluster: Cluster, before: dict[str, dict[str, object]]) -> None:
    agent = cluster.agent_process("node-a")
    agent.kill()
    eventually("another agent runs", lambda: cluster.agent_process("node-a").pid != agent.pid)
    cluster.wait_nodes(*NODES)
    after = cluster.wait_ready("shop", 12)
    assert list(new_pids(before, after)) == []
    assert _is_single(cluster)


def _leader_is_replaced(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.masters[leader].kill()
    eventually("another master leads", lambda: cluster.leader() != leader, timeout_s=20.0)
    extra = cluster.manifest("extra", [sleeper("one", 3)])
    cluster.cli("deploy", str(extra), "--timeout", "60s")
    cluster.cli("remove", "extra")
    eventually("the extra app is gone", lambda: not cluster.instances("extra"))


def _is_single(cluster: Cluster) -> bool:
    """Return whether each instance has one living session leader, the one that is reported."""
    reported = {item["id"]: item["pid"] for item in cluster.ready("shop").values()}
    living = cluster.workers()
    return set(living) == set(reported) and all(
        [pid for pid in pids if os.getsid(pid) == pid] == [reported[name]] for name, pids in living.items()
    )
