"""etcd goes away under a running cluster and comes back: nothing that runs is touched, and nothing moves after it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ApiError, Cluster, eventually, sleeper
from tests.support.etcd import EtcdCluster, default_etcd

MASTERS = ("master-1", "master-2")
NODES = ("node-a", "node-b")
OUTAGE_S = float(os.environ.get("HSU_TEST_OUTAGE_S", "20"))
"""Longer than every lease: the leader's 5 s and a node's 8 s. HSU_TEST_OUTAGE_S=600 for the promised ten minutes."""


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster(default_etcd().path, size=3, is_synced=True) as etcd:
        yield etcd


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdCluster) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        for name in MASTERS:
            cluster.master(name, {"etcd": {"endpoints": list(etcd.endpoints)}})
        for name in NODES:
            cluster.agent(name)
        cluster.wait_nodes(*NODES)
        yield cluster


@pytest.mark.etcd
@pytest.mark.timeout(300 + 2 * OUTAGE_S)
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_workers_outlive_the_store_and_nothing_moves_when_it_is_back(
    cluster: Cluster, etcd: EtcdCluster, how: str
) -> None:
    cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", 6)])), "--timeout", "60s")
    before = cluster.wait_ready("shop", 6)
    away_s = time.monotonic()
    for member in etcd:
        if how == "killed":
            member.kill()
        else:
            member.pause()

    # A local restart goes on, by the agent alone.
    victim = before["shop/web.0"]
    os.kill(victim["pid"], signal.SIGKILL)
    eventually("it is started again", lambda: cluster.workers().get("shop/web.0", [victim["pid"]]) != [victim["pid"]])

    for master in MASTERS:
        found = eventually("reads are old", lambda master=master: _stale(cluster, master))
        assert [item["id"] for item in found["items"]] == sorted(before)
        _refuses_writes(cluster, master)
    shown = cluster.cli("get", "instances")
    assert "the store does not answer" in shown.stderr
    assert "as of " in shown.stderr
    assert "shop/web.5" in shown.stdout
    eventually("it was away for long enough", lambda: time.monotonic() - away_s > OUTAGE_S, timeout_s=OUTAGE_S + 60)
    assert _pids(cluster) == {key: [item["pid"]] for key, item in before.items()} | {
        "shop/web.0": cluster.workers()["shop/web.0"]
    }

    for member in etcd:
        if how == "killed":
            member.spawn()
        else:
            member.resume()
    back_s = time.monotonic()
    eventually("a deploy is placed", lambda: _scale(cluster, 7) and len(cluster.ready("shop")) == 7)
    assert time.monotonic() - back_s < 30.0
    after = cluster.wait_ready("shop", 7)
    assert {key: after[key]["node"] for key in before} == {key: item["node"] for key, item in before.items()}
    unchanged = sorted(before.keys() - {"shop/web.0"})
    assert [after[key]["pid"] for key in unchanged] == [before[key]["pid"] for key in unchanged]
    assert [after[key]["restarts"] for key in unchanged] == [0] * 5
    assert after["shop/web.0"]["restarts"] == 1
    assert not [event for event in _events(cluster) if event["code"] == "NodeLost"], "no node was judged meanwhile"
    assert "stale" not in cluster.call("GET", "/v1/instances")


def _pids(cluster: Cluster) -> dict[str, list[int]]:
    return cluster.workers()


def _stale(cluster: Cluster, master: str) -> dict[str, Any] | None:
    document: dict[str, Any] = cluster.call("GET", "/v1/instances", master=master)
    return document if document.get("stale") else None


def _refuses_writes(cluster: Cluster, master: str) -> None:
    request = urllib.request.Request(
        f"{cluster.url(master)}/v1/namespaces/default/apps/shop/workers/web/scale",
        data=json.dumps({"replicas": 9}).encode(),
        headers={"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"},
    )
    started_s = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert time.monotonic() - started_s < 5.0
    assert refused.value.code == 503
    assert int(refused.value.headers["Retry-After"]) >= 1


def _scale(cluster: Cluster, replicas: int) -> bool:
    try:
        cluster.call("POST", "/v1/namespaces/default/apps/shop/workers/web/scale", {"replicas": replicas})
    except ApiError as error:
        if error.status not in (503, 504):
            raise
        return False
    return True


def _events(cluster: Cluster) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = cluster.call("GET", "/v1/events?limit=500")["items"]
    return items
