"""One machine: master and agent in one program on SQLite, and a second agent that joins it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, eventually, new_pids, shell, sleeper
from tests.support.walk import agent_comes_back, node_is_lost, scales_and_goes, workers_come_back


@pytest.mark.timeout(300)
def test_workers_outlive_a_killed_standalone_which_adopts_them(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        standalone = cluster.standalone("solo")
        manifest = cluster.manifest("shop", [sleeper("web", 6), shell("flaky", "sleep 1; exit 1", 1)])
        cluster.cli("deploy", str(manifest), "--no-wait")
        before = eventually("six web instances run", lambda: _web(cluster, 6))

        standalone.kill()
        assert _alive(before), "the workers run on"
        cluster.standalone("solo")
        after = eventually("six web instances are reported", lambda: _web(cluster, 6))
        assert list(new_pids(before, after)) == []
        assert all(len(pids) == 1 for name, pids in cluster.workers().items() if "web" in name)

        os.kill(after["shop/web.0"]["pid"], signal.SIGKILL)
        eventually(
            "an adopted worker that dies is started again",
            lambda: (now := _web(cluster, 6)) and now["shop/web.0"]["pid"] != after["shop/web.0"]["pid"],
        )
        cluster.cli("remove", "shop")
        eventually("no worker is left", lambda: not cluster.workers())


@pytest.mark.timeout(300)
def test_one_master_on_sqlite_and_two_agents(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.master("master")
        for node in ("node-a", "node-b"):
            cluster.agent(node)
        cluster.wait_nodes("node-a", "node-b")
        manifest = cluster.manifest("shop", [sleeper("web", 8), sleeper("loop", 4)])
        cluster.cli("deploy", str(manifest), "--timeout", "60s")
        first = cluster.wait_ready("shop", 12)
        assert {item["node"] for item in first.values()} == {"node-a", "node-b"}
        workers_come_back(cluster, first)
        before = cluster.wait_ready("shop", 12)
        agent_comes_back(cluster, "node-a", before)

        cluster.masters["master"].kill()
        assert _alive(before), "nothing is touched while no master lives"
        cluster.master("master")
        cluster.wait_nodes("node-a", "node-b")
        assert list(new_pids(before, cluster.wait_ready("shop", 12))) == []

        cluster.cli("node", "drain", "node-a")
        eventually(
            "node-a is empty",
            lambda: (
                {item["node"] for item in cluster.ready("shop").values()} == {"node-b"}
                and len(cluster.ready("shop")) == 12
            ),
        )
        cluster.cli("node", "uncordon", "node-a")
        node_is_lost(cluster, "node-b", 12)
        scales_and_goes(cluster)


@pytest.mark.timeout(300)
def test_verbs_on_workers_and_slots(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.standalone("solo")
        manifest = cluster.manifest("shop", [shell("web", "echo hello from $HSU_INSTANCE; exec sleep 3600", 3)])
        cluster.cli("deploy", str(manifest))
        before = cluster.wait_ready("shop", 3)

        cluster.cli("stop", "shop/web.1")
        eventually("one slot is stopped", lambda: _states(cluster)["shop/web.1"] == "stopped")
        assert sorted(cluster.ready("shop")) == ["shop/web.0", "shop/web.2"]
        cluster.cli("start", "shop/web.1")
        middle = cluster.wait_ready("shop", 3)
        assert list(new_pids(before, middle)) == ["shop/web.1"]

        cluster.cli("restart", "shop/web")
        eventually(
            "every instance is another process",
            lambda: len(list(new_pids(middle, cluster.wait_ready("shop", 3)))) == 3,
        )
        logs = cluster.cli("logs", "shop/web.0").stdout
        assert "hello from" in logs
        timed = cluster.cli("logs", "shop/web.0", "-t", "--until", "0s").stdout
        assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z hello from", timed)
        assert cluster.cli("plan", str(manifest), expect=0).returncode == 0
        changed = cluster.manifest("shop", [sleeper("web", 3)])
        assert cluster.cli("plan", str(changed), expect=2).returncode == 2
        told = cluster.cli("deploy", str(changed), "--dry-run").stdout
        assert told == cluster.cli("plan", str(changed), expect=2).stdout
        assert cluster.call("GET", "/v1/namespaces/default/apps/shop")["app_revision"] == 1
        cluster.cli("deploy", str(changed))
        assert len(list(new_pids(middle, cluster.wait_ready("shop", 3)))) == 3


@pytest.mark.timeout(300)
def test_an_earlier_revision_runs_again(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.standalone("solo")
        for version in ("one", "two"):
            code = f"echo version {version}; exec sleep 3600"
            cluster.cli("deploy", str(cluster.manifest("shop", [shell("web", code, 3)])))
        assert "version two" in cluster.cli("logs", "shop/web.0", "--tail", "1").stdout
        before = cluster.wait_ready("shop", 3)

        assert "revision 3 is accepted" in cluster.cli("rollout", "undo", "shop").stdout
        after = cluster.wait_ready("shop", 3)
        assert len(list(new_pids(before, after))) == 3
        assert "version one" in cluster.cli("logs", "shop/web.0", "--tail", "1").stdout
        assert cluster.cli("rollout", "status", "shop").returncode == 0
        history = cluster.cli("rollout", "history", "shop").stdout
        assert [line.split()[0] for line in history.splitlines()[1:]] == ["1", "2", "3"]

        cluster.cli("rollout", "undo", "shop", "--to", "2")
        eventually(
            "the second version runs again",
            lambda: "version two" in cluster.cli("logs", "shop/web.0", "--tail", "1").stdout,
        )
        assert "the kept ones are 1, 2, 3, 4" in cluster.cli("rollout", "undo", "shop", "--to", "9", expect=None).stderr


def _web(cluster: Cluster, count: int) -> dict[str, dict[str, object]] | None:
    ready = {name: item for name, item in cluster.ready("shop").items() if item["worker"] == "web"}
    return ready if len(ready) == count else None


def _states(cluster: Cluster) -> dict[str, str]:
    return {item["id"]: item["state"] for item in cluster.instances("shop")}


def _alive(instances: dict[str, dict[str, object]]) -> bool:
    for item in instances.values():
        os.kill(int(str(item["pid"])), 0)
    return True
