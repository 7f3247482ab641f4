"""What a drain is said to do before it begins is what it does; and what is said of one on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsu_cluster.planning.drain import drain_progress, plan_drain
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeIntent
from hsu_core.model.spec import Guarantee
from tests.planning.shop import Shop
from tests.planning.test_drain import DEFAULTS, drain, on_node
from tests.support.builders import make_worker


@pytest.mark.parametrize(
    ("others", "lowest"),
    [({}, 3), ({"guarantee": Guarantee.STRICT}, 2), ({"strategy": "recreate"}, 2), ({"ports": {"http": 80}}, 2)],
)
def test_the_forecast_is_what_happens(others: dict[str, Any], lowest: int) -> None:
    shop = Shop(make_worker("web", 3, rollout=DEFAULTS, **others), nodes=4)
    shop.cluster.settle(40)
    plan = plan_drain(shop.cluster.view(), "n0", shop.cluster.now_s)
    assert [(one.leaves, str(one.instance)) for one in plan.instances] == [(True, name) for name in on_node(shop, "n0")]
    assert [(one.worker, one.ready, one.lowest_ready) for one in plan.workers] == [("web", 3, lowest)]
    drain(shop, "n0")
    for _ in range(40):
        shop.step()
    for one in plan.instances:
        assert shop.cluster.assignments[one.instance].node == one.node


def test_what_cannot_leave_is_named_with_its_reason() -> None:
    shop = Shop(
        make_worker("web", 1, constraints=["node.name == n0"], rollout=DEFAULTS),
        make_worker("db", 1, ports={"sql": 80}, rollout={"max_surge": 1}, max_unavailable=0),
        nodes=2,
    )
    shop.cluster.settle(40)
    held = next(one for one in shop.cluster.assignments.values() if one.instance.worker == "db")
    plan = plan_drain(shop.cluster.view(), "n0", shop.cluster.now_s)
    web = next(one for one in plan.instances if one.instance.worker == "web")
    assert not web.leaves
    assert web.why.startswith("shop/web.0 stays on n0, no other node can take it: ")
    forced = plan_drain(shop.cluster.view(), "n0", shop.cluster.now_s, is_forced=True)
    web = next(one for one in forced.instances if one.instance.worker == "web")
    assert (web.leaves, web.node) == (True, None)
    assert (
        plan_drain(shop.cluster.view(), held.node, shop.cluster.now_s)
        .instances[0]
        .why.startswith(
            f"1 instance of shop/db is still to leave {held.node}, at least 1 stay ready; no copy fits beside"
        )
    )


def test_a_drain_on_its_way_says_what_is_left_what_stops_and_why() -> None:
    shop = Shop(make_worker("web", 4, rollout={"max_surge": 0}, max_unavailable=1), nodes=2)
    shop.cluster.settle(40)
    assert drain_progress(shop.cluster.view(), shop.cluster.now_s) == {}
    drain(shop, "n0")
    shop.cluster.plan_and_apply()
    found = drain_progress(shop.cluster.view(), shop.cluster.now_s)["n0"]
    assert (found.assigned, found.stopping) == (1, 1)
    assert found.waits == (
        "1 instance of shop/web is still to leave n0, at least 3 stay ready; waits for web.0 on n1: not reported yet",
    )


def test_an_ended_process_is_not_waited_for_and_an_escaped_one_is() -> None:
    shop = Shop(make_worker("web", 1), nodes=2)
    shop.cluster.settle(40)
    (key,) = [key for key, status in shop.cluster.statuses.items() if status.state is State.RUNNING]
    view = replace(shop.cluster.view(), assignments={}, node_intents={key[1]: NodeIntent(key[1], is_draining=True)})
    ended = replace(view.statuses[key], state=State.STOPPED)
    for status, stopping in ((view.statuses[key], 1), (ended, 0), (replace(ended, has_processes=True), 1)):
        found = drain_progress(replace(view, statuses={key: status}), 0.0)[key[1]]
        assert (found.assigned, found.stopping) == (0, stopping)
