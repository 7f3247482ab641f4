"""What the tests of faults share: the app that runs, the clients that write, the epilogue of every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import History, acknowledged_since, clients, puts_of
from tests.support.cluster import eventually, sleeper
from tests.support.containers import AGENTS, Containers
from tests.support.observer import changes

Instances = dict[str, dict[str, Any]]

WEB = 6


def manifest() -> dict[str, Any]:
    """Return the app that runs during the faults, on every node.

    It has no `strict` worker: to fence one an agent must be allowed to make cgroups, and these containers have no
    rights at all. Those are in tests/e2e.
    """
    return {"app": "shop", "workers": [sleeper("web", WEB, placement={"spread": ["zone"]})]}


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
            if len(ready) != WEB or len(self.cluster.instances()) != WEB:
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
