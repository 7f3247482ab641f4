"""Leaders that stop, die, hang and come back, on real masters and etcd members: how fast, and who may write."""

from __future__ import annotations

import base64
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cluster import Cluster, eventually, sleeper
from tests.support.etcd import EtcdCluster, default_etcd

MASTERS = ("master-1", "master-2", "master-3")
NODES = ("node-a", "node-b")
TTL_S = 5.0
"""The default of `leader_ttl`."""

SLACK_S = 2.0
"""Added to each bound: the machine is shared. The figures without load are in docs/high-availability.md."""


class Etcd:
    """Looks into the store without our code: one member's JSON gateway."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def range(self, first: str, end: str = "") -> list[dict[str, Any]]:
        """Return the entries of a key, or of keys from `first` up to `end`."""
        body = {"key": _base64(first), **({"range_end": _base64(end)} if end else {})}
        request = urllib.request.Request(f"{self._endpoint}/v3/kv/range", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read()).get("kvs", [])
        return found

    def term(self) -> int:
        """Return the present term, 0 while nobody leads."""
        return next((int(entry["create_revision"]) for entry in self.range("/hsu/leader")), 0)

    def new_term_s(self, than: int, within_s: float) -> float:
        """Return after how many seconds there is a leader of a term above `than`."""
        started_s = time.monotonic()
        eventually(f"a term above {than}", lambda: self.term() > than, timeout_s=within_s, every_s=0.003)
        return time.monotonic() - started_s


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster(default_etcd().path, size=3) as etcd:
        yield etcd


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdCluster) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        for name in MASTERS:
            _start(cluster, etcd, name)
        for name in NODES:
            cluster.agent(name)
        cluster.wait_nodes(*NODES)
        yield cluster


def _start(cluster: Cluster, etcd: EtcdCluster, name: str) -> None:
    cluster.master(name, {"etcd": {"endpoints": list(etcd.endpoints)}})


def _is_watched(cluster: Cluster, leader: str) -> bool:
    """Return whether every other master holds a connection to the leader's port."""
    connections = [
        each
        for name, program in cluster.masters.items()
        if name != leader and not program.has_ended()
        for each in _remote_ports(program.pid)
    ]
    port = int(cluster.url(leader).rsplit(":", 1)[1])
    return connections.count(port) >= len([p for p in cluster.masters.values() if not p.has_ended()]) - 1


def _remote_ports(pid: int) -> list[int]:
    return [each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr]


@pytest.mark.etcd
@pytest.mark.timeout(300)
def test_a_stopped_and_a_killed_leader_are_replaced_at_once_and_nothing_restarts(
    cluster: Cluster, etcd: EtcdCluster
) -> None:
    look = Etcd(etcd.endpoints[0])
    cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", 4)])), "--timeout", "60s")
    before = cluster.workers()

    leader, term = cluster.leader(), look.term()
    cluster.masters[leader].signal(signal.SIGTERM)
    assert look.new_term_s(term, 30.0) < 0.2 + SLACK_S
    assert cluster.masters[leader].wait() == 0
    _start(cluster, etcd, leader)

    leader, term = cluster.leader(), look.term()
    eventually("the leader's port is watched", lambda: _is_watched(cluster, leader))
    cluster.masters[leader].signal(signal.SIGKILL)
    assert look.new_term_s(term, 30.0) < 1.0 + SLACK_S < TTL_S
    cluster.masters[leader].wait()
    assert look.range("/hsu/deposed-leader"), "the next leader was told of the force"
    _accepts_a_deploy_at_once(cluster)
    assert cluster.leader() != leader

    # One master is left, killed and started again: it deposes its own earlier process, and need not wait for the TTL.
    _start(cluster, etcd, leader)
    last = cluster.leader()
    for name in set(MASTERS) - {last}:
        cluster.masters[name].stop()
    term = look.term()
    cluster.masters[last].kill()
    started_s = time.monotonic()
    _start(cluster, etcd, last)
    look.new_term_s(term, 30.0)
    assert time.monotonic() - started_s < TTL_S + SLACK_S
    cluster.wait_nodes(*NODES)
    eventually("the mark of the force is gone", lambda: not look.range("/hsu/deposed-leader"))
    assert cluster.workers() == before | {k: v for k, v in cluster.workers().items() if k.startswith("extra/")}


