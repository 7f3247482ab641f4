"""A store put back from an older state, or emptied, under agents with work: nothing ends until a person accepts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, eventually, sleeper
from tests.support.etcd import EtcdCluster, default_etcd

NODES = ("node-a", "node-b")
CALM_S = 3.0
"""How long nothing may happen to be a proof: several beats of the agents, and rounds of the planner."""

Workers = dict[str, list[int]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def _deploy(cluster: Cluster, app: str, replicas: int) -> None:
    cluster.cli("deploy", str(cluster.manifest(app, [sleeper("web", replicas)])), "--timeout", "60s")


def _is_calm(cluster: Cluster, before: Workers) -> None:
    """Assert that every worker stays what it is for CALM_S."""
    until_s = time.monotonic() + CALM_S

    def is_over() -> bool:
        assert cluster.workers() == before
        return time.monotonic() > until_s

    eventually("the time is over", is_over)


def _restart_masters(cluster: Cluster, store: dict[str, Any] | None, between: Callable[[], None]) -> None:
    names = list(cluster.masters)
    for name in names:
        cluster.masters[name].stop()
    between()
    for name in names:
        cluster.master(name, store)
    cluster.leader()
    cluster.wait_nodes(*cluster.agents)


def _holds(cluster: Cluster) -> bool:
    return len(cluster.call("GET", "/v1/cluster/restore")["nodes"]) == len(cluster.agents)


def _accept(cluster: Cluster, before: Workers, kept: set[str]) -> None:
    """Look at the forecast, accept it, and check that it told the truth."""
    eventually("every node is held", lambda: _holds(cluster))
    _is_calm(cluster, before)
    lost = before.keys() - kept
    eventually("the forecast knows all that runs", lambda: _forecast(cluster, "stops") == lost)
    assert _forecast(cluster, "keeps") == kept
    shown = cluster.cli("doctor", "accept-restore", expect=1)
    assert "nothing was changed; add --yes" in shown.stderr
    assert all(instance in shown.stdout for instance in before)
    assert "accept-restore" in cluster.cli("status").stdout + cluster.cli("status").stderr
    _is_calm(cluster, before)
    cluster.cli("doctor", "accept-restore", "--yes")
    eventually("what the store does not know is stopped", lambda: cluster.workers().keys() == kept)
    assert {key: cluster.workers()[key] for key in kept} == {key: before[key] for key in kept}, "the rest is untouched"
    assert "nothing waits to be accepted" in cluster.cli("doctor", "accept-restore").stdout
    cluster.wait_nodes(*NODES)
    _deploy(cluster, "after", 2)


def _forecast(cluster: Cluster, kind: str) -> set[str]:
    nodes = cluster.call("GET", "/v1/cluster/restore")["nodes"]
    return {instance for node in nodes for instance in node[kind]}


@pytest.mark.etcd
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["same cluster", "another cluster", "wiped"])
def test_etcd_is_restored_from_a_snapshot_or_wiped(cluster: Cluster, tmp_path: Path, way: str) -> None:
    with EtcdCluster(default_etcd().path, size=1) as etcd:
        (member,) = etcd
        store = {"etcd": {"endpoints": list(etcd.endpoints)}}
        for name in ("master-1", "master-2"):
            cluster.master(name, store)
        for name in NODES:
            cluster.agent(name)
        cluster.wait_nodes(*NODES)
        _deploy(cluster, "shop", 4)
        early = set(cluster.workers())
        member.snapshot(tmp_path / "snapshot.db")
        _deploy(cluster, "late", 4)
        before = cluster.workers()

        def between() -> None:
            member.stop()
            if way == "wiped":
                shutil.rmtree(member.folder / member.name)
            else:
                member.restore(tmp_path / "snapshot.db", "" if way == "same cluster" else "another-token")
            member.restart()

        _restart_masters(cluster, store, between)
        if way == "wiped":
            _deploy_is_not_placed_on_held_nodes(cluster)
        _accept(cluster, before, set() if way == "wiped" else early)


def _deploy_is_not_placed_on_held_nodes(cluster: Cluster) -> None:
    eventually("every node is held", lambda: _holds(cluster))
    manifest = cluster.manifest("early", [sleeper("web", 1)])
    cluster.cli("deploy", str(manifest), "--no-wait")
    reasons = {item["reason"] for item in cluster.instances("early")}
    assert any("held (doctor accept-restore)" in reason for reason in reasons), reasons
    cluster.cli("remove", "early")


@pytest.mark.timeout(300)
def test_the_file_of_sqlite_is_put_back(cluster: Cluster, tmp_path: Path) -> None:
    cluster.master("master-1")
    for name in NODES:
        cluster.agent(name)
    cluster.wait_nodes(*NODES)
    _deploy(cluster, "shop", 4)
    early = set(cluster.workers())
    folder, backup = tmp_path / "master-1", tmp_path / "backup"
    files = "store.sqlite*"
    backup.mkdir()
    _restart_masters(cluster, None, lambda: [shutil.copy(path, backup) for path in folder.glob(files)] and None)
    _deploy(cluster, "late", 4)
    before = cluster.workers()

    def put_back() -> None:
        for path in folder.glob(files):
            path.unlink()
        for path in backup.iterdir():
            shutil.copy(path, folder)

    _restart_masters(cluster, None, put_back)
    _accept(cluster, before, early)
