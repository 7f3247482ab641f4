"""The fleet that faults happen to: etcd, masters and agents as processes of this machine, with clients that write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.clients import Api, History, acknowledged_since, clients, puts_of
from tests.support.cluster import Cluster, eventually, sleeper
from tests.support.etcd import EtcdCluster, default_etcd, free_ports
from tests.support.history import Outcome, counted
from tests.support.observer import changes
from tests.support.walk import is_single

MASTERS = ("master-1", "master-2", "master-3")
NODES = ("node-1", "node-2", "node-3")
WEB = 9
PATIENCE_S = 90.0
POLL_S = 0.05
"""Between two looks at the API: looking more often takes the processors from what is measured."""

Instances = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Site:
    """The fleet, and all that its clients were told."""

    etcd: EtcdCluster
    cluster: Cluster
    history: History = field(default_factory=History)
    deployed: int = 0
    faults_found: int = 0
    """In the history, so far."""

    def api(self) -> Api:
        """Return how clients reach the masters: under the addresses of all, dead ones too."""
        return Api(lambda: [self.cluster.url(name) for name in MASTERS], self.cluster.token)

    def since(self, began: float, what: str, look: Callable[[], Any]) -> float:
        """Return how many seconds after `began` (monotonic clock) `look` was true for the first time."""
        eventually(what, look, timeout_s=PATIENCE_S, every_s=POLL_S)
        return time.monotonic() - began

    def settled(self) -> Instances:
        """Wait until all nodes are ready and every instance runs once."""
        self.cluster.wait_nodes(*NODES)
        ready = self.cluster.wait_ready("shop", WEB, timeout_s=PATIENCE_S)
        eventually("every instance runs once", lambda: is_single(self.cluster), timeout_s=PATIENCE_S)
        return ready

    def fullest(self, ready: Instances) -> str:
        """Return the node with most instances."""
        nodes = [item["node"] for item in ready.values()]
        return max(NODES, key=nodes.count)

    def runs_without(self, node: str) -> bool:
        """Return whether every instance runs on another node."""
        return sum(item["node"] != node for item in self.cluster.ready("shop").values()) == WEB

    def accept(self, began: float, *, but: str = "") -> tuple[str, float]:
        """Deploy one more app at masters in turn until one accepts; return its name, and the seconds since `began`."""
        self.deployed += 1
        app = f"extra-{self.deployed}"
        body = {"app": app, "workers": [sleeper("one", 1)]}
        key = f"{self.cluster.marker}-{app}"

        def ask() -> bool:
            for name in MASTERS:
                if name != but and not self.cluster.masters[name].has_ended():
                    self.api().ask(self.cluster.url(name), "PUT", f"/v1/namespaces/default/apps/{app}", body, key=key)
                    return True
            return False

        return app, self.since(began, "a deploy is accepted", ask)

    def placed(self, began: float, app: str) -> float:
        """Return how many seconds after `began` the app's one instance was ready; removes the app again."""
        took_s = self.since(began, "the deploy is placed", lambda: len(self.cluster.ready(app)) == 1)
        self.cluster.call("DELETE", f"/v1/namespaces/default/apps/{app}")
        return took_s

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let clients write until the context ends."""
        with clients(self.api(), self.history):
            acknowledged_since(self.history)
            yield

    def wrong_answers(self) -> list[str]:
        """Return what of the clients' history cannot be true by the store's own log; while nobody writes."""
        log = changes(self.etcd.endpoints, "/hsu/")
        return self.history.faults(puts_of([(each.key, each.value, each.revision) for each in log]))

    def acknowledged(self) -> int:
        """Return how many writes were acknowledged."""
        return counted(self.history.writes)[Outcome.ACKNOWLEDGED]


@contextmanager
def fleet(folder: Path) -> Iterator[Site]:
    """Yield a fleet with the shop on it."""
    with EtcdCluster(default_etcd().path, size=3) as etcd, Cluster(folder) as cluster:
        for name, port in zip(MASTERS, free_ports(len(MASTERS)), strict=True):
            # The time in which nothing is placed on a node that was lost would have the next repetition wait.
            settings = {"nodes": {"cooldown": "1s"}, "listen": f"127.0.0.1:{port}"}
            cluster.master(name, {"etcd": {"endpoints": list(etcd.endpoints)}}, **settings)
        for name in NODES:
            cluster.agent(name)
        site = Site(etcd, cluster)
        cluster.wait_nodes(*NODES)
        cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", WEB)])), "--timeout", "90s")
        site.settled()
        yield site
