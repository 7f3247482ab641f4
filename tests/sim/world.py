"""A whole cluster in one loop: store, network, masters, hosts with agents, everybody's chance from one seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsu_cluster.leader.service import LeaderTimes
from hsu_core.model.records import ClusterRecord
from hsu_core.store.base import Put
from hsu_core.store.local import Staged
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.sim.agent import SimAgent
from tests.sim.checks import Checks
from tests.sim.faults import Faults
from tests.sim.host import SimHost
from tests.sim.master import SimMaster
from tests.sim.net import Net
from tests.sim.options import LEADER_TTL_S, NODE_TIMES, Options, stream
from tests.sim.store import StoreFaults, Truth
from tests.sim.virtual import VirtualLoop
from tests.sim.workload import Workload


@dataclass(frozen=True, slots=True)
class Parts:
    """Other parts of the product than the real ones: the planted faults of `mutants`."""

    master: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    host: Callable[..., SimHost] = SimHost


REAL_PARTS = Parts()


class World:
    """The cluster of one run. `log` is everything that happened, as lines that the same seed makes again."""

    def __init__(self, options: Options, folder: Path, parts: Parts = REAL_PARTS) -> None:
        seed = options.seed
        self.options = options
        self.loop = VirtualLoop()
        self.log: list[str] = []
        self.checks = Checks(self)
        self.truth = Truth(self.loop, stream(seed, "store"))
        self.net = Net(self.loop, stream(seed, "network"), (0.0002, options.net_delay_s))
        times = LeaderTimes(NODE_TIMES, LEADER_TTL_S)
        self.masters: dict[str, SimMaster] = {}
        for number in range(options.masters):
            name = f"master-{number + 1}"
            faults = StoreFaults(
                slow=options.slow,
                lost_before=options.lost_before,
                lost_after=options.lost_after,
                refused=options.refused,
            )
            self.masters[name] = SimMaster(
                name, self.loop, self.truth, self.net, stream(seed, name), faults, times, **parts.master
            )
        urls = tuple(master.url for master in self.masters.values())
        self.nodes: dict[str, SimAgent] = {}
        for number in range(options.nodes):
            name = f"node-{number + 1}"
            host = parts.host(name, self.loop, stream(seed, f"host {name}"), self._on_host)
            self.nodes[name] = SimAgent(
                host, self.net, folder / name, urls, stream(seed, f"agent {name}"), **parts.agent
            )
            self.nodes[name].loses_unsynced = options.loses_unsynced
            self.nodes[name].reach = host.reach = self.checks.reachable
        self.impaired_until_s = 0.0
        """Until when something of the masters or between them and nodes was not as it should be."""
        self.faults = Faults(self)
        self.workload = Workload(self, stream(seed, "workload"))

    async def begin(self) -> None:
        """Write who the cluster is, start everybody and deploy."""
        await self.truth.txn([], [Put(keys.CLUSTER, encode(ClusterRecord(f"incarnation-{self.options.seed}")))])
        self.truth.on_commit.append(self._on_commit)
        for master in self.masters.values():
            master.on_start.append(lambda started: setattr(started.store, "reach", self.checks.reachable))
            master.start()
        for agent in self.nodes.values():
            agent.start()
        self.loop.later(3.0, self.workload.begin)

    def do(self, decision: Any) -> None:
        """Carry out one decision."""
        self.note(f"== {decision.kind}{decision.arguments}")
        self.faults.impair(decision)
        doer = self.faults if hasattr(self.faults, decision.kind) else self.workload
        getattr(doer, decision.kind)(*decision.arguments)

    def note(self, text: str) -> None:
        """Write a line into the log."""
        self.log.append(f"{self.loop.time():10.4f} {text}")

    def _on_commit(self, writer: str, staged: Staged) -> None:
        for commit in staged.stage.commits:
            for event in commit.events:
                key = event.entry.key
                if key.startswith(keys.EVENTS):
                    key = key.rpartition("-")[0]
                what = "-" if event.is_delete else f"{zlib.crc32(event.entry.value):08x}"
                self.note(f"{writer} commits {commit.revision} {key} {what}")
            self.checks.on_commit(writer, commit)

    def _on_host(self, kind: str, host: str, facts: dict[str, Any]) -> None:
        found = facts["process"]
        more = " ".join(f"{name}={value}" for name, value in facts.items() if name not in ("process", "run"))
        self.note(f"{host} {kind} {found.instance.short} pid {found.pid} epoch {found.epoch} {found.version} {more}")
        self.checks.on_host(kind, host, facts)
