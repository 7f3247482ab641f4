"""Faults against a strict worker on a real cluster, and what is counted: `python -m tests.e2e.strict_faults 200`.

One master and three agents as processes. The worker has four processes, of which each shows when it lived. A fault
hits the node that runs it; then the cluster has to come to rest with one copy, and no two may have lived at once.
"""

from __future__ import annotations

import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.cluster import Cluster, eventually
from tests.support.strict_worker import Life, lives, overlaps

TIMES = {"beat": "250ms", "ttl": "2s", "cooldown": "100ms"}
TTL_S = 2.0
NODES = ("a", "b", "c")
PROCESSES = 4
WORKER = Path(__file__).parents[1] / "support" / "strict_worker.py"


def boottime_s() -> float:
    """Return CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def strict_worker(shown: Path, **more: Any) -> dict[str, Any]:
    """Return the worker of a manifest that shows in `shown` when it lived."""
    arguments = ["-I", "-S", str(WORKER), str(shown), "tree"]
    control = {"execution": {"executable_path": sys.executable, "args": arguments}}
    unit = {"managed": {"metadata": {"name": "job"}, "control": control}}
    return {"id": "job", "type": "managed", "guarantee": "strict", "unit": unit, **more}


class Trial:
    """A cluster with one strict worker, and faults for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shown = cluster.folder / "lives"
        self.shown.mkdir()
        self.counts: Counter[str] = Counter()

    def begin(self) -> None:
        """Start everything and wait until the worker runs."""
        self.cluster.master("m1", nodes=TIMES)
        for name in NODES:
            self.cluster.agent(name)
        self.cluster.wait_nodes(*NODES)
        self.cluster.cli("deploy", str(self.cluster.manifest("strict", [strict_worker(self.shown)])), "--wait")
        self.rest()

    def lives(self) -> list[Life]:
        """Return all processes that ever lived."""
        return list(lives(self.shown))

    def rest(self) -> str:
        """Wait until all nodes are there again and one whole copy runs; return its node.

        Faults in a row are no subject here: who has lost its keeper is not to be stopped before it has another.
        """
        since = time.time() + 0.2

        def find() -> str:
            items, nodes = self.cluster.instances("strict"), self.cluster.nodes().values()
            states = {node["state"] if (node["last_seen"] or 0) > since else "not heard" for node in nodes}
            alive = [life for life in self.lives() if boottime_s() - life.last_s < 0.5]
            is_calm = states == {"ready"} and len(items) == 1 and items[0]["ready"] and len(alive) == PROCESSES
            return items[0]["node"] if is_calm else ""

        return str(eventually("one copy runs and all nodes are ready", find, timeout_s=120))

    def moved_from(self, node: str) -> None:
        """Wait until a copy runs on another node."""
        since_s = boottime_s()
        eventually(
            f"it runs elsewhere than on {node}",
            lambda: any(life.node != node and life.start_s > since_s for life in self.lives()),
        )

    def passed(self, seconds: float) -> None:
        """Wait for a part of the TTL."""
        end_s = boottime_s() + seconds
        eventually("time passes", lambda: boottime_s() > end_s, every_s=0.01)

    # -- faults: each takes the node that runs the worker -----------------------------------------

    def frozen(self, node: str) -> None:
        """Stop the agent until its worker runs elsewhere, then let it go on."""
        agent = self.cluster.agent_process(node)
        agent.send_signal(signal.SIGSTOP)
        self.moved_from(node)
        agent.send_signal(signal.SIGCONT)

    def stutter(self, node: str) -> None:
        """Stop the agent for about as long as its lease."""
        agent = self.cluster.agent_process(node)
        agent.send_signal(signal.SIGSTOP)
        self.passed(random.uniform(0.2, 1.3) * TTL_S)
        agent.send_signal(signal.SIGCONT)

    def crashed(self, node: str) -> None:
        """Kill the agent, and wait for the next."""
        agent = self.cluster.agent_process(node)
        agent.kill()
        eventually("its keeper has started the next", lambda: self.cluster.agent_process(node).pid != agent.pid)

    def unkept(self, node: str) -> None:
        """Kill the keeper, and start the node again once its agent has ended by itself."""
        agent = self.cluster.agent_process(node)
        self.cluster.agents[node].kill()
        eventually("its agent ends", lambda: not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE)
        self.cluster.agents[node].start()

    def leaderless(self, _: str) -> None:
        """Stop the only master for about as long as the leases it gave."""
        master = self.cluster.masters["m1"]
        master.signal(signal.SIGSTOP)
        self.passed(random.uniform(0.5, 1.5) * TTL_S)
        master.signal(signal.SIGCONT)

    def upgraded(self, node: str) -> None:
        """Have the agent replaced by the next one, as `reload` does."""
        self.cluster.agents[node].signal(signal.SIGHUP)

    def restarted(self, node: str) -> None:
        """Stop the node cleanly and start it again."""
        self.cluster.agents[node].stop()
        self.cluster.agents[node].start()

    def harm(self, fault: Callable[[str], None]) -> None:
        """Do one fault and wait until all is well again."""
        node = self.rest()
        fault(node)
        self.rest()
        self.counts[fault.__name__] += 1
        found = overlaps(self.lives())
        assert not found, f"after {fault.__name__} on {node}: {found}"

    @property
    def faults(self) -> list[Callable[[str], None]]:
        """Return all faults; the one that matters most comes more often."""
        return [
            self.frozen,
            self.stutter,
            self.frozen,
            self.crashed,
            self.unkept,
            self.frozen,
            self.leaderless,
            self.frozen,
            self.upgraded,
            self.restarted,
        ]

    def run(self, count: int) -> None:
        """Do so many faults, all kinds in turn."""
        for number in range(count):
            self.harm(self.faults[number % len(self.faults)])

    def lateness_ms(self) -> list[float]:
        """Return, sorted, how long after the end of a lease its keeper sent the kill, as the keepers tell."""
        text = "".join(program.log_file.read_text() for program in self.cluster.agents.values())
        return sorted(float(found) for found in re.findall(r"lease of this node ended ([0-9.]+) ms ago", text))


def main() -> None:
    """Run and print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        trial = Trial(cluster)
        trial.begin()
        trial.run(count)
        late_ms = trial.lateness_ms()
        starts = {life.run for life in trial.lives()}
        print(f"faults: {count} ({', '.join(f'{name} {number}' for name, number in sorted(trial.counts.items()))})")
        print(f"copies: {len(starts)}, processes: {len(trial.lives())}, overlaps: {len(overlaps(trial.lives()))}")
        if late_ms:
            p50, p99 = late_ms[len(late_ms) // 2], late_ms[min(len(late_ms) - 1, len(late_ms) * 99 // 100)]
            print(f"leases that ended: {len(late_ms)}; kill sent after p50 {p50:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    main()
