"""Documents become the text of the golden files; server text cannot reach a terminal unescaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from rich.text import Text

from hsu_cluster.cli.render import table
from hsu_cluster.cli.render_details import (
    app_details,
    cluster_status,
    instance_details,
    node_details,
    plan_lines,
    worker_details,
)
from hsu_cluster.cli.render_doctor import limit_report
from hsu_cluster.cli.render_drain import drain_plan_lines, rebalance_lines, rebalance_plan_lines
from hsu_cluster.cli.render_progress import INSTANCES_SHOWN, progress_line, progress_tree
from tests.cli.documents import (
    DRAIN,
    DRAIN_PLAN,
    NOW,
    REBALANCE,
    app,
    cluster,
    endpoint,
    event,
    instance,
    node,
    revision,
    route,
    worker,
)

Golden = Callable[[str, str], None]

EXIT = {"code": None, "signal": "SIGKILL", "at": NOW - 2, "reason": ""}

TROUBLED = [
    instance("shop/web.0"),
    instance("shop/web.1", ready=False, reason="readiness probe failed 3 times: connection refused", restarts=2),
    instance("shop/db.0", node=None, state="registered", ready=False, pid=None, ports={}, started_at=None),
    instance("shop/db.1", state="restarting", ready=False, pid=None, ports={}, started_at=None, last_exit=EXIT),
    instance("shop/db.2", state="stopped", ready=False, pid=None, ports={}, started_at=None, reason="on request"),
    instance("shop/db.3", state="unknown", node="node-b", ready=False, reason="node-b is lost"),
]

DEGRADED = app(
    phase="Degraded",
    reason="CrashLooping",
    text="shop/db.1 waits for its next start, 4 restarts (last exit: SIGKILL)",
    workers=[
        worker(ready=1, phase="Progressing", reason="Starting"),
        worker(
            "shop/db", replicas=4, ready=0, updated=3, stopped=1, restarts=4, phase="Degraded", reason="CrashLooping"
        ),
    ],
)


def plain(lines: Iterable[Text]) -> str:
    """Return the lines as a pipe sees them."""
    return "\n".join(line.plain for line in lines)


LISTS = {
    "apps": [app(), DEGRADED, app("cams", namespace="line-1", phase="Stopped", reason="StoppedOnRequest")],
    "workers": DEGRADED["workers"],
    "instances": TROUBLED,
    "endpoints": [
        endpoint(),
        endpoint(slot=1, host="fd00::2", ports={"admin": 21001, "http": 20001}, group="canary", weight=85),
    ],
    "routes": [
        route(),
        route(name="admin", provider="none", members=[], weights={}, changed_at=None),
        route(name="beta", weights={"stable": 90, "canary": 10}, joining=["shop/web.1"], leaving=["shop/web.2"]),
        route(name="lb", trouble="cannot reach HAProxy at /run/lb.sock: No such file or directory [traffic.provider]"),
    ],
    "nodes": [
        node(),
        node("node-b", state="lost", last_seen=NOW - 61, labels={}, reason="silent for 8 s"),
        node("node-c", draining=True, cordoned=True, last_seen=None, drain=DRAIN),
        node("node-d", cordoned=True, labels={"zone": "b", "gpu": "yes"}),
    ],
    "events": [
        event(1, code="InstanceRestarted", subject="shop/web.1", node="node-a", actor="", text="exit code 1"),
        event(5),
        event(90, code="NodeReady", subject="node-a", node="node-a", app="", actor="", text="node-a has joined"),
    ],
    "revisions": [
        revision(1),
        revision(2, state="unproven"),
        revision(3, state="stable"),
        revision(4, state="failed", is_current=True),
    ],
}


@pytest.mark.parametrize("kind", sorted(LISTS))
def test_lists_are_tables(kind: str, golden: Golden) -> None:
    golden(f"get-{kind}", plain(table(kind, LISTS[kind], NOW)))


@pytest.mark.parametrize("kind", sorted(LISTS))
def test_an_empty_list_is_one_sentence(kind: str) -> None:
    assert plain(table(kind, [], NOW)) == f"no {kind}"


def test_described_objects(golden: Golden) -> None:
    events = LISTS["events"]
    golden("describe-app", plain(app_details(DEGRADED, TROUBLED, events, NOW)))
    golden("describe-worker", plain(worker_details(DEGRADED["workers"][1], TROUBLED[2:], events[:1], NOW)))
    restarted = instance(restarts=1, last_exit={"code": 3, "signal": None, "at": NOW - 100, "reason": "liveness"})
    golden("describe-instance", plain(instance_details(restarted, [], NOW)))
    golden("describe-node", plain(node_details(node(), TROUBLED[:2], events[:1], NOW)))


SWAP = {"limit": "memory.max_swap", "how": "unsupported", "reason": "this host has no memory controller"}
HELD = {"limit": "cpu.max_cores", "how": "cgroup-v2", "reason": ""}
SAMPLED = {"limit": "memory.max_rss", "how": "sampling", "reason": "/sys/fs/cgroup is not delegated to this user"}
SHORT = [{**SWAP, "nodes": [f"node-{number}" for number in range(8)]}, {**SAMPLED, "nodes": ["node-b"]}]


def test_limits_that_are_not_held_are_told(golden: Golden) -> None:
    golden("describe-worker-limits", plain(worker_details(worker(unenforced=SHORT), [], [], NOW)))
    golden("describe-node-drain", plain(node_details(node(draining=True, drain=DRAIN), [], [], NOW)))
    golden("drain-plan", plain(drain_plan_lines(DRAIN_PLAN)))
    golden("rebalance", plain(rebalance_lines(REBALANCE)))
    loads: Any = [{"node": "node-a", "before": 8, "after": 5}, {"node": "node-c", "before": 0, "after": 3}]
    plan: Any = {"moves": REBALANCE["moves"], "nodes": loads, "revision": 50}
    golden("rebalance-plan", plain(rebalance_plan_lines(plan)))
    golden("describe-node-limits", plain(node_details(node(limits=[SWAP, HELD, SAMPLED]), [], [], NOW)))
    nodes = [node(limits=[SWAP, HELD, SAMPLED]), node("node-b", limits=[HELD]), node("node-c")]
    golden("doctor", plain(limit_report(nodes, [app(), app("cams", workers=[worker("cams/web", unenforced=SHORT)])])))
    golden("doctor-good", plain(limit_report([node(limits=[HELD])], [app()])))


def test_cluster_status(golden: Golden) -> None:
    golden("status", plain(cluster_status(cluster(), [node(), node("node-b", state="lost")], [app(), DEGRADED], NOW)))


def test_cluster_status_without_a_leader_and_without_nodes(golden: Golden) -> None:
    store = {"backend": "sqlite", "version": "3.40.1", "warnings": ["etcd 3.4 gets no more fixes"]}
    lonely = cluster(leader=None, term=0, store=store)
    golden("status-no-leader", plain(cluster_status(lonely, [], [], NOW)))


PLAN = {
    "namespace": "default",
    "app": "shop",
    "app_revision": 3,
    "unchanged": False,
    "changes": [
        {
            **{"worker": "web", "action": "restart", "text": "2 to restart", "fields": ["execution.args[0]"]},
            "why": "rolling, 1 beside, at least 2 ready, for execution.args[0]",
        },
        {
            **{"worker": "db", "action": "update", "text": "1 to start", "fields": ["replicas"]},
            "why": "in place, for replicas",
        },
        {"worker": "mail", "action": "create", "text": "1 to start", "why": "", "fields": []},
        {"worker": "old", "action": "remove", "text": "3 to stop", "why": "", "fields": []},
    ],
    "fields": [
        {"path": "workers.db.replicas", "before": "1", "after": "2"},
        {"path": "workers.mail.replicas", "before": None, "after": "1"},
        {"path": "workers.web.execution.args[0]", "before": "v1", "after": "v2"},
    ],
    "placements": {
        "shop/mail.0": "node-a",
        "shop/web.5": "node-b",
        **{f"shop/db.{slot}": "node-b" for slot in range(9)},
    },
    "unplaced": {"shop/db.1": "2 of 2 nodes lack 4GiB of free memory"},
    "no_room": {"web": "1 of 1 instances beside those that run have no place: port 80 is taken on 2 of 2 nodes"},
    "pin": "4711-0123456789abcdef",
    "warnings": [],
    "revision": 4711,
}


def test_plan(golden: Golden) -> None:
    golden("plan", plain(plan_lines(PLAN)))  # type: ignore[arg-type]
    same = {
        **PLAN,
        "unchanged": True,
        "app_revision": 3,
        "changes": [],
        "fields": [],
        "unplaced": {},
        "no_room": {},
        "placements": {},
    }
    golden("plan-unchanged", plain(plan_lines(same)))  # type: ignore[arg-type]


def test_progress_in_a_pipe_is_one_line() -> None:
    assert progress_line(DEGRADED) == "shop revision 3: Degraded, ready: web 1/2, db 0/4"


def test_progress_on_a_terminal_is_a_tree(golden: Golden) -> None:
    golden("progress", plain(progress_tree(DEGRADED, TROUBLED, 12.4)))


def test_a_long_worker_shows_those_that_need_a_look() -> None:
    many = [instance(f"shop/web.{slot}", ready=slot != 90) for slot in range(100)]
    lines = plain(progress_tree(app(), many, 0)).splitlines()
    assert len(lines) == 2 + INSTANCES_SHOWN + 1
    assert any(".90 " in line for line in lines)
    assert lines[-1].endswith("and 88 more instances")


HOSTILE = "\x1b]0;owned\x07 \x1b[31mred\u202e\x9b31m\nnext"


@pytest.mark.parametrize(
    "lines",
    [
        table("instances", [instance(reason=HOSTILE, node=HOSTILE, state=HOSTILE, ports={HOSTILE: 1})], NOW),
        table("apps", [app(HOSTILE, phase="Degraded", reason=HOSTILE)], NOW),
        table("nodes", [node(HOSTILE, labels={HOSTILE: HOSTILE}, reason=HOSTILE)], NOW),
        table("events", [event(code=HOSTILE, subject=HOSTILE, text=HOSTILE, actor=HOSTILE)], NOW),
        app_details(app(text=HOSTILE, deployed_by=HOSTILE), [instance(reason=HOSTILE)], [event(text=HOSTILE)], NOW),
        instance_details(instance(last_exit={**EXIT, "reason": HOSTILE, "signal": HOSTILE}), [], NOW),
        node_details(node(HOSTILE, address=HOSTILE, version=HOSTILE), [], [], NOW),
        cluster_status(cluster(store={"backend": HOSTILE, "version": HOSTILE, "warnings": [HOSTILE]}), [], [], NOW),
        progress_tree(app(HOSTILE), [instance(reason=HOSTILE, ready=False)], 1.0),
        plan_lines({**PLAN, "app": HOSTILE, "unplaced": {HOSTILE: HOSTILE}}),  # type: ignore[typeddict-item]
    ],
)
def test_control_characters_of_the_server_are_escaped(lines: list[Text]) -> None:
    assert [line.plain for line in lines if not line.plain.isprintable()] == []
    assert any("\\x1b" in line.plain for line in lines)


def test_states_have_colours_on_a_terminal() -> None:
    styles = {str(span.style) for line in table("instances", TROUBLED, NOW) for span in line.spans}
    assert {"green", "yellow", "red"} <= styles
