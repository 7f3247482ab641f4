"""Drains: capacity elsewhere first, within one budget with restarts, rollouts and losses; deadlines and force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.intents import restart, scale
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.rollout_math import fenceposts
from hsu_core.model.ids import TargetName
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.schedules import ScheduleSpec
from hsu_core.model.spec import Guarantee, PlacementSpec
from hsu_core.model.view import Plan, PutAssignment
from tests.planning.shop import Shop, is_over, waits_for
from tests.support.builders import SHOP, make_worker

TARGET = TargetName("shop", "web")
DEFAULTS: dict[str, Any] = {
    "max_surge": 25,
    "is_max_surge_percent": True,
    "max_unavailable": 25,
    "is_max_unavailable_percent": True,
}


def drain(shop: Shop, *nodes: str, **intent: Any) -> None:
    """Drain nodes."""
    for node in nodes:
        shop.cluster.node_intents[node] = NodeIntent(node, is_cordoned=True, is_draining=True, **intent)
    shop.cluster.touch()


def on_node(shop: Shop, node: str) -> list[str]:
    """Return what is assigned to a node."""
    return sorted(str(one.instance) for one in shop.cluster.assignments.values() if one.node == node)


def lowest_ready(shop: Shop, steps: int = 40, until_empty: str = "") -> int:
    """Return the fewest ready instances of web seen in so many steps (or until a node is empty)."""
    lowest = shop.cluster.ready_count("web")
    for _ in range(steps):
        shop.step()
        lowest = min(lowest, shop.cluster.ready_count("web"))
        if until_empty and not on_node(shop, until_empty):
            break
    return lowest


def last_texts(shop: Shop, code: str) -> list[str]:
    """Return the sentences with a code of the next plan."""
    return [item.text for item in shop.cluster.plan_and_apply().waiting if item.code == code]


@pytest.mark.parametrize("replicas", [1, 2, 4, 6])
def test_with_defaults_a_drain_takes_no_ready_instance_away(replicas: int) -> None:
    shop = Shop(make_worker("web", replicas, rollout=DEFAULTS))
    shop.cluster.settle(40)
    drain(shop, "n0")
    assert lowest_ready(shop) == replicas
    assert on_node(shop, "n0") == []
    assert shop.slots() == list(range(replicas))
    assert not any(one.is_extra for one in shop.cluster.assignments.values())


def test_what_may_not_run_twice_moves_one_at_a_time() -> None:
    for others in ({"guarantee": Guarantee.STRICT}, {"strategy": "recreate"}):
        shop = Shop(make_worker("web", 4, rollout=DEFAULTS, **others))
        shop.cluster.settle(40)
        drain(shop, "n0")
        assert lowest_ready(shop, 60) == 3
        assert on_node(shop, "n0") == []
        assert max(shop.slots()) == 3


def test_without_room_for_a_copy_one_instance_moves_within_the_budget() -> None:
    shop = Shop(make_worker("web", 2, rollout=DEFAULTS, ports={"http": 8080}))  # a fixed port: one per node, 3 nodes
    shop.cluster.settle(40)
    node = shop.cluster.assignments[next(iter(shop.cluster.assignments))].node
    drain(shop, node)
    assert lowest_ready(shop) == 1
    assert on_node(shop, node) == []


def test_the_floor_that_is_holy_keeps_a_drain_waiting_and_says_why() -> None:
    worker = make_worker("web", 2, ports={"http": 8080}, rollout={"max_surge": 1}, max_unavailable=0)
    shop = Shop(worker)
    shop.cluster.settle(40)
    node = shop.cluster.assignments[next(iter(shop.cluster.assignments))].node
    drain(shop, node)
    assert lowest_ready(shop) == 2
    assert len(on_node(shop, node)) == 1
    (text,) = last_texts(shop, "drain.waits")
    assert text.startswith(
        f"1 instance of shop/web is still to leave {node}, at least 2 stay ready; no copy fits beside"
    )
    assert "max_unavailable is 0" in text
    assert "port 8080 in use" in text


def test_a_drain_of_several_nodes_shares_the_budget_of_each_worker() -> None:
    shop = Shop(make_worker("web", 6, rollout={"max_surge": 1}, max_unavailable=1), nodes=4)
    shop.cluster.settle(40)
    drain(shop, "n0", "n1")
    assert lowest_ready(shop, 80) >= 5
    assert on_node(shop, "n0") == on_node(shop, "n1") == []


def test_a_lost_instance_counts_against_the_budget_of_a_drain() -> None:
    shop = Shop(make_worker("web", 3, cpu=4000, max_unavailable=1), nodes=3)
    shop.cluster.settle(40)
    for name in ("n1", "n2"):  # nothing of the lost node fits elsewhere
        shop.cluster.nodes[name] = replace(
            shop.cluster.nodes[name], capacity=replace(shop.cluster.nodes[name].capacity, cpu_milli=4000)
        )
    shop.cluster.set_state("n2", NodeState.LOST)
    drain(shop, "n0")
    for _ in range(5):
        shop.step()
    assert on_node(shop, "n0") != []


def test_a_restart_and_a_drain_together_never_take_more_than_one_budget() -> None:
    shop = Shop(make_worker("web", 6, max_unavailable=2), nodes=4)
    shop.cluster.settle(40)
    record = shop.cluster.apps[SHOP]
    shop.cluster.apps[SHOP] = restart(record, shop.cluster.revisions[SHOP, 1].spec, TARGET)
    drain(shop, "n0")
    assert lowest_ready(shop, 80) >= 4
    assert on_node(shop, "n0") == []
    assert all(one.generation == 1 for one in shop.cluster.assignments.values())


def test_a_rollout_goes_on_while_a_node_drains() -> None:
    worker = make_worker("web", 4, rollout={"max_surge": 1}, max_unavailable=0)
    shop = Shop(worker, nodes=4)
    shop.cluster.settle(40)
    shop.deploy(worker)
    drain(shop, "n0")
    lowest = 4
    for _ in range(80):
        shop.step()
        lowest = min(lowest, shop.cluster.ready_count("web"))
    assert lowest == 4
    assert shop.rollout.is_over
    assert shop.revisions() == {2: 4}
    assert on_node(shop, "n0") == []


def test_a_second_set_moves_within_the_budget_too() -> None:
    worker = make_worker("web", 4, ports=("http",), strategy="blue-green", rollout={"is_auto_promoted": False})
    shop = Shop(worker, is_routed=True, nodes=2)
    shop.deploy(worker)
    shop.until(waits_for("a person"))
    second = [one for one in shop.cluster.assignments.values() if one.revision == 2]
    assert len([one for one in second if one.node == "n0"]) == 2
    drain(shop, "n0")
    lowest = 4
    for _ in range(40):
        shop.step()
        ready = [one for one in shop.cluster.processes.values() if one.is_ready and one.order.revision == 2]
        lowest = min(lowest, len(ready))
    assert lowest == 3
    assert on_node(shop, "n0") == []


def test_a_cancelled_drain_lets_its_copy_go_once_all_are_ready() -> None:
    shop = Shop(make_worker("web", 1, rollout=DEFAULTS))
    shop.cluster.settle(40)
    (held,) = shop.cluster.assignments.values()
    drain(shop, held.node)
    while shop.cluster.assignments[held.instance].node == held.node:
        shop.step()
    shop.cluster.node_intents.clear()
    shop.cluster.touch()
    assert lowest_ready(shop) == 1
    assert shop.slots() == [0]


def test_scaling_down_never_waits_for_anybody() -> None:
    shop = Shop(make_worker("web", 4, rollout=DEFAULTS))
    shop.cluster.settle(40)
    drain(shop, "n0")
    record = shop.cluster.apps[SHOP]
    shop.cluster.node_intents.clear()
    shop.cluster.broken_hashes.add("s1")
    shop.step()
    shop.cluster.apps[SHOP] = scale(record, shop.cluster.revisions[SHOP, 1].spec, "web", 2)
    shop.cluster.touch()
    shop.step()
    assert shop.slots() == [0, 1]


def test_a_copy_that_takes_the_last_place_gives_it_to_the_one_that_moves() -> None:
    placement = PlacementSpec(max_per_node=1)
    shop = Shop(make_worker("web", 2, rollout=DEFAULTS, placement=placement), nodes=4)
    shop.cluster.settle(40)
    node = shop.cluster.assignments[next(iter(shop.cluster.assignments))].node
    drain(shop, node)
    while not any(one.is_extra for one in shop.cluster.assignments.values()):
        shop.step()
    free = set(shop.cluster.nodes) - {one.node for one in shop.cluster.assignments.values()}
    for name in free:
        shop.cluster.node_intents[name] = NodeIntent(name, is_cordoned=True)
    shop.cluster.touch()
    assert lowest_ready(shop) >= 1
    assert on_node(shop, node) == []
    assert shop.slots() == [0, 1]


def test_what_runs_on_a_schedule_leaves_between_its_runs() -> None:
    shop = Shop(make_worker("web", 1, schedule=ScheduleSpec("0 3 * * *"), rollout=DEFAULTS))
    shop.cluster.settle(40)
    (held,) = shop.cluster.assignments.values()
    drain(shop, held.node)
    plan = shop.cluster.plan_and_apply()
    assert plan.actions == ()
    assert [item.text for item in plan.waiting] == [f"shop/web.0 leaves {held.node} when its present run has ended"]
    view = shop.cluster.view()
    ended = replace(view.statuses[held.instance, held.node], state=State.STOPPED, is_ready=False)
    (put,) = reconcile(replace(view, statuses={(held.instance, held.node): ended}), shop.cluster.now_s).actions
    assert isinstance(put, PutAssignment)
    assert put.assignment.node != held.node


# --- deadline and force --------------------------------------------------------------------------


def forced(plan: Plan) -> list[str]:
    """Return why instances are taken off by force."""
    return [one.why for one in plan.actions if "taken off" in one.why]  # type: ignore[union-attr]


def test_at_the_deadline_the_floor_counts_no_more_and_each_instance_is_named() -> None:
    worker = make_worker("web", 3, rollout={"max_surge": 0}, max_unavailable=1, constraints=["node.name == n0"])
    shop = Shop(worker)
    shop.cluster.settle(40)
    drain(shop, "n0", drain_deadline_at=shop.cluster.now_s + 10)
    for _ in range(8):
        plan = shop.cluster.step_all()
        assert plan.retry_at_s is not None
        assert forced(plan) == []
    assert shop.cluster.ready_count("web") == 3
    shop.cluster.now_s += 10
    plan = shop.cluster.plan_and_apply()
    assert [one.why for one in plan.actions] == [
        f"shop/web.{number} is taken off n0 and has no other place: the deadline of the drain of node n0 is over"
        for number in (0, 1, 2)
    ]
    assert on_node(shop, "n0") == []


def test_by_force_everything_moves_at_once() -> None:
    shop = Shop(make_worker("web", 6, max_unavailable=1), nodes=2)
    shop.cluster.settle(40)
    held = on_node(shop, "n0")
    drain(shop, "n0", is_drain_forced=True)
    plan = shop.cluster.plan_and_apply()
    assert [one.why for one in plan.actions] == [
        f"{name} is taken off n0: node n0 is drained by force" for name in held
    ]
    assert all(isinstance(one, PutAssignment) and one.assignment.node == "n1" for one in plan.actions)
    shop.cluster.settle(20)
    assert shop.cluster.ready_count("web") == 6


def test_a_strict_instance_goes_by_force_even_without_another_node() -> None:
    worker = make_worker("web", 1, guarantee=Guarantee.STRICT, constraints=["node.name == n0"])
    shop = Shop(worker)
    shop.cluster.settle(40)
    drain(shop, "n0")
    for _ in range(5):
        shop.step()
    assert on_node(shop, "n0") == ["shop/web.0"]
    drain(shop, "n0", is_drain_forced=True)
    shop.step()
    assert on_node(shop, "n0") == []


# --- properties ----------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ("drain", "drain", "release", "deploy", "same", "restart", *["act", "report"] * 2, *["plan", "step"] * 4)
        ),
        st.integers(0, 3),
    ),
    min_size=40,
    max_size=80,
)


@settings(
    max_examples=80,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    replicas=st.integers(1, 6),
    surge=st.integers(0, 2),
    unavailable=st.sampled_from([0, 1, 2, "25%"]),
    max_per_node=st.integers(0, 2),
    events=EVENTS,
)
def test_the_floor_holds_through_drains_restarts_and_rollouts_together_and_drains_end(
    replicas: int, surge: int, unavailable: int | str, max_per_node: int, events: list[tuple[str, int]]
) -> None:
    placement = PlacementSpec(max_per_node=max(max_per_node, -(-replicas // 3)) if max_per_node else 0)
    worker = make_worker(
        "web", replicas, rollout={"max_surge": surge}, max_unavailable=unavailable, placement=placement, cpu=900
    )
    shop = Shop(worker, nodes=4)
    cluster = shop.cluster
    cluster.settle(40)
    away = fenceposts(worker.rollout, replicas)[1]
    if not away and unavailable != 0:
        away = 1  # nothing fits beside it: replaced in place
    for name, index in events:
        match name:
            case "drain":
                drain(shop, f"n{index}")
            case "release":
                cluster.node_intents.clear()
            case "deploy":
                shop.deploy(worker)
            case "same":
                shop.deploy(worker, hashes={"web": dict(cluster.revisions[SHOP, shop.number].spec_hashes)["web"]})
            case "restart":
                spec = cluster.revisions[SHOP, shop.number].spec
                cluster.apps[SHOP] = restart(cluster.apps[SHOP], spec, TARGET)
            case "act" | "report":
                getattr(cluster, name)(f"n{index}")
            case "plan":
                cluster.plan_and_apply()
            case "step":
                shop.step()
        cluster.touch()
        assert cluster.ready_count("web") >= replicas - away, name
        assert len(cluster.assignments) <= replicas + max(surge, 0)
    cluster.node_intents.clear()
    cluster.node_intents["n0"] = NodeIntent("n0", is_draining=True)
    shop.until(is_over)
    cluster.settle(80)
    assert cluster.ready_count("web") == replicas
    assert shop.slots() == list(range(replicas))
    is_stuck = unavailable == 0 and surge and max_per_node and placement.max_per_node * 3 <= replicas
    assert on_node(shop, "n0") == [] or is_stuck
