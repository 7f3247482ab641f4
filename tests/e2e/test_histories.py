"""What clients were told while masters and etcd members died is true, and a strict worker never ran twice meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.strict_faults import strict_worker
from tests.support.clients import Api, acknowledged_since, clients, puts_of
from tests.support.cluster import Cluster, eventually
from tests.support.etcd import EtcdCluster, default_etcd, free_ports
from tests.support.observer import Change, changes
from tests.support.strict_worker import lives, overlaps

MASTERS = ("master-1", "master-2", "master-3")


@dataclass(frozen=True, slots=True)
class Site:
    """Three etcd members, three masters, and two agents of which one runs a strict worker."""

    etcd: EtcdCluster
    cluster: Cluster
    shown: Path

    def api(self) -> Api:
        """Return how clients reach the masters that were started, dead ones too: a client does not know."""
        return Api(lambda: [self.cluster.url(name) for name in MASTERS], self.cluster.token)

    def log(self) -> list[Change]:
        """Return all that was ever written, read by a client of etcd that is not ours."""
        return changes(self.etcd.endpoints, "/hsu/")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with EtcdCluster(default_etcd().path, size=3) as etcd, Cluster(tmp_path) as cluster:
        for name, port in zip(MASTERS, free_ports(len(MASTERS)), strict=True):
            cluster.master(name, {"etcd": {"endpoints": list(etcd.endpoints)}}, listen=f"127.0.0.1:{port}")
        for name in ("node-a", "node-b"):
            cluster.agent(name)
        cluster.wait_nodes("node-a", "node-b")
        shown = tmp_path / "lives"
        shown.mkdir()
        cluster.cli("deploy", str(cluster.manifest("strict", [strict_worker(shown)])), "--timeout", "60s")
        yield Site(etcd, cluster, shown)


def leader_is_killed(site: Site) -> None:
    leader = site.cluster.leader()
    site.cluster.masters[leader].kill()
    eventually("another master leads", lambda: site.cluster.leader() != leader)
    site.cluster.masters[leader].start()


def leader_hangs(site: Site) -> None:
    leader = site.cluster.leader()
    site.cluster.masters[leader].signal(signal.SIGSTOP)
    others = [name for name in MASTERS if name != leader]
    eventually(
        "another master leads",
        lambda: (site.cluster.call("GET", "/v1/cluster", master=others[0])["leader"] or {}).get("name") in others,
    )
    site.cluster.masters[leader].signal(signal.SIGCONT)


def etcd_leader_is_killed(site: Site) -> None:
    member = site.etcd.leader()
    member.kill()
    site.etcd.leader()
    member.restart()


def quorum_is_lost(site: Site) -> None:
    members = [site.etcd.leader(), site.etcd.followers()[0]]
    for member in members:
        member.kill()
    for member in members:
        member.spawn()
    for member in members:
        member.wait_healthy()


@pytest.mark.etcd
@pytest.mark.slow
def test_what_clients_were_told_during_faults_is_true(site: Site) -> None:
    with clients(site.api()) as history:
        acknowledged_since(history)
        for fault in (leader_is_killed, leader_hangs, etcd_leader_is_killed, quorum_is_lost):
            fault(site)
            acknowledged_since(history)
        site.cluster.wait_ready("strict", 1)
    log = site.log()
    assert history.faults(puts_of([(each.key, each.value, each.revision) for each in log])) == []
    terms = [each.create_revision for each in log if each.key == "/hsu/leader" and not each.is_delete]
    assert terms == sorted(terms)
    assert len(set(terms)) >= 3, "the first leader, and one after each that was killed or hung"
    assert overlaps(list(lives(site.shown))) == []
