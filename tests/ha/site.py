"""What the tests of faults share: the app that runs, the clients that write, the epilogue of every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import History, acknowledged_since, clients, puts_of
from tests.support.cluster import eventually, shell
from tests.support.containers import AGENTS, Containers
from tests.support.history import Sign, faults_of_intervals
from tests.support.observer import changes

Instances = dict[str, dict[str, Any]]

SIGNS = """
read -r at _ </proc/uptime; me="$HOSTNAME.$$.$at"
while :; do echo "$HSU_INSTANCE $me $at" >>/evidence/signs; sleep 0.1; read -r at _ </proc/uptime; done
"""
"""A strict worker: it writes when it lives, by the boot-time clock that all containers share."""

WEB, STRICT = 6, 3
RUNNING = WEB + STRICT


def manifest() -> dict[str, Any]:
    """Return the app that runs during the faults: one worker that is always there, one that is never there twice."""
    spread = {"placement": {"spread": ["zone"]}}
    web = shell("web", "exec sleep 3600", WEB, **spread)
    strict = shell("strict", f"HOSTNAME=$(cat /etc/hostname); {SIGNS}", STRICT, guarantee="strict", **spread)
    return {"app": "shop", "workers": [web, strict]}


@dataclass(slots=True)
class Site:
    """A cluster in containers with the shop on it, and all that its clients were ever told."""

    cluster: Containers
    history: History = field(default_factory=History)

    def deploy(self) -> None:
        """Deploy the shop and wait until it runs on every node."""
        self.cluster.call("PUT", "/v1/namespaces/default/apps/shop", manifest())
        self.settled()

    def settled(self) -> Instances:
        """Wait until nothing is left to do: all nodes ready, every instance one process, where it is reported."""
        self.cluster.wait_nodes()

        def find() -> Instances | None:
            ready = self.cluster.ready()
            if len(ready) != RUNNING or len(self.cluster.instances()) != RUNNING:
                return None
            reported = {name: [(item["node"], item["pid"])] for name, item in ready.items()}
            return ready if self.cluster.living() == reported else None

        settled: Instances = eventually("every instance runs once, where it is reported", find, every_s=0.2)
        return settled

    @contextmanager
    def faults(self, is_untouched: Callable[[dict[str, Any]], bool]) -> Iterator[Instances]:
        """Run clients around a fault, then check what must hold after every fault.

        Yields the instances as they were; those that `is_untouched` have the same process and place at the end.
        """
        before = self.settled()
        with clients(self.cluster.api(), self.history):
            acknowledged_since(self.history)
            yield before
            acknowledged_since(self.history)
            after = self.settled()
        moved = {name: (item["node"], item["pid"]) for name, item in before.items() if is_untouched(item)}
        assert {name: (after[name]["node"], after[name]["pid"]) for name in moved} == moved, "nobody else was touched"
        log = changes(self.cluster.etcd_urls(), "/hsu/")
        assert self.history.faults(puts_of([(each.key, each.value, each.revision) for each in log])) == []
        terms = [each.create_revision for each in log if each.key == "/hsu/leader" and not each.is_delete]
        assert terms == sorted(terms)
        assert faults_of_intervals(self.signs()) == []

    def signs(self) -> list[Sign]:
        """Return what the strict workers wrote. A line may be cut where its host died."""
        lines = [line.split() for line in (self.cluster.evidence / "signs").read_text().splitlines()]
        return [Sign(parts[0], parts[1], float(parts[2])) for parts in lines if len(parts) == 3]

    def runs_without(self, node: str, *, within_s: float) -> None:
        """Wait until all of `web` runs on other nodes."""
        eventually(
            f"web runs without {node}",
            lambda: sum("/web." in name and item["node"] != node for name, item in self.cluster.ready().items()) == WEB,
            timeout_s=within_s,
        )

    def fullest(self) -> str:
        """Return the node that runs most of `web`: after losses instances crowd on some nodes."""
        counts = dict.fromkeys(AGENTS, 0)
        for name, item in self.cluster.ready().items():
            counts[item["node"]] += "/web." in name
        return max(counts, key=lambda agent: counts[agent])
