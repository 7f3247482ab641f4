"""Rebalancing: worth every move, within the floor and the budget, ends, and never goes back and forth."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.balance import choose_moves, node_loads
from hsu_cluster.planning.rebalance import BATCH_MOVES, MOVE_PATIENCE_S, SETTLE_S
from hsu_cluster.planning.rollout_math import fenceposts
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.rebalance import RebalanceIntent, RebalancePhase, RebalanceRules
from hsu_core.model.spec import Affinity, Guarantee, PlacementSpec
from tests.planning.shop import Shop
from tests.support.builders import make_constraint, make_node, make_worker

SURGE = {"max_surge": 1}


def join(shop: Shop, *names: str, **more: Any) -> None:
    """Let nodes join."""
    for name in names:
        node = make_node(name, cpu=8000, **more)
        shop.cluster.nodes[name] = replace(node, changed_at=shop.cluster.now_s)
    shop.cluster.touch()


def ask(shop: Shop, *, max_moves: int = 0, name: str = "one") -> None:
    """Ask for a rebalance."""
    shop.cluster.rebalance_intent = RebalanceIntent(name, max_moves)
    shop.cluster.touch()


def spread(shop: Shop) -> dict[str, int]:
    """Return how many instances each node has."""
    return dict(sorted(Counter(one.node for one in shop.cluster.assignments.values()).items()))


def run(shop: Shop, steps: int = 200) -> int:
    """Step until the rebalance is over; return the fewest ready instances of web on the way."""
    lowest = shop.cluster.ready_count("web")
    for _ in range(steps):
        shop.step()
        lowest = min(lowest, shop.cluster.ready_count("web"))
        if shop.cluster.rebalance is not None and not shop.cluster.rebalance.is_active:
            return lowest
    raise AssertionError(f"not over after {steps} steps: {shop.cluster.rebalance}")


def moves_of(shop: Shop, limit: int = 1000) -> list[tuple[str, str, str]]:
    """Return what would be moved now."""
    found = choose_moves(shop.cluster.view(), shop.cluster.now_s, limit)
    return [(str(move.instance), move.source, move.target) for move in found]


def test_a_node_that_joins_takes_its_share_and_nothing_else_moves() -> None:
    shop = Shop(make_worker("web", 9, rollout=SURGE, max_unavailable=0), nodes=3)
    shop.cluster.settle(40)
    assert moves_of(shop) == []
    join(shop, "m0")
    assert len(moves_of(shop)) == 2
    ask(shop)
    assert run(shop) == 9
    assert spread(shop) == {"m0": 2, "n0": 2, "n1": 2, "n2": 3} or sorted(spread(shop).values()) == [2, 2, 2, 3]
    assert shop.cluster.rebalance is not None
    assert shop.cluster.rebalance.text == "2 moves done; no other would make it better by a clear margin"
    shop.cluster.settle(20)
    assert shop.slots() == list(range(9))
    assert moves_of(shop) == []


def test_load_is_evened_out_down_to_the_margin() -> None:
    shop = Shop(*[make_worker(f"w{number}", 1, cpu=1000, rollout=SURGE) for number in range(12)], nodes=2)
    shop.cluster.settle(60)
    join(shop, "m0")
    ask(shop)
    run(shop)
    assert spread(shop) == {"m0": 4, "n0": 4, "n1": 4}
    assert moves_of(shop) == []


def test_spread_labels_come_before_load() -> None:
    placement = PlacementSpec(spread=("zone",))
    shop = Shop(make_worker("web", 4, cpu=100, rollout=SURGE, placement=placement), nodes=2)  # no zone at all yet
    shop.cluster.settle(40)
    join(shop, "m0", zone="a")
    join(shop, "m1", zone="b")
    ask(shop)
    run(shop)
    assert spread(shop) == {"m0": 2, "m1": 2}


@pytest.mark.parametrize(
    "others",
    [
        {"guarantee": Guarantee.STRICT},
        {"strategy": "recreate"},
        {"placement": PlacementSpec(strategy="binpack")},
        {"placement": PlacementSpec(near=("db",))},
        {"placement": PlacementSpec(constraints=(make_constraint("node.name in n0,n1"),))},
        {"placement": PlacementSpec(affinity=(Affinity(make_constraint("node.name =~ n."), 90),))},
    ],
)
def test_what_must_not_or_should_not_move_stays(others: dict[str, Any]) -> None:
    shop = Shop(make_worker("web", 4, rollout=SURGE, **others), make_worker("db", 1), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    assert [move for move in moves_of(shop) if "web" in move[0]] == []


def test_a_cordoned_node_keeps_what_it_has_and_closed_ones_take_nothing() -> None:
    shop = Shop(make_worker("web", 6, rollout=SURGE), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    shop.cluster.node_intents["n0"] = NodeIntent("n0", is_cordoned=True)
    assert {source for _, source, _ in moves_of(shop)} == {"n1"}
    shop.cluster.node_intents["m0"] = NodeIntent("m0", is_cordoned=True)
    assert moves_of(shop) == []
    back_at = shop.cluster.now_s
    shop.cluster.node_intents.clear()
    shop.cluster.nodes["m0"] = replace(shop.cluster.nodes["m0"], lost_at=1.0, back_at=back_at, flaps=1)
    assert moves_of(shop) == [], "it cools down"


def test_a_worker_with_an_unavailable_instance_or_a_rollout_is_left_alone() -> None:
    worker = make_worker("web", 6, rollout=SURGE)
    shop = Shop(worker, nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    shop.deploy(worker)
    shop.step()
    assert moves_of(shop) == []
    shop.until(lambda rollout: rollout.is_over)
    shop.cluster.settle(40)
    assert moves_of(shop) != []
    shop.cluster.broken_hashes.add(f"s{shop.number}")
    shop.step()
    assert moves_of(shop) == []


def test_no_more_moves_than_were_asked_for_and_never_more_than_a_batch_at_once() -> None:
    shop = Shop(make_worker("web", 40, rollout={"max_surge": 4}), nodes=2)
    shop.cluster.settle(60)
    join(shop, "m0", "m1")
    ask(shop, max_moves=3)
    run(shop)
    assert spread(shop)["n0"] + spread(shop)["n1"] == 37
    assert shop.cluster.rebalance is not None
    assert shop.cluster.rebalance.text == "3 moves done; all that were asked for"
    ask(shop, name="two")
    largest = 0
    for _ in range(300):
        shop.step()
        largest = max(largest, len(shop.cluster.rebalance.moves))
    assert largest == BATCH_MOVES
    assert spread(shop) == {"m0": 10, "m1": 10, "n0": 10, "n1": 10}


def test_a_cancelled_one_leaves_everything_where_it_is() -> None:
    shop = Shop(make_worker("web", 12, rollout=SURGE, max_unavailable=0), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    ask(shop)
    for _ in range(6):
        shop.step()
    shop.cluster.rebalance_intent = RebalanceIntent("one", is_cancelled=True)
    shop.cluster.touch()
    run(shop)
    assert shop.cluster.rebalance is not None
    assert shop.cluster.rebalance.phase is RebalancePhase.CANCELLED
    there = spread(shop)
    last = shop.cluster.settle(40)
    assert last.actions == ()
    assert sum(spread(shop).values()) == 12
    assert spread(shop)["n0"] + spread(shop)["n1"] >= there["n0"] + there["n1"] - 1


def test_a_move_that_cannot_be_done_is_given_up() -> None:
    shop = Shop(make_worker("web", 4, rollout=SURGE, max_unavailable=0), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    ask(shop)
    shop.cluster.plan_and_apply()
    shop.cluster.set_state("m0", NodeState.LOST)
    run(shop)
    assert shop.cluster.rebalance is not None
    assert shop.cluster.rebalance.text.startswith("0 moves done, 1 given up; no other")
    join(shop, "m1")
    ask(shop, name="two")
    shop.cluster.plan_and_apply()
    shop.cluster.broken_hashes.add("s1")  # copies do not get ready any more
    shop.step()
    shop.cluster.now_s += MOVE_PATIENCE_S
    run(shop, 5)


def test_a_new_leader_goes_on_from_the_record() -> None:
    shop = Shop(make_worker("web", 12, rollout=SURGE, max_unavailable=0), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    ask(shop)
    for _ in range(60):
        plan = shop.cluster.step_all()  # every pass starts from what is stored: nothing else is kept
        assert len([one for one in shop.cluster.assignments.values() if one.is_extra]) <= 1, plan
    assert spread(shop) == {"m0": 4, "n0": 4, "n1": 4}


def test_the_loads_before_and_after_are_told() -> None:
    shop = Shop(make_worker("web", 6, rollout=SURGE), nodes=2)
    shop.cluster.settle(40)
    join(shop, "m0")
    moves = choose_moves(shop.cluster.view(), shop.cluster.now_s, 100)
    assert node_loads(shop.cluster.view(), moves, shop.cluster.now_s) == {"m0": (0, 2), "n0": (3, 2), "n1": (3, 2)}
    assert moves[0].why == "3 copies on n0, 0 on m0"


# --- automatic -----------------------------------------------------------------------------------


def test_it_is_off_unless_somebody_turns_it_on() -> None:
    shop = Shop(make_worker("web", 6, rollout=SURGE), nodes=2)
    join(shop, "m0")
    for _ in range(60):
        shop.step()
    assert shop.cluster.rebalance is None


def test_the_automatic_one_begins_when_a_node_has_joined_and_all_is_quiet() -> None:
    worker = make_worker("web", 12, rollout=SURGE, max_unavailable=0)
    shop = Shop(worker, nodes=2)
    shop.cluster.settle(40)
    shop.cluster.rebalance_rules = RebalanceRules(True, max_moves=1, interval_s=40.0)
    join(shop, "m0")
    joined_s = shop.cluster.now_s
    begun: list[float] = []
    for _ in range(400):
        before = shop.cluster.rebalance
        shop.step()
        after = shop.cluster.rebalance
        if after is not None and after.moves and (before is None or after.batch_at != before.batch_at):
            begun.append(shop.cluster.now_s)
            assert len(after.moves) <= 1
    assert begun[0] >= joined_s + SETTLE_S
    assert all(later - earlier >= 40.0 for earlier, later in pairwise(begun))
    assert spread(shop) == {"m0": 4, "n0": 4, "n1": 4}
    last = shop.cluster.rebalance
    for _ in range(60):
        shop.step()
    assert shop.cluster.rebalance == last, "nobody joined since: it rests"


def test_the_automatic_one_waits_for_drains_and_rollouts() -> None:
    shop = Shop(make_worker("web", 6, rollout=SURGE, constraints=["node.name != m0"]), nodes=2)
    shop.cluster.settle(40)
    shop.cluster.rebalance_rules = RebalanceRules(True)
    shop.cluster.node_intents["n0"] = NodeIntent("n0", is_draining=True)
    shop.cluster.node_intents["n1"] = NodeIntent("n1", is_cordoned=True)
    join(shop, "m0")
    for _ in range(60):
        shop.step()
    assert shop.cluster.rebalance is None


# --- properties ----------------------------------------------------------------------------------


def _shape(replicas: int, surge: int, unavailable: int, per_node: int, memory_mib: int, **more: Any) -> dict[str, Any]:
    given = {"cpu": 300, "spread": (), "ports": (), **more}
    limits = {"surge": surge, "max_unavailable": unavailable, "max_per_node": per_node}
    return {"replicas": replicas, "memory_mib": memory_mib, **limits, **given}


HELPER_IN_THE_WAY = [
    _shape(2, 1, 1, 0, 300, spread=("zone",)),
    _shape(6, 2, 0, 0, 0, ports=("http",)),
    _shape(6, 1, 1, 2, 300),
    _shape(5, 2, 0, 2, 200, spread=("zone",), ports=("http",)),
]
"""A copy takes the last place of a target: it goes, and is not counted on for another move of the same pass."""


@settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@example(workers=HELPER_IN_THE_WAY, joining=["b", ""], seed=3)
@given(
    workers=st.lists(
        st.fixed_dictionaries(
            {
                "replicas": st.integers(1, 6),
                "cpu": st.sampled_from([0, 300, 700]),
                "memory_mib": st.sampled_from([0, 200, 300]),
                "surge": st.integers(0, 2),
                "max_unavailable": st.integers(0, 1),
                "spread": st.sampled_from([(), ("zone",), ("zone", "rack")]),
                "max_per_node": st.sampled_from([0, 0, 2]),
                "ports": st.sampled_from([(), ("http",)]),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    joining=st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=3),
    seed=st.integers(0, 3),
)
def test_it_ends_within_the_floor_and_the_budget_and_then_rests(
    workers: list[dict[str, Any]], joining: list[str], seed: int
) -> None:
    made = [
        make_worker(
            f"w{index}",
            one["replicas"],
            cpu=one["cpu"],
            memory_mib=one["memory_mib"],
            ports=one["ports"],
            rollout={"max_surge": one["surge"]},
            max_unavailable=one["max_unavailable"],
            placement=PlacementSpec(spread=one["spread"], max_per_node=one["max_per_node"]),
        )
        for index, one in enumerate(workers)
    ]
    shop = Shop(*made, nodes=3 + seed)
    cluster = shop.cluster
    for _ in range(40):
        shop.step()
    full = {one.id: cluster.ready_count(one.id) for one in made}
    for index, zone in enumerate(joining):
        labels = {"zone": zone, "rack": f"{zone}{index % 2}"} if zone else {}
        join(shop, f"m{index}", **labels)
    ask(shop)
    moved: Counter[str] = Counter()
    for _ in range(400):
        before = {str(key): one.node for key, one in cluster.assignments.items() if not one.is_extra}
        plan = cluster.step_all()
        for key, one in cluster.assignments.items():
            if str(key) in before and before[str(key)] != one.node:
                moved[str(key)] += 1
        for one in made:
            if full[one.id] == one.replicas:
                away = fenceposts(one.rollout, one.replicas)[1]
                is_firm = one.rollout.max_unavailable == 0 and one.rollout.max_surge > 0
                assert cluster.ready_count(one.id) >= one.replicas - max(away, 0 if is_firm else 1)
        assert cluster.rebalance is not None
        assert len(cluster.rebalance.moves) <= BATCH_MOVES
        if not cluster.rebalance.is_active and not plan.actions:
            break
    assert cluster.rebalance is not None
    assert not cluster.rebalance.is_active
    cluster.settle(40)
    left_alone = set(cluster.rebalance.left_alone)
    rest = choose_moves(cluster.view(), cluster.now_s, 1000, left_alone)
    assert rest == ()
    before = spread(shop)
    ask(shop, name="again")
    run(shop)
    cluster.settle(40)
    if not left_alone:
        assert spread(shop) == before, "what was evened out is not touched again"
