"""Which instances a route wants, their weights, and the record of it: tables, and properties over made-up clusters."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_cluster.planning.route_state import (
    GIVE_UP_S,
    announced,
    confirmed,
    cut_off,
    departing,
    is_settled,
    refused,
    remnants,
)
from hsu_cluster.planning.traffic import (
    WantedRoute,
    leaving_of,
    new_percent,
    registered,
    servers,
    two_sets,
    wanted,
)
from hsu_cluster.planning.weights import EVEN_WEIGHT, WEIGHT_LIMIT, server_weights
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.rollout import Rollout, Stage, WorkerRollout
from hsu_core.model.routes import (
    Endpoint,
    HaproxyProvider,
    Provider,
    RouteSpec,
    RouteState,
    TemplateProvider,
    WebhookProvider,
)
from hsu_core.model.view import ClusterView, DropAssignment, Plan, PutAssignment
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

ROUTE = RouteSpec("web", "web", "http")
KEY = (SHOP, "web")


def revision(number: int = 1, *routes: RouteSpec, strategy: str = "rolling", port: str = "http") -> Any:
    """Return a revision of the shop with a worker `web` and its route."""
    made = make_revision(number, make_worker("web", 3, ports=[port], strategy=strategy))
    return replace(made, spec=replace(made.spec, routes=routes or (ROUTE,)))


def order(number: int, node: str = "a", **keys: Any) -> Assignment:
    """Return the assignment of a slot with the port 20000 + slot."""
    return make_assignment(slot("web", number), node, ports={"http": 20000 + number}, **keys)


def view_of(*orders: Assignment, **keys: Any) -> ClusterView:
    """Return a view with nodes a and b, and a lost one."""
    nodes = [replace(make_node(name), address=f"10.0.0.{place}") for place, name in enumerate("ab", 1)]
    lost = replace(make_node("lost", state=NodeState.LOST), address="10.0.0.9")
    left = replace(make_node("left", state=NodeState.LEFT), address="10.0.0.8")
    revisions = keys.pop("revisions", [revision()])
    return make_view(*revisions, nodes=[*nodes, lost, left], assignments=orders, **keys)


def slots(view: ClusterView, leaving: frozenset[InstanceId] = frozenset()) -> list[int]:
    """Return the slots that the route wants."""
    return [endpoint.instance.slot for endpoint in wanted(view, leaving, {})[KEY].endpoints]


def test_an_endpoint_has_the_address_of_its_node_and_the_port_that_was_observed() -> None:
    route = wanted(view_of(order(0), order(1, "b")), frozenset(), {})[KEY]
    assert route.endpoints == (
        Endpoint(slot("web", 0), 5, "10.0.0.1", 20000),
        Endpoint(slot("web", 1), 5, "10.0.0.2", 20001),
    )
    assert route.weights == (("stable", 100),)
    assert route.alive == {slot("web", 0), slot("web", 1)}


@pytest.mark.parametrize(
    ("status", "is_in"),
    [
        ({}, True),
        ({"is_ready": False}, False),
        ({"state": State.STARTING, "is_ready": False}, False),
        ({"state": State.STOPPING}, False),
        ({"state": State.STOPPED, "exit_code": 0}, False),
        ({"state": State.UNKNOWN, "is_ready": True}, False),
        ({"state": State.UNKNOWN, "is_ready": False}, False),
        ({"epoch": 3}, True),  # the newest order asks for the same process: the agent only keeps it in mind
        ({"node": "b"}, False),  # a copy on another node than the assigned one
    ],
)
def test_only_what_runs_ready_is_wanted(status: dict[str, Any], is_in: bool) -> None:
    one, other = order(0), order(1)
    view = view_of(one, other, statuses=[make_status(one, **status), make_status(other)])
    assert slots(view) == ([0, 1] if is_in else [1])


@pytest.mark.parametrize("change", [{"spec_hash": "s2"}, {"generation": 1}, {"is_stopped": True}, {"node": "b"}])
def test_a_slot_that_was_told_to_become_another_process_is_not_wanted(change: dict[str, Any]) -> None:
    ran = order(0)
    now = replace(ran, epoch=9, **change)
    assert slots(view_of(now, order(1), statuses=[make_status(ran), make_status(order(1))])) == [1]


def test_what_leaves_is_not_wanted() -> None:
    assert slots(view_of(order(0), order(1)), frozenset({slot("web", 0)})) == [1]


def test_an_agent_that_said_good_bye_leaves_its_workers_in_the_route() -> None:
    assert slots(view_of(order(0), order(1, "left"))) == [0, 1]


def test_a_lost_node_is_left_out_unless_nothing_else_is_left() -> None:
    assert slots(view_of(order(0), order(1, "lost"))) == [0]
    assert slots(view_of(order(1, "lost"), order(2, "lost"))) == [1, 2], "a master that is cut off empties nothing"
    orders = order(0, "lost"), order(1, "lost"), order(2)
    unknown = [make_status(one, state=State.UNKNOWN, is_ready=one is orders[0]) for one in orders[:2]]
    starting = make_status(orders[2], state=State.STARTING, is_ready=False)
    assert slots(view_of(*orders, statuses=[*unknown, starting])) == [0], "what was ready when it was last heard of"
    assert slots(view_of(*orders, statuses=[*unknown, make_status(orders[2])])) == [2]


def test_an_instance_of_an_older_revision_is_reached_at_the_port_its_own_route_names() -> None:
    renamed = revision(2, RouteSpec("web", "web", "public"), port="public")
    assert slots(view_of(order(0), revisions=[revision(1), renamed])) == [0]


def test_a_route_of_an_app_that_is_held_or_unreadable_is_not_touched() -> None:
    assert wanted(replace(view_of(order(0)), held=frozenset({SHOP})), frozenset(), {}) == {}
    assert wanted(replace(view_of(order(0)), revisions={}), frozenset(), {}) == {}


def test_a_route_that_nobody_asks_for_is_to_be_cleared_by_the_provider_it_had() -> None:
    spec = RouteSpec("old", "web", "http", WebhookProvider("http://lb/"))
    state = RouteState(SHOP, "old", (Endpoint(slot("web", 0), 5, "10.0.0.1", 20000),), spec=spec)
    found = wanted(replace(view_of(order(0)), routes={(SHOP, "old"): state}), frozenset(), {})
    assert found[SHOP, "old"] == WantedRoute(SHOP, spec, alive=frozenset({slot("web", 0)}), is_needed=False)
    gone = replace(view_of(order(0)), apps={}, revisions={}, routes={(SHOP, "old"): state})
    assert [route.is_needed for route in wanted(gone, frozenset(), {}).values()] == [False]


def rolling(strategy: str, stable_base: int = 0, new_base: int = 100, **keys: Any) -> dict[Any, Rollout]:
    """Return a rollout with two sets."""
    worker = WorkerRollout("web", strategy, Stage.STEPS, stable_base, new_base)
    return {SHOP: Rollout(SHOP, 2, 1, workers=(worker,), **keys)}


@pytest.mark.parametrize(
    ("strategy", "bases", "percent", "groups", "weights"),
    [
        ("canary", (0, 100), 10, ["stable", "stable", "canary"], (("stable", 90), ("canary", 10))),
        ("canary", (100, 0), 10, ["canary", "canary", "stable"], (("stable", 90), ("canary", 10))),
        ("blue-green", (0, 100), 0, ["active", "active", "preview"], (("active", 100), ("preview", 0))),
        ("blue-green", (0, 100), 100, ["active", "active", "preview"], (("active", 0), ("preview", 100))),
        ("rolling", (0, 0), 0, ["stable", "stable", "stable"], (("stable", 100),)),
    ],
)
def test_two_sets_are_told_apart_by_their_slots(
    strategy: str, bases: tuple[int, int], percent: int, groups: list[str], weights: Any
) -> None:
    view = view_of(order(0), order(1), order(100), revisions=[revision(), revision(2)])
    view = replace(view, rollouts=rolling(strategy, *bases))
    route = wanted(view, frozenset(), {(SHOP, "web"): percent})[KEY]
    assert [endpoint.group for endpoint in route.endpoints] == groups
    assert route.weights == weights
    assert new_percent(RouteState(SHOP, "web", weights=route.weights)) == percent


def test_without_a_word_of_plan_and_record_a_new_set_gets_nothing() -> None:
    view = replace(view_of(order(0), order(100)), rollouts=rolling("canary"))
    route = wanted(view, frozenset(), {})[KEY]
    assert [server.weight for server in servers(route.endpoints, route.weights)] == [EVEN_WEIGHT, 0]


@pytest.mark.parametrize(("stage", "traffic", "percent"), [(Stage.STEPS, 30, 30), (Stage.PROMOTED, 30, 100)])
def test_without_a_word_of_the_plan_the_record_of_the_rollout_counts(stage: Stage, traffic: int, percent: int) -> None:
    worker = WorkerRollout("web", "canary", stage, 0, 100, weight=50, traffic=traffic)
    view = replace(view_of(order(0), order(100)), rollouts={SHOP: Rollout(SHOP, 2, 1, workers=(worker,))})
    assert wanted(view, frozenset(), {})[KEY].weights == (("stable", 100 - percent), ("canary", percent))


def test_a_rollout_that_is_done_has_one_set_and_one_that_goes_back_has_the_stable_routes() -> None:
    done = Rollout(SHOP, 2, 1, workers=(WorkerRollout("web", "canary", Stage.DONE),), ended_at=5.0)
    view = replace(view_of(order(0)), rollouts={SHOP: done})
    assert two_sets(view, SHOP, "web") is None
    assert wanted(view, frozenset(), {})[KEY].weights == (("stable", 100),)
    without = replace(revision(2), spec=replace(revision(2).spec, routes=()))
    back = replace(view_of(order(0), revisions=[revision(), without]), rollouts=rolling("canary", failed_at=5.0))
    assert KEY in wanted(back, frozenset(), {})
    assert KEY not in wanted(replace(back, rollouts=rolling("canary")), frozenset(), {})


@pytest.mark.parametrize(
    ("percent", "old", "new", "expected"),
    [
        (0, 2, 1, ((100, 100), (0,))),
        (100, 2, 1, ((0, 0), (100,))),
        (50, 1, 1, ((256,), (256,))),
        (10, 3, 1, ((255, 255, 255), (85,))),
        (25, 3, 1, ((256, 256, 256), (256,))),
        (1, 1, 1, ((198,), (2,))),
        (99, 1, 1, ((2,), (198,))),
        (20, 4, 2, ((256, 256, 256, 256), (128, 128))),
        (99, 100, 1, ((1, 1, *[0] * 98), (198,))),
        (1, 1, 300, ((198,), (1, 1, *[0] * 298))),
        (30, 0, 2, ((), (100, 100))),
        (30, 2, 0, ((100, 100), ())),
        (0, 0, 2, ((), (0, 0))),
    ],
)
def test_weights_of_two_sets(percent: int, old: int, new: int, expected: Any) -> None:
    assert server_weights(percent, old, new) == expected


@given(st.integers(0, 100), st.integers(1, 400), st.integers(1, 400))
def test_the_share_is_exact_and_every_weight_is_one_that_haproxy_knows(percent: int, old: int, new: int) -> None:
    old_weights, new_weights = server_weights(percent, old, new)
    assert (len(old_weights), len(new_weights)) == (old, new)
    assert all(0 <= weight <= WEIGHT_LIMIT for weight in (*old_weights, *new_weights))
    assert Fraction(sum(new_weights), sum(old_weights) + sum(new_weights)) == Fraction(percent, 100)
    assert all(max(group) - min(group) <= 1 for group in (old_weights, new_weights))


STATES = st.sampled_from([State.RUNNING, State.RUNNING, State.RUNNING, State.STARTING, State.STOPPING, State.STOPPED])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[ClusterView, frozenset[InstanceId], int]:
    """Return a view with up to eight slots in two sets, what leaves, and a percent."""
    orders: list[Assignment] = []
    statuses: list[InstanceStatus] = []
    for number in draw(st.sets(st.sampled_from([0, 1, 2, 3, 100, 101, 102, 103]))):
        one = order(number, draw(st.sampled_from(["a", "b", "lost", "left", "unknown"])), epoch=draw(st.integers(4, 6)))
        one = replace(one, is_stopped=draw(st.booleans()) and draw(st.booleans()))
        orders.append(one)
        if draw(st.integers(0, 4)):
            status = make_status(one, draw(STATES), epoch=5, is_ready=draw(st.booleans()))
            statuses.append(replace(status, spec_hash=draw(st.sampled_from(["s1", "s1", "s2"]))))
    view = view_of(*orders, statuses=statuses, revisions=[revision(), revision(2)])
    if draw(st.booleans()):
        view = replace(view, rollouts=rolling(draw(st.sampled_from(["canary", "blue-green"]))))
    leaving = draw(st.sets(st.sampled_from([one.instance for one in orders]))) if orders else set()
    return view, frozenset(leaving), draw(st.integers(0, 100))


@given(clusters())
def test_nothing_is_wanted_that_is_not_ready_or_leaves(made: tuple[ClusterView, frozenset[InstanceId], int]) -> None:
    view, leaving, percent = made
    route = wanted(view, leaving, {(SHOP, "web"): percent})[KEY]
    for endpoint in route.endpoints:
        assignment = view.assignments[endpoint.instance]
        status = view.statuses[endpoint.instance, assignment.node]
        assert endpoint.instance not in leaving
        assert status.is_ready
        assert status.state is State.RUNNING
        assert not assignment.is_stopped
        assert status.epoch == assignment.epoch or status.spec_hash == assignment.spec_hash
    assert sum(share for _, share in route.weights) == 100
    assert len(servers(route.endpoints, route.weights)) == len(route.endpoints)


@given(clusters(), clusters(), st.booleans(), st.floats(0, 100))
def test_an_instance_that_may_get_requests_is_always_in_the_record(
    first: tuple[ClusterView, frozenset[InstanceId], int],
    second: tuple[ClusterView, frozenset[InstanceId], int],
    takes: bool,
    now_s: float,
) -> None:
    """Whatever was registered stays in the record until a change without it was confirmed, or all its time is over."""
    before = wanted(first[0], first[1], {})[KEY]
    state = confirmed(announced(RouteState(SHOP, "web"), before), before, None, ())
    assert is_settled(state, before)
    after = wanted(second[0], second[1], {})[KEY]
    state = announced(state, after)
    members = {endpoint.instance for endpoint in (*before.endpoints, *after.endpoints)}
    assert {endpoint.instance for endpoint in state.endpoints} == members
    asked = dict.fromkeys(departing(state, after), 0.0)
    cut = cut_off(after, asked, asked, now_s)
    done = confirmed(state, after, None, cut) if takes else refused(state, after, "no answer", asked, now_s)
    for one in asked:
        view = replace(second[0], routes={KEY: done})
        limit_s = after.spec.drain_s + (0 if takes else GIVE_UP_S)
        assert (one not in registered(view).get(one.app_id, ())) == (one not in after.alive or now_s >= limit_s)
    assert {endpoint.instance for endpoint in after.endpoints} <= {one.instance for one in done.endpoints}


def test_a_provider_that_sees_sessions_lets_an_idle_instance_go_at_once() -> None:
    before = wanted(view_of(order(0), order(1)), frozenset(), {})[KEY]
    state = confirmed(announced(RouteState(SHOP, "web"), before), before, (), ())
    after = wanted(view_of(order(0), order(1)), frozenset({slot("web", 0)}), {})[KEY]
    assert confirmed(state, after, {slot("web", 0)}, ()).leaving == (slot("web", 0),)
    assert confirmed(state, after, (), ()).leaving == ()
    assert confirmed(state, after, {slot("web", 0)}, {slot("web", 0)}).leaving == ()


def test_a_plan_takes_away_what_it_says_and_what_its_own_actions_end() -> None:
    view = view_of(order(0), order(1), order(2))
    plan = Plan(
        (
            DropAssignment(slot("web", 2), 5, "scaled"),
            PutAssignment(replace(order(1), epoch=101, spec_hash="s2"), 5, "new revision"),
            PutAssignment(replace(order(0), epoch=101, revision=2), 5, "the same process"),
        ),
        leaving=frozenset({slot("db", 0)}),
    )
    assert leaving_of(plan, view) == {slot("db", 0), slot("web", 1), slot("web", 2)}


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        (None, WebhookProvider("http://a/"), ()),
        (WebhookProvider("http://a/"), WebhookProvider("http://a/"), ()),
        (WebhookProvider("http://a/"), None, (WebhookProvider("http://a/"),)),
        (TemplateProvider("x", "/a"), TemplateProvider("x", "/b"), (TemplateProvider("x", "/a"),)),
        (TemplateProvider("x", "/a"), TemplateProvider("y", "/a"), ()),
        (HaproxyProvider(("/s",), "b", "p"), HaproxyProvider(("/s", "/t"), "b"), (HaproxyProvider(("/s",), "p"),)),
        (HaproxyProvider(("/s",), "b"), HaproxyProvider(("/t",), "b"), (HaproxyProvider(("/s",), "b"),)),
    ],
)
def test_what_an_earlier_provider_keeps_is_cleared(old: Provider | None, new: Provider | None, left: Any) -> None:
    assert remnants(old, new) == left
