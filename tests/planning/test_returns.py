"""Which copy stays when a lost node comes back: the replacement by default, the original where the worker wants it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsu_cluster.planning.failover import returned
from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.returns import has_claims, is_awaited, is_taken_back
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.lifecycle import ALIVE, State
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.spec import Guarantee, OnReturn, WorkerSpec
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

ORIGINAL = make_assignment(slot("web", 0), "a", epoch=5, ports={"http": 20005})
REPLACEMENT = replace(
    make_assignment(slot("web", 0), "b", epoch=9, ports={"http": 20001}),
    replaces="a",
)
WORKER = make_worker(ports=("http",), on_return=OnReturn.KEEP_ORIGINAL)


def _view(worker: WorkerSpec = WORKER, **fields: Any) -> ClusterView:
    back = replace(make_node("a"), lost_at=10.0, back_at=20.0, flaps=1)
    statuses = [make_status(ORIGINAL), make_status(REPLACEMENT)]
    given = {"nodes": [back, make_node("b")], "assignments": [REPLACEMENT], "statuses": statuses, **fields}
    return make_view(make_revision(1, worker), **given)


def _puts(view: ClusterView) -> list[Assignment]:
    return [action.assignment for action in reconcile(view, 30.0).actions if isinstance(action, PutAssignment)]


def test_an_original_that_still_runs_takes_its_slot_back_with_its_ports() -> None:
    (put,) = _puts(_view())
    assert (put.node, put.ports, put.beside, put.replaces) == ("a", (("http", 20005),), "b", "")
    assert put.epoch > REPLACEMENT.epoch


@pytest.mark.parametrize(
    "original",
    [
        make_status(ORIGINAL, is_ready=False),
        make_status(ORIGINAL, State.RESTARTING),
        make_status(replace(ORIGINAL, spec_hash="s0")),
        make_status(replace(ORIGINAL, generation=1)),
        None,
    ],
    ids=["not ready", "restarting", "another revision", "another generation", "gone"],
)
def test_an_original_to_which_something_has_happened_does_not(original: InstanceStatus | None) -> None:
    statuses = [status for status in (original, make_status(REPLACEMENT)) if status is not None]
    assert _puts(_view(statuses=statuses)) == []


def test_an_original_on_a_node_that_flaps_or_is_to_take_nothing_does_not() -> None:
    flapping = replace(make_node("a"), lost_at=10.0, back_at=20.0, flaps=2)
    assert _puts(_view(nodes=[flapping, make_node("b")])) == []
    assert _puts(_view(node_intents=[NodeIntent("a", is_cordoned=True)])) == []
    assert _puts(_view(nodes=[make_node("a", state=NodeState.LOST), make_node("b")])) == []


def test_by_default_the_replacement_stays_and_a_strict_worker_has_no_original() -> None:
    assert _puts(_view(make_worker(ports=("http",)))) == []
    spec = replace(WORKER, guarantee=Guarantee.STRICT)
    assert not is_taken_back(_view(), REPLACEMENT, spec, make_status(ORIGINAL))


def test_the_orders_of_a_node_that_is_back_wait_until_its_originals_are_decided() -> None:
    view = _view()
    reported = {ORIGINAL.instance: make_status(ORIGINAL)}
    assert has_claims(view, "a", [ORIGINAL.instance], reported)
    assert not has_claims(view, "a", [ORIGINAL.instance], {})
    (put,) = _puts(view)
    decided = replace(view, assignments={put.instance: put})
    assert not has_claims(decided, "a", [ORIGINAL.instance], reported)


def test_the_replacement_runs_until_the_original_has_confirmed_its_order_or_its_node_is_gone() -> None:
    (put,) = _puts(_view())
    view = _view(assignments=[put])
    assert is_awaited(view, put, "b")
    assert not is_awaited(view, put, "a")
    assert not is_awaited(view, None, "b")
    assert not is_awaited(_view(assignments=[put], statuses=[make_status(put)]), put, "b")
    assert not is_awaited(_view(assignments=[put], nodes=[make_node("b")]), put, "b")


@pytest.mark.parametrize("on_return", OnReturn)
def test_a_node_is_lost_and_comes_back_with_its_processes(on_return: OnReturn) -> None:
    cluster = Cluster([make_node(name, cpu=8000) for name in ("a", "b")])
    cluster.revisions[SHOP, 1] = make_revision(1, make_worker("web", 4, ports=("http",), on_return=on_return))
    cluster.apps[SHOP] = deploy(None, cluster.revisions[SHOP, 1])
    cluster.settle(rounds=40)
    before = dict(cluster.assignments)
    cluster.nodes["a"] = replace(
        cluster.nodes["a"], state=NodeState.LOST, lost_at=cluster.now_s, changed_at=cluster.now_s
    )
    cluster.touch()
    cluster.settle(rounds=40)
    assert {held.node for held in cluster.assignments.values()} == {"b"}
    assert {held.replaces for held in cluster.assignments.values()} == {"", "a"}
    cluster.nodes["a"] = returned(make_node("a", cpu=8000), cluster.nodes["a"], cluster.now_s)
    cluster.touch()
    cluster.plan_and_apply()
    cluster.settle(rounds=40)
    running = {(instance, node) for (instance, node), one in cluster.processes.items() if one.state in ALIVE}
    assert len(running) == 4
    if on_return is OnReturn.KEEP_ORIGINAL:
        assert running == {(held.instance, held.node) for held in before.values()}
        assert {one.instance: one.ports for one in cluster.assignments.values() if one.node == "a"} == {
            one.instance: one.ports for one in before.values() if one.node == "a"
        }
    else:
        assert {node for _, node in running} == {"b"}
