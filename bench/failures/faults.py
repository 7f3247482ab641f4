"""Each fault as a function: it happens, it is over, and what is returned is how long the fleet needed in between."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from bench.failures.figures import Figures
from bench.failures.site import MASTERS, NODES, Instances, Site

OUTAGE_S = 10.0


@dataclass(frozen=True, slots=True)
class Course:
    """How one fault went: seconds until all was well, until a write was accepted, and what node it had."""

    recovered_s: float
    accepted_s: float | None = None
    touched: str = ""
    """A node whose instances the fault was about, or the id of an instance; empty: nobody's."""


def worker_kill(site: Site, before: Instances) -> Course:
    """Kill one worker."""
    name, item = min(before.items())
    began = time.monotonic()
    os.kill(item["pid"], signal.SIGKILL)
    return Course(site.since(began, "it runs again", lambda: _is_other(site, name, item["pid"])), touched=name)


def agent_kill(site: Site, before: Instances) -> Course:
    """Kill an agent, and a worker while it is dead."""
    name, item = min(before.items())
    agent = site.cluster.agent_process(item["node"])
    began = time.monotonic()
    agent.kill()
    os.kill(item["pid"], signal.SIGKILL)
    return Course(site.since(began, "it runs again", lambda: _is_other(site, name, item["pid"])), touched=name)


def _is_other(site: Site, name: str, pid: int) -> bool:
    found = site.cluster.ready("shop").get(name)
    return found is not None and found["pid"] != pid


def agent_hang(site: Site, before: Instances) -> Course:
    """Freeze keeper and agent of a node until its instances run elsewhere."""
    node = site.fullest(before)
    processes = [psutil.Process(site.cluster.agents[node].pid), site.cluster.agent_process(node)]
    began = time.monotonic()
    for process in processes:
        process.suspend()
    try:
        return Course(site.since(began, "its work runs elsewhere", lambda: site.runs_without(node)), touched=node)
    finally:
        for process in processes:
            process.resume()


def node_kill(site: Site, before: Instances) -> Course:
    """Kill all processes of a node; it comes back when its instances run elsewhere."""
    node = site.fullest(before)
    began = time.monotonic()
    site.cluster.kill_node(node)
    took_s = site.since(began, "its work runs elsewhere", lambda: site.runs_without(node))
    site.cluster.agents[node].start()
    return Course(took_s, touched=node)


def leader_kill(site: Site, before: Instances) -> Course:
    """Kill the leader."""
    leader = site.cluster.masters[site.cluster.leader()]
    began = time.monotonic()
    leader.kill()
    app, accepted_s = site.accept(began)
    took_s = site.placed(began, app)
    leader.start()
    return Course(took_s, accepted_s)


def leader_stop(site: Site, before: Instances) -> Course:
    """Stop the leader as its service manager does."""
    leader = site.cluster.masters[site.cluster.leader()]
    began = time.monotonic()
    leader.signal(signal.SIGTERM)
    app, accepted_s = site.accept(began, but=leader.name)
    took_s = site.placed(began, app)
    leader.wait()
    leader.start()
    return Course(took_s, accepted_s)


def leader_hang(site: Site, before: Instances) -> Course:
    """Freeze the leader."""
    leader = site.cluster.masters[site.cluster.leader()]
    others = [name for name in MASTERS if name != leader.name]
    began = time.monotonic()
    leader.signal(signal.SIGSTOP)
    try:
        app, accepted_s = site.accept(began, but=leader.name)
        path = f"/v1/namespaces/default/apps/{app}/instances"
        took_s = site.since(
            began,
            "the deploy is placed",
            lambda: any(item["ready"] for item in site.cluster.call("GET", path, master=others[0])["items"]),
        )
        site.cluster.call("DELETE", f"/v1/namespaces/default/apps/{app}", master=others[0])
        return Course(took_s, accepted_s)
    finally:
        leader.signal(signal.SIGCONT)


def leader_and_node(site: Site, before: Instances) -> Course:
    """Kill the leader and a node at once."""
    node, leader = site.fullest(before), site.cluster.masters[site.cluster.leader()]
    began = time.monotonic()
    site.cluster.kill_node(node)
    leader.kill()
    took_s = site.since(began, "its work runs elsewhere", lambda: site.runs_without(node))
    leader.start()
    site.cluster.agents[node].start()
    return Course(took_s, touched=node)


def masters_kill(site: Site, before: Instances) -> Course:
    """Kill all masters and start them again."""
    for name in MASTERS:
        site.cluster.masters[name].kill()
    began = time.monotonic()
    for name in MASTERS:
        site.cluster.masters[name].start()
    app, _ = site.accept(began)
    return Course(site.placed(began, app))


def etcd_leader_kill(site: Site, before: Instances) -> Course:
    """Kill the leader of etcd."""
    member = site.etcd.leader()
    began = time.monotonic()
    member.kill()
    app, accepted_s = site.accept(began)
    site.placed(began, app)
    member.restart()
    return Course(accepted_s)


def etcd_quorum(site: Site, before: Instances) -> Course:
    """Kill two etcd members and let them come back later."""
    members = [site.etcd.leader(), site.etcd.followers()[0]]
    for member in members:
        member.kill()
    time.sleep(OUTAGE_S)
    began = time.monotonic()
    for member in members:
        member.spawn()
    app, _ = site.accept(began)
    took_s = site.placed(began, app)
    for member in members:
        member.wait_healthy()
    return Course(took_s)


FAULTS: Mapping[str, Callable[[Site, Instances], Course]] = {
    "worker-kill": worker_kill,
    "agent-kill": agent_kill,
    "agent-hang": agent_hang,
    "node-kill": node_kill,
    "leader-kill": leader_kill,
    "leader-stop": leader_stop,
    "leader-hang": leader_hang,
    "leader-and-node": leader_and_node,
    "masters-kill": masters_kill,
    "etcd-leader-kill": etcd_leader_kill,
    "etcd-quorum": etcd_quorum,
}


def measure(site: Site, name: str, repetitions: int) -> Figures:
    """Let one fault happen so many times; return its figures.

    Copies are counted when all nodes and instances are reported ready again: during the fault a node that cannot be
    heard goes on with its work, while others do it too.
    """
    figures: Figures = {"seconds": [], "accepted": [], "duplicates": 0, "lost_writes": 0, "restarts": 0, "writes": 0}
    for _ in range(repetitions):
        with site.writing():
            _once(site, name, figures)
    known, site.faults_found = site.faults_found, len(site.wrong_answers())
    figures["lost_writes"] = site.faults_found - known
    return figures


def _once(site: Site, name: str, figures: Figures) -> None:
    before, writes = site.settled(), site.acknowledged()
    course = FAULTS[name](site, before)
    figures["seconds"].append(round(course.recovered_s, 3))
    if course.accepted_s is not None:
        figures["accepted"].append(round(course.accepted_s, 3))
    site.cluster.wait_nodes(*NODES)
    site.cluster.wait_ready("shop", len(before))
    figures["duplicates"] += _doubled(site)
    after = site.settled()
    others = {key: item for key, item in before.items() if course.touched not in (key, item["node"])}
    figures["restarts"] += sum(after[key]["pid"] != item["pid"] for key, item in others.items())
    figures["writes"] += site.acknowledged() - writes


def _doubled(site: Site) -> int:
    """Return how many instances have two first processes when node and instances are reported ready again."""
    found = 0
    for pids in site.cluster.workers().values():
        found += sum(_leads(pid) for pid in pids) > 1
    return found


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
