"""A node that was lost and came back gets nothing new for a while, unless there is no other."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.failover import returned
from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState
from hsu_core.model.view import PutAssignment
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


def _cooling(name: str, until_s: float = NOW_S + 20, **fields: int) -> NodeRecord:
    """Return a node that came back from its first loss 30 s before `until_s`."""
    return replace(make_node(name, **fields), lost_at=until_s - 40, back_at=until_s - 30, flaps=1)


def test_nothing_new_is_placed_on_a_node_that_cools_down() -> None:
    nodes = [_cooling("a"), make_node("b"), _cooling("c", NOW_S)]
    plan = reconcile(make_view(make_revision(1, make_worker(replicas=4)), nodes=nodes), NOW_S)
    placed = [action.assignment.node for action in plan.actions if isinstance(action, PutAssignment)]
    assert sorted(placed) == ["b", "b", "c", "c"], "c has cooled down"


def test_when_there_is_no_other_a_node_that_cools_down_is_better_than_none() -> None:
    nodes = [_cooling("a"), make_node("b", cpu=100)]
    revision = make_revision(1, make_worker(replicas=3, cpu=100))
    plan = reconcile(make_view(revision, nodes=nodes), NOW_S)
    placed = [action.assignment.node for action in plan.actions if isinstance(action, PutAssignment)]
    assert sorted(placed) == ["a", "a", "b"]
    assert plan.unplaced == {}


def test_what_runs_on_a_node_that_cools_down_stays() -> None:
    held = make_assignment(slot("web", 0), "a")
    plan = reconcile(
        make_view(make_revision(1, make_worker()), nodes=[_cooling("a"), make_node("b")], assignments=[held]), NOW_S
    )
    assert plan.actions == ()


def test_an_instance_that_serves_waits_with_its_move_until_the_node_has_cooled_down() -> None:
    held = make_assignment(slot("web", 0), "b")
    view = make_view(
        make_revision(1, make_worker()),
        nodes=[_cooling("a"), make_node("b")],
        assignments=[held],
        node_intents=[NodeIntent("b", is_draining=True)],
    )
    plan = reconcile(view, NOW_S)
    assert plan.actions == ()
    assert any(
        "1 of 2 nodes is cooling down, as it was lost and has just come back (a)" in w.text for w in plan.waiting
    )
    assert plan.retry_at_s == NOW_S + 20
    later = reconcile(view, NOW_S + 20)
    assert [action.assignment.node for action in later.actions if isinstance(action, PutAssignment)] == ["a"]


def test_an_instance_that_serves_nothing_does_not_wait() -> None:
    held = make_assignment(slot("web", 0), "b")
    statuses: list[InstanceStatus] = [make_status(held, is_ready=False)]
    view = make_view(
        make_revision(1, make_worker()),
        nodes=[_cooling("a"), make_node("b")],
        assignments=[held],
        statuses=statuses,
        node_intents=[NodeIntent("b", is_draining=True)],
    )
    plan = reconcile(view, NOW_S)
    assert [action.assignment.node for action in plan.actions if isinstance(action, PutAssignment)] == ["a"]


@settings(max_examples=40, deadline=None)
@given(
    ups=st.lists(st.integers(2, 25), min_size=3, max_size=40),
    downs=st.lists(st.integers(2, 25), min_size=40, max_size=40),
    replicas=st.integers(1, 6),
)
def test_a_link_that_flaps_moves_each_instance_once(ups: list[int], downs: list[int], replicas: int) -> None:
    """One node of three is lost and comes back, again and again, for minutes: each slot leaves it once at most."""
    cluster = Cluster([make_node(f"n{number}", cpu=8000) for number in range(3)])
    cluster.revisions[SHOP, 1] = make_revision(1, make_worker("web", replicas))
    cluster.apps[SHOP] = deploy(None, cluster.revisions[SHOP, 1])
    cluster.settle(rounds=40)
    moves = dict.fromkeys(cluster.assignments, 0)
    where = {instance: held.node for instance, held in cluster.assignments.items()}

    def step(seconds: int) -> None:
        for _ in range(seconds):
            cluster.step_all()
            for instance, held in cluster.assignments.items():
                moves[instance] += where[instance] != held.node
                where[instance] = held.node

    for up_s, down_s in zip(ups, downs, strict=False):
        step(up_s)
        known, now_s = cluster.nodes["n0"], cluster.now_s
        cluster.nodes["n0"] = replace(known, state=NodeState.LOST, lost_at=now_s, changed_at=now_s)
        cluster.touch()
        step(down_s)
        cluster.nodes["n0"] = returned(make_node("n0", cpu=8000), cluster.nodes["n0"], cluster.now_s)
        cluster.touch()
    step(5)
    assert max(moves.values()) <= 1, moves
    assert cluster.ready_count("web") == replicas