def _accepts_a_deploy_at_once(cluster: Cluster) -> None:
    extra = cluster.manifest("extra", [sleeper("one", 1)])
    cluster.cli("deploy", str(extra), "--timeout", "30s")


@pytest.mark.etcd
@pytest.mark.timeout(300)
def test_a_frozen_leader_is_replaced_after_its_lease_and_commits_nothing_when_it_wakes(
    cluster: Cluster, etcd: EtcdCluster
) -> None:
    look = Etcd(etcd.endpoints[0])
    leader, term = cluster.leader(), look.term()
    others = [name for name in MASTERS if name != leader]
    program = cluster.masters[leader]
    program.signal(signal.SIGSTOP)
    # Nobody leads: another master takes the deploy all the same, and it is placed as soon as somebody leads.
    cluster.call("PUT", "/v1/namespaces/default/apps/shop", _manifest(), master=others[0])
    assert look.term() in (0, term)
    assert look.new_term_s(term, 30.0) < TTL_S + 1.0 + SLACK_S
    assert not look.range("/hsu/deposed-leader"), "its lease ended: no force was used"
    eventually("the deploy is placed", lambda: len(_ready(cluster, others[0])) == 2)
    new = look.term()

    since = int(look.range("/hsu/leader")[0]["mod_revision"])
    program.signal(signal.SIGCONT)
    eventually("it has noticed", lambda: "no longer leading" in program.log_file.read_text())
    cluster.call("POST", "/v1/namespaces/default/apps/shop/workers/web/scale", {"replicas": 3}, master=leader)
    eventually("the new leader goes on", lambda: len(_ready(cluster, others[0])) == 3)
    assert look.term() == new
    assert _announced(look, since) == [], "nobody was elected since"


def _manifest() -> dict[str, Any]:
    execution = {"executable_path": "sleep", "args": ["3600"]}
    unit = {"managed": {"metadata": {"name": "web"}, "control": {"execution": execution}}}
    return {"app": "shop", "workers": [{"id": "web", "type": "managed", "replicas": 2, "unit": unit}]}


def _ready(cluster: Cluster, master: str) -> list[Any]:
    items = cluster.call("GET", "/v1/namespaces/default/apps/shop/instances", master=master)["items"]
    return [item for item in items if item["ready"]]


def _announced(look: Etcd, since: int) -> list[str]:
    """Return the elections written after a revision (a leader writes one when it begins)."""
    events = [entry for entry in look.range("/hsu/events/", "/hsu/events0") if int(entry["mod_revision"]) > since]
    texts = [base64.b64decode(entry["value"]).decode("latin-1") for entry in events]
    return [text for text in texts if "LeaderElected" in text][1:]


@pytest.mark.etcd
@pytest.mark.timeout(300)
def test_a_leader_and_a_worker_host_that_are_lost_together_are_made_up_for_in_time(
    cluster: Cluster, etcd: EtcdCluster
) -> None:
    look = Etcd(etcd.endpoints[0])
    cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", 4)])), "--timeout", "60s")
    before = cluster.wait_ready("shop", 4)
    leader, term = cluster.leader(), look.term()
    victim = "node-a"
    lost = {name: item["pid"] for name, item in before.items() if item["node"] == victim}
    assert lost
    agent = cluster.agent_process(victim)
    # A host that is gone answers nothing: its master is frozen (nothing is refused), its agent and workers are dead.
    cluster.masters[leader].signal(signal.SIGSTOP)
    cluster.agents[victim].kill()
    agent.kill()
    for pid in lost.values():
        psutil.Process(pid).kill()
    started_s = time.monotonic()

    def is_made_up_for() -> bool:
        workers = cluster.workers()
        return all(workers.get(name, [pid]) != [pid] for name, pid in lost.items())

    eventually("what was lost runs elsewhere", is_made_up_for)
    assert time.monotonic() - started_s < 15.0 + 2 * SLACK_S
    assert look.term() > term
    kept = {name: [item["pid"]] for name, item in before.items() if name not in lost}
    assert {name: cluster.workers()[name] for name in kept} == kept
