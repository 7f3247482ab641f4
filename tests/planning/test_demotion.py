"""A node on which one revision keeps failing while it is well elsewhere loses the slot, and is avoided for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsu_cluster.planning.demotion import AVOIDED_S, DEMOTED_LIMIT
from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.spec import Guarantee
from hsu_core.model.view import ClusterView, PutAssignment
from tests.planning.simulation import Cluster
from tests.support.builders import (
    SHOP,
    make_assignment,
    make_node,
    make_revision,
    make_status,
    make_view,
    make_worker,
    slot,
)

NOW_S = 1000.0
BAD = make_assignment(slot("web", 0), "a")
GOOD = make_assignment(slot("web", 1), "b")


def _failing(failures: int = 5, state: State = State.RESTARTING, **fields: Any) -> InstanceStatus:
    return replace(make_status(BAD, state), failures=failures, **fields)


def _view(bad: InstanceStatus, **fields: Any) -> ClusterView:
    given: dict[str, Any] = {
        "nodes": [make_node(name) for name in "abc"],
        "assignments": [BAD, GOOD],
        "statuses": [bad, make_status(GOOD)],
    }
    return make_view(make_revision(1, make_worker(replicas=2)), **{**given, **fields})


def _puts(view: ClusterView) -> list[PutAssignment]:
    return [action for action in reconcile(view, NOW_S).actions if isinstance(action, PutAssignment)]


@pytest.mark.parametrize("bad", [_failing(), _failing(1, State.FAILED), _failing(9, State.STARTING)])
def test_a_slot_that_fails_on_one_node_moves_where_its_like_can_run(bad: InstanceStatus) -> None:
    (put,) = _puts(_view(bad))
    assert (put.assignment.instance, put.assignment.node) == (BAD.instance, "c")
    assert put.assignment.avoided == (("a", NOW_S + AVOIDED_S),)
    assert put.code == "NodeDemoted"
    assert "while the same is ready on b: moved, and a is avoided for revision 1 for 10m" in put.why


@pytest.mark.parametrize(
    "bad",
    [_failing(4), _failing(9, State.RUNNING, is_ready=True), _failing(busy_ports=(80,)), _failing(epoch=4)],
    ids=["few failures", "it runs", "a port is taken", "an older order"],
)
def test_a_slot_that_may_still_come_up_stays(bad: InstanceStatus) -> None:
    assert _puts(_view(bad)) == []


def test_what_is_well_nowhere_else_stays() -> None:
    assert _puts(_view(_failing(), statuses=[_failing(), make_status(GOOD, is_ready=False)])) == []
    both_on_a = replace(GOOD, node="a")
    assert _puts(_view(_failing(), assignments=[BAD, both_on_a], statuses=[_failing(), make_status(both_on_a)])) == []


def test_without_another_node_it_stays_and_says_so() -> None:
    view = _view(_failing(), nodes=[make_node("a"), make_node("b", cpu=0)])
    revision = make_revision(1, make_worker(replicas=2, cpu=100))
    plan = reconcile(replace(view, revisions={(SHOP, 1): revision}), NOW_S)
    assert plan.actions == ()
    assert [item.code for item in plan.waiting] == ["demotion.no-room"]


def test_a_strict_worker_is_left_to_people() -> None:
    revision = make_revision(1, make_worker(replicas=2, guarantee=Guarantee.STRICT))
    assert _puts(replace(_view(_failing()), revisions={(SHOP, 1): revision})) == []


def test_the_node_is_avoided_by_the_slots_of_the_worker_until_the_time_is_over() -> None:
    moved = replace(BAD, node="c", avoided=(("a", NOW_S + 100),))
    revision = make_revision(1, make_worker(replicas=4))
    fields: dict[str, Any] = {"assignments": [moved, GOOD], "statuses": [make_status(moved), make_status(GOOD)]}
    view = replace(_view(_failing(), **fields), revisions={(SHOP, 1): revision})
    assert {put.assignment.node for put in _puts(view)} == {"b", "c"}
    later = reconcile(view, NOW_S + 100)
    assert "a" in {action.assignment.node for action in later.actions if isinstance(action, PutAssignment)}
    crowded = replace(
        view, nodes={"a": make_node("a")} | {name: make_node(name, state=NodeState.LOST) for name in "bc"}
    )
    assert {put.assignment.node for put in _puts(crowded)} == {"a"}, "better than nowhere"


def test_more_than_a_few_nodes_are_not_the_trouble() -> None:
    others = tuple((f"x{number}", NOW_S + 50) for number in range(DEMOTED_LIMIT))
    held = replace(BAD, avoided=others)
    plan = reconcile(_view(_failing(), assignments=[held, GOOD]), NOW_S)
    assert plan.actions == ()
    assert [item.code for item in plan.waiting] == ["demotion.limit"]


def test_a_revision_that_is_broken_everywhere_does_not_wander() -> None:
    cluster = Cluster([make_node(f"n{number}", cpu=8000) for number in range(6)])
    cluster.revisions[SHOP, 1] = make_revision(1, make_worker("web", 6))
    cluster.apps[SHOP] = deploy(None, cluster.revisions[SHOP, 1])
    cluster.settle(rounds=40)
    before = {instance: held.node for instance, held in cluster.assignments.items()}
    cluster.crashing_hashes.add("s1")
    moves = 0
    for _ in range(300):
        held = dict(cluster.assignments)
        cluster.step_all()
        for key, status in list(cluster.statuses.items()):
            cluster.statuses[key] = replace(status, failures=9)
        moves += sum(held[instance].node != one.node for instance, one in cluster.assignments.items())
    assert moves <= DEMOTED_LIMIT
    assert len(before) == len(cluster.assignments)
