"""Silence, mass loss and returns of nodes: what is decided from times alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.failover import (
    COOLDOWN_CEILING_S,
    FLAP_MEMORY_S,
    NodeVerdicts,
    cooling_until_s,
    is_mass_loss,
    judge_nodes,
    mass_loss,
    returned,
)
from hsu_core.model.node import NodeRecord, NodeState, NodeTimes
from tests.support.builders import make_node

TIMES = NodeTimes(beat_s=2.0, suspect_s=7.5, ttl_s=15.0, cooldown_s=30.0)
EIGHT = NodeTimes()


def _nodes(names: str) -> dict[str, NodeRecord]:
    return {name: make_node(name) for name in names}


def _lost(name: str, at_s: float) -> NodeRecord:
    return replace(make_node(name, state=NodeState.LOST), changed_at=at_s, lost_at=at_s)


# --- silence -------------------------------------------------------------------------------------


def test_a_node_is_lost_after_a_silent_ttl_and_the_next_check_is_known() -> None:
    nodes = _nodes("abc") | {"d": make_node("d", state=NodeState.LOST)}
    seen_s = {"a": 104.0, "b": 95.0, "c": 103.0, "d": 0.0}
    assert judge_nodes(nodes, seen_s, 0.0, 110.0, TIMES) == NodeVerdicts(("b",), (), 118.0)


def test_a_node_is_suspect_before_it_is_lost() -> None:
    nodes = _nodes("ab")
    assert judge_nodes(nodes, {"a": 0.0, "b": 3.0}, 0.0, 3.9, EIGHT).suspects == ()
    assert judge_nodes(nodes, {"a": 0.0, "b": 3.0}, 0.0, 4.0, EIGHT) == NodeVerdicts((), ("a",), 8.0)
    assert judge_nodes(nodes, {"a": 7.0, "b": 7.5}, 0.0, 7.9, EIGHT).suspects == ()


def test_a_new_leader_waits_one_ttl_before_it_declares_anybody_lost() -> None:
    nodes = _nodes("ab")
    assert judge_nodes(nodes, {"a": 1.0}, 100.0, 114.9, TIMES).lost == ()
    assert judge_nodes(nodes, {"a": 1.0}, 100.0, 115.0, TIMES) == NodeVerdicts(("a", "b"))


def test_a_node_that_left_is_lost_after_its_ttl_too() -> None:
    nodes = {"a": make_node("a", state=NodeState.LEFT)}
    assert judge_nodes(nodes, {"a": 50.0}, 0.0, 65.0, TIMES).lost == ("a",)


def test_nodes_that_fall_silent_together_are_judged_together() -> None:
    nodes = _nodes("abcdefghij")
    heard = {name: float(number) / 10 for number, name in enumerate(nodes)}
    found = judge_nodes(nodes, heard, 0.0, 8.0, EIGHT)
    assert (found.lost, found.suspects) == ((), tuple(nodes))
    assert judge_nodes(nodes, heard, 0.0, 9.0, EIGHT).lost == tuple(nodes)
    heard = {**dict.fromkeys(nodes, 7.9), "a": 0.0}
    assert judge_nodes(nodes, heard, 0.0, 8.0, EIGHT).lost == ("a",)


def test_a_lost_node_does_not_wait_for_suspects_without_end() -> None:
    nodes = _nodes("abcd")
    heard = {"a": 0.0, "b": 7.0, "c": 7.0, "d": 11.0}
    assert judge_nodes(nodes, heard, 0.0, 11.9, EIGHT).lost == ()
    assert judge_nodes(nodes, heard, 0.0, 12.0, EIGHT).lost == ("a",), "b and c did not fall silent with it"


@settings(max_examples=200, deadline=None)
@given(
    heard=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=12),
    since_s=st.floats(0.0, 20.0),
    now_s=st.floats(0.0, 60.0),
)
def test_nobody_is_lost_early_and_everybody_is_in_the_end(heard: list[float], since_s: float, now_s: float) -> None:
    nodes = {f"n{number}": make_node(f"n{number}") for number in range(len(heard))}
    seen = {name: value for name, value in zip(nodes, heard, strict=True) if value <= now_s}
    found = judge_nodes(nodes, seen, min(since_s, now_s), now_s, EIGHT)
    silent_s = {name: now_s - max(seen.get(name, since_s), min(since_s, now_s)) for name in nodes}
    assert all(silent_s[name] >= EIGHT.ttl_s - 1e-6 for name in found.lost)
    assert all(silent_s[name] >= EIGHT.suspect_s - 1e-6 for name in found.suspects)
    assert not set(found.lost) & set(found.suspects)
    late_s = 2 * EIGHT.ttl_s - EIGHT.suspect_s
    due = [name for name in nodes if silent_s[name] >= late_s + 1e-6]
    assert set(due) <= set(found.lost) or not due


# --- mass loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "total", "is_mass"),
    [(2, 2, False), (2, 6, False), (3, 3, True), (3, 9, True), (3, 10, False), (4, 10, True), (30, 100, False)],
)
def test_the_brake_is_for_more_than_thirty_percent_and_at_least_three(lost: int, total: int, is_mass: bool) -> None:
    assert is_mass_loss(lost, total) is is_mass
    nodes = _nodes("") | {f"n{number}": make_node(f"n{number}") for number in range(total)}
    nodes |= {f"n{number}": _lost(f"n{number}", 100.0) for number in range(lost)}
    assert len(mass_loss(nodes, 101.0, 8.0).nodes) == (lost if is_mass else 0)


def test_hosts_that_died_one_by_one_are_no_mass_loss() -> None:
    nodes = _nodes("defghij") | {"a": _lost("a", 100.0), "b": _lost("b", 200.0), "c": _lost("c", 300.0)}
    nodes |= {"d": _lost("d", 400.0)}
    assert mass_loss(nodes, 401.0, 8.0).nodes == frozenset()


def test_hosts_lost_long_before_do_not_count_as_living_ones() -> None:
    nodes = _nodes("defghij") | {name: _lost(name, 100.0 * number) for number, name in enumerate("abcklmn", 1)}
    nodes |= {name: _lost(name, 5000.0) for name in "def"}
    found = mass_loss(nodes, 5001.0, 8.0)
    assert (found.nodes, found.count, found.total) == (frozenset("def"), 3, 7)
    assert "3 of 7 nodes were lost together, more than 30 %" in found.text


def test_when_a_network_heals_the_brake_waits_for_the_others() -> None:
    nodes = _nodes("defghij") | {name: _lost(name, 100.0) for name in "abcd"}
    assert mass_loss(nodes, 150.0, 8.0).nodes == frozenset("abcd")
    nodes["a"] = replace(nodes["a"], state=NodeState.READY, back_at=150.0)
    assert mass_loss(nodes, 151.0, 8.0).nodes == frozenset("bcd")
    assert mass_loss(nodes, 151.0, 8.0).until_s == 158.0
    assert mass_loss(nodes, 158.0, 8.0).nodes == frozenset(), "three of ten are no mass"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), st.booleans()), min_size=0, max_size=14), st.floats(0.5, 20.0))
def test_the_brake_holds_lost_nodes_only_and_never_fewer_than_three_fell(
    losses: list[tuple[float, bool]], ttl_s: float
) -> None:
    nodes = _nodes("uvwxyz")
    for number, (at_s, is_lost) in enumerate(losses):
        nodes[f"n{number}"] = _lost(f"n{number}", at_s) if is_lost else make_node(f"n{number}")
    found = mass_loss(nodes, 100.0, ttl_s)
    assert all(nodes[name].state is NodeState.LOST for name in found.nodes)
    if found.nodes:
        assert found.count >= 3
        assert 10 * found.count > 3 * found.total


# --- returns and cool-downs ----------------------------------------------------------------------


def _flap(node: NodeRecord, lost_at: float, back_at: float) -> NodeRecord:
    lost = replace(node, state=NodeState.LOST, changed_at=lost_at, lost_at=lost_at)
    return returned(replace(make_node(node.name), changed_at=back_at), lost, back_at)


def test_a_node_that_comes_back_cools_down_and_longer_each_time_it_flaps() -> None:
    node = make_node("a")
    assert cooling_until_s(node, 30.0) == 0.0
    lengths = []
    for number in range(8):
        at_s = 1000.0 + 100 * number
        node = _flap(node, at_s, at_s + 10)
        lengths.append(cooling_until_s(node, 30.0) - node.back_at)
    assert lengths == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]
    assert max(lengths) == COOLDOWN_CEILING_S


def test_a_node_that_held_for_long_is_as_good_as_new() -> None:
    node = _flap(_flap(make_node("a"), 100.0, 110.0), 150.0, 160.0)
    assert node.flaps == 2
    assert _flap(node, 160.0 + FLAP_MEMORY_S, 200.0 + FLAP_MEMORY_S).flaps == 1


def test_a_node_that_said_goodbye_does_not_cool_down_however_long_it_was_away() -> None:
    for state in (NodeState.LEFT, NodeState.LOST):  # it left, and was lost after its TTL: `lost_at` is not set then
        node = returned(make_node("a"), replace(make_node("a", state=state), changed_at=100.0), 200.0)
        assert cooling_until_s(node, 30.0) == 0.0


def test_a_registration_without_a_loss_keeps_what_is_known_of_earlier_ones() -> None:
    once = _flap(make_node("a"), 100.0, 110.0)
    again = returned(make_node("a"), once, 120.0)
    assert (again.lost_at, again.back_at, again.flaps) == (100.0, 110.0, 1)
    away = replace(once, state=NodeState.LOST, changed_at=130.0)  # a good-bye, and a TTL of silence
    assert returned(make_node("a"), away, 200.0).flaps == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(8.0, 2000.0), st.floats(0.1, 1000.0)), min_size=1, max_size=30))
def test_a_cool_down_is_bounded_and_never_shorter_than_asked(flaps: list[tuple[float, float]]) -> None:
    node, now_s = make_node("a"), 1000.0
    for up_s, down_s in flaps:
        node = _flap(node, now_s + up_s, now_s + up_s + down_s)
        now_s = node.back_at
        assert 30.0 - 1e-3 <= cooling_until_s(node, 30.0) - now_s <= COOLDOWN_CEILING_S + 1e-3
