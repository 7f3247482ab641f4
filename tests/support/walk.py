"""Steps that every whole-cluster test walks: deaths of workers and agents, a lost node, scaling, removal."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support.cluster import Cluster, eventually, new_pids

Instances = dict[str, dict[str, Any]]


def workers_come_back(cluster: Cluster, before: Instances) -> None:
    """Kill every worker in turn: each is back within a second, as another process."""
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


def agent_comes_back(cluster: Cluster, node: str, before: Instances) -> None:
    """Kill an agent: its keeper starts another, which finds the same processes, none twice."""
    agent = cluster.agent_process(node)
    agent.kill()
    eventually("another agent runs", lambda: cluster.agent_process(node).pid != agent.pid)
    cluster.wait_nodes(*cluster.agents)
    after = cluster.wait_ready("shop", len(before))
    assert list(new_pids(before, after)) == []
    assert is_single(cluster)


def node_is_lost(cluster: Cluster, lost: str, count: int) -> None:
    """Cut a node's power: its instances run elsewhere within 15 s, and none is doubled when it is back."""
    cluster.kill_node(lost)
    eventually(
        "the lost node's instances run elsewhere",
        lambda: len([item for item in cluster.ready("shop").values() if item["node"] != lost]) == count,
        timeout_s=15.0,
    )
    cluster.agents[lost].start()
    cluster.wait_nodes(*cluster.agents)
    cluster.wait_ready("shop", count)
    eventually("no copy is left on the node that came back", lambda: is_single(cluster))


def scales_and_goes(cluster: Cluster) -> None:
    """Scale to 30 and to 3 instances, then remove: no process is left."""
    cluster.cli("scale", "shop/web=26")
    cluster.cli("scale", "shop/loop=4")
    cluster.wait_ready("shop", 30)
    cluster.cli("scale", "shop/web=1")
    cluster.cli("scale", "shop/loop=2")
    cluster.wait_ready("shop", 3)
    cluster.cli("remove", "shop")
    eventually("no worker is left", lambda: not cluster.workers())
    assert cluster.instances() == []


def is_single(cluster: Cluster) -> bool:
    """Return whether each instance has one living session leader, the one that is reported."""
    reported = {item["id"]: item["pid"] for item in cluster.ready("shop").values()}
    living = cluster.workers()
    return set(living) == set(reported) and all(
        [pid for pid in pids if _leads_session(pid)] == [reported[name]] for name, pids in living.items()
    )


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:  # it ended since it was listed
        return False
