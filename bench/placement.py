"""Placements per second over a large fleet: grouped, one by one, and with spread.

    python bench/placement.py [--nodes 5000] [--groups 10] [--group-size 5000] [--singles 5000]

Prints one line per figure with the number to reach. Each figure is the best of three runs on a fresh
table, in CPU time of this process, as other work on the host would otherwise be measured with it. The
workers reserve cpu and memory, have a dynamic port and a condition that 80 % of the nodes match. The
last lines show a nearly full fleet and the cost of building the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from hsu_cluster.planning.node_table import NodeTable
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.schedule import PlacementRequest, place
from hsu_core.model.assignment import AppRecord, Assignment, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import Capacity, NodeRecord, NodeState
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.model.spec import (
    AppSpec,
    Constraint,
    Execution,
    PlacementSpec,
    PortSpec,
    Resources,
    WorkerSpec,
)
from hsu_core.model.view import ClusterView

MEBIBYTE = 2**20
ZONES = ("a", "b", "c", "d", "e")


def fleet(count: int) -> dict[str, NodeRecord]:
    """Return `count` nodes of 16 cores and 64 GiB in five zones and a rack per 40 nodes, one in five without ssd."""
    records = {}
    for number in range(count):
        name = f"node-{number:05d}"
        labels = (
            ("disk", "hdd" if number % 5 == 4 else "ssd"),
            ("rack", f"r{number // 40}"),
            ("zone", ZONES[number % 7 % 5]),
        )
        records[name] = NodeRecord(
            name,
            NodeState.READY,
            labels=labels,
            capacity=Capacity(16_000, 65_536 * MEBIBYTE),
            os="linux",
            arch="x86_64",
        )
    return records


def worker(name: str, *, spread: tuple[str, ...] = (), memory_mib: int = 256, replicas: int = 1) -> WorkerSpec:
    """Return a worker with reservations, a dynamic port and a condition."""
    return WorkerSpec(
        name,
        Execution("./worker"),
        replicas=replicas,
        ports=(PortSpec("http"),),
        resources=Resources(100, memory_mib * MEBIBYTE),
        placement=PlacementSpec(constraints=(Constraint("disk", "==", "ssd"),), spread=spread),
    )


def requests(groups: int, size: int, *, spread: tuple[str, ...] = (), memory_mib: int = 256) -> list[PlacementRequest]:
    """Return `groups` different workers of `size` instances each."""
    made = []
    for group in range(groups):
        name = f"w{group}"
        instances = tuple(InstanceId("default", "bench", name, slot) for slot in range(size))
        made.append(PlacementRequest(worker(name, spread=spread, memory_mib=memory_mib + group % 7), instances))
    return made


def rate(make_table: Callable[[], NodeTable], wanted: Sequence[PlacementRequest]) -> float:
    """Return placements per second of CPU time, the best of three."""
    best = 0.0
    for _ in range(3):
        table = make_table()
        started = time.process_time()
        result = place(table, wanted)
        elapsed = time.process_time() - started
        assert not result.unplaced, next(iter(result.unplaced.items()))
        best = max(best, len(result.placed) / elapsed)
    return best


def line(name: str, value: float, reach: float | None = None) -> None:
    """Print one figure."""
    goal = f"   reach {reach:>8,.0f}   ratio {value / reach:5.1f}" if reach else ""
    print(f"{name:<44}{value:>12,.0f} /s{goal}")


def main() -> None:
    """Run all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--group-size", type=int, default=5000)
    parser.add_argument("--singles", type=int, default=5000)
    options = parser.parse_args()
    nodes = fleet(options.nodes)

    def empty() -> NodeTable:
        return NodeTable((record, None) for record in nodes.values())

    def nearly_full() -> NodeTable:
        table = empty()
        for number, name in enumerate(sorted(nodes)):
            used = 65_536 - (400 if number % 50 == 0 else 100)
            table.reserve(InstanceId("default", "filler", "f", number), name, Resources(0, used * MEBIBYTE), ())
        return table

    print(f"{options.nodes} nodes")
    groups, size, singles = options.groups, options.group_size, options.singles
    line(f"grouped ({groups} x {size})", rate(empty, requests(groups, size)), 50_000)
    line("grouped, spread over zone", rate(empty, requests(groups, size, spread=("zone",))), 50_000)
    line("grouped, spread over zone, rack", rate(empty, requests(groups, size, spread=("zone", "rack"))), 50_000)
    line("groups of 10", rate(empty, requests(singles // 10, 10)))
    line("one by one", rate(empty, requests(singles, 1)), 5_000)
    line("one by one, spread over zone", rate(empty, requests(singles, 1, spread=("zone",))), 5_000)
    line("one by one, spread over zone, rack", rate(empty, requests(singles, 1, spread=("zone", "rack"))), 5_000)
    line("one by one, 2 % of the nodes have room", rate(nearly_full, requests(min(50, singles), 1)))
    passes(nodes)


def passes(nodes: dict[str, NodeRecord]) -> None:
    """Print what whole planner passes cost with ten instances per node."""
    app_count = 50
    per_app = len(nodes) * 10 // app_count
    names = sorted(nodes)
    apps, revisions, assignments = {}, {}, {}
    for number in range(app_count):
        app = AppId("default", f"app{number}")
        spec = AppSpec("default", app.app, (worker("web", replicas=per_app),))
        revisions[app, 1] = Revision(app, 1, "content", spec, (("web", "hash"),))
        apps[app] = AppRecord(app, 1)
        for slot in range(per_app):
            instance = InstanceId("default", app.app, "web", slot)
            node = names[(number * per_app + slot) % len(names)]
            assignments[instance] = Assignment(instance, node, 7, 1, "hash", ports=(("http", 20_000 + number),))
    rollouts = {app: Rollout(app, 1, phase=RolloutPhase.HEALTHY, ended_at=0.0) for app in apps}
    view = ClusterView(10, apps, revisions, assignments, {}, nodes, {}, rollouts=rollouts)
    for name, run in (
        ("table of all nodes and assignments", lambda: NodeTable.from_view(view)),
        ("reconcile of all apps, nothing to do", lambda: reconcile(view, 0.0)),
        ("reconcile of one app, nothing to do", lambda: reconcile(view, 0.0, apps=[AppId("default", "app0")])),
    ):
        started = time.process_time()
        run()
        print(f"{name} ({len(assignments):,} instances): {(time.process_time() - started) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
