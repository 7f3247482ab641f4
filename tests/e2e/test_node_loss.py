"""Nodes that fall silent and come back, on real processes: what moves, how often, and which copy stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, eventually, shell

TTL_S = 4.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        cluster.master("master", nodes={"beat": "1s", "ttl": f"{TTL_S:g}s", "cooldown": "1m"})
        for name in ("node-a", "node-b"):
            cluster.agent(name)
        cluster.wait_nodes("node-a", "node-b")
        yield cluster


def _freeze(cluster: Cluster, name: str) -> Callable[[], None]:
    """Stop the keeper and the agent of a node, not its workers; return what lets them go on."""
    pids = [cluster.agents[name].pid, cluster.agent_process(name).pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    return go_on


def _states(cluster: Cluster) -> dict[str, str]:
    return {name: node["state"] for name, node in cluster.nodes().items()}


def _events(cluster: Cluster, code: str) -> list[dict[str, Any]]:
    found = cluster.call("GET", "/v1/events?limit=500")["items"]
    return [event for event in found if event["code"] == code]


def _deploy(cluster: Cluster, app: str, **worker: Any) -> dict[str, dict[str, Any]]:
    manifest = cluster.manifest(app, [shell("web", "exec sleep 3600", 2, **worker)])
    cluster.cli("deploy", str(manifest), "--timeout", "60s")
    return cluster.wait_ready(app, 2)


@pytest.mark.timeout(300)
def test_a_node_that_falls_silent_and_comes_back_again_and_again(cluster: Cluster) -> None:
    before = _deploy(cluster, "shop")
    kept = _deploy(cluster, "kept", on_return="keep_original")
    assert {item["node"] for item in before.values()} == {"node-a", "node-b"}

    # silent for less than its TTL: it is suspect, and nothing moves
    go_on = _freeze(cluster, "node-a")
    eventually("node-a is suspect", lambda: _states(cluster)["node-a"] == "suspect", timeout_s=TTL_S)
    go_on()
    eventually("node-a is ready", lambda: _states(cluster)["node-a"] == "ready")
    assert cluster.ready("shop") == before
    assert not _events(cluster, "NodeLost")

    # silent for longer: lost, and everything runs on the other node
    go_on = _freeze(cluster, "node-a")
    eventually("node-a is lost", lambda: _states(cluster)["node-a"] == "lost")
    _all_on(cluster, "shop", "node-b")
    _all_on(cluster, "kept", "node-b")

    # back: the replacement stays in one app, the original in the other; nothing runs twice
    go_on()
    eventually("node-a is ready", lambda: _states(cluster)["node-a"] == "ready")
    eventually("the original is kept", lambda: _places(cluster, "kept") == _places_of(kept))
    _all_on(cluster, "shop", "node-b")
    eventually("one process each", lambda: sorted(map(len, cluster.workers().values())) == [1] * 4)
    after = cluster.wait_ready("kept", 2)
    assert {name: item["pid"] for name, item in after.items()} == {name: item["pid"] for name, item in kept.items()}
    assert cluster.nodes()["node-a"]["cooling_until"] is not None

    # lost and back once more: nothing of `shop` is there to move, and nothing new goes there
    moved = {name: item["epoch"] for name, item in cluster.wait_ready("shop", 2).items()}
    go_on = _freeze(cluster, "node-a")
    eventually("node-a is lost again", lambda: _states(cluster)["node-a"] == "lost")
    _all_on(cluster, "kept", "node-b")
    go_on()
    eventually("node-a is ready", lambda: _states(cluster)["node-a"] == "ready")
    eventually("one process each", lambda: sorted(map(len, cluster.workers().values())) == [1] * 4)
    _all_on(cluster, "kept", "node-b")
    assert {name: item["epoch"] for name, item in cluster.wait_ready("shop", 2).items()} == moved
    cluster.cli("scale", "shop/web=4")
    assert {item["node"] for item in cluster.wait_ready("shop", 4).values()} == {"node-b"}
    assert "cooling down" in cluster.cli("node", "list").stdout


def _places(cluster: Cluster, app: str) -> dict[str, str]:
    return _places_of(cluster.ready(app))


def _places_of(instances: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: item["node"] for name, item in instances.items()}


def _all_on(cluster: Cluster, app: str, node: str) -> None:
    eventually(
        f"{app} runs on {node}",
        lambda: len(found := _places(cluster, app)) == 2 and set(found.values()) == {node},
    )
