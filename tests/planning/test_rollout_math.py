"""The arithmetic of rollouts, by the tables of those that we follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_cluster.planning.rollout_math import (
    canary_counts,
    fenceposts,
    other_base,
    proportional,
    routed_canary_count,
)
from hsu_core.model.spec import RolloutSpec


def _rule(surge: int | str, unavailable: int | str) -> RolloutSpec:
    return RolloutSpec(
        max_surge=int(str(surge).rstrip("%")),
        is_max_surge_percent=isinstance(surge, str),
        max_unavailable=int(str(unavailable).rstrip("%")),
        is_max_unavailable_percent=isinstance(unavailable, str),
    )


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("25%", "25%", 4, (1, 1)),
        ("25%", "25%", 1, (1, 0)),
        ("25%", "25%", 10, (3, 2)),  # surge rounds up, unavailable down
        ("25%", "25%", 0, (0, 0)),
        (0, 0, 5, (0, 1)),  # both 0: one may be unavailable, or nothing could ever move
        ("0%", "10%", 5, (0, 1)),
        ("0%", "10%", 20, (0, 2)),
        (3, 0, 2, (3, 0)),
        (0, 9, 4, (0, 4)),  # unavailable is capped at the replicas
        ("100%", "100%", 3, (3, 3)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    surge: int | str, unavailable: int | str, replicas: int, expected: tuple[int, int]
) -> None:
    assert fenceposts(_rule(surge, unavailable), replicas) == expected


@pytest.mark.parametrize(
    ("replicas", "weight", "surge", "expected"),
    [
        # rows of the table that Argo Rollouts tests approximateWeightedCanaryStableReplicaCounts with
        (10, 0, 1, (0, 10)),
        (10, 1, 1, (1, 10)),
        (10, 18, 1, (2, 9)),
        (10, 19, 1, (2, 9)),
        (10, 20, 1, (2, 8)),
        (10, 23, 1, (2, 8)),
        (10, 24, 1, (3, 8)),
        (10, 25, 1, (3, 8)),
        (10, 99, 1, (10, 1)),
        (10, 100, 1, (10, 0)),
        (5, 1, 1, (1, 5)),
        (5, 20, 1, (1, 4)),
        (5, 25, 1, (1, 3 + 1)),
        (5, 50, 1, (3, 3)),
        # without surge: one canary and one stable at least
        (10, 1, 0, (1, 9)),
        (10, 99, 0, (9, 1)),
        (10, 25, 0, (3, 7)),  # a tie rounds up
        (4, 50, 0, (2, 2)),
        (2, 50, 0, (1, 1)),
        (1, 50, 1, (1, 1)),  # one instance: the canary comes beside it
        (1, 0, 1, (0, 1)),
        (1, 100, 1, (1, 0)),
        (0, 50, 1, (0, 0)),
    ],
)
def test_weight_becomes_the_nearest_counts(replicas: int, weight: int, surge: int, expected: tuple[int, int]) -> None:
    assert canary_counts(replicas, weight, surge) == expected


@given(st.integers(1, 200), st.integers(0, 100), st.integers(0, 5))
def test_canary_counts_keep_to_the_replicas_and_the_rules(replicas: int, weight: int, surge: int) -> None:
    canary, stable = canary_counts(replicas, weight, surge)
    assert replicas <= canary + stable <= replicas + min(1, surge)
    if weight in (0, 100):
        assert (canary, stable) == ((0, replicas) if weight == 0 else (replicas, 0))
    elif replicas > 1 or surge:
        assert canary >= 1
        assert stable >= 1


@pytest.mark.parametrize(
    ("replicas", "weight", "expected"), [(10, 25, 3), (10, 1, 1), (10, 0, 0), (3, 100, 3), (4, 50, 2)]
)
def test_a_router_needs_only_the_canaries_for_its_weight(replicas: int, weight: int, expected: int) -> None:
    assert routed_canary_count(replicas, weight) == expected


@pytest.mark.parametrize(
    ("sets", "total", "expected"),
    [
        ({1: 10}, 12, {1: 12}),
        ({1: 5, 2: 5}, 12, {1: 6, 2: 6}),
        ({1: 8, 2: 2}, 5, {1: 4, 2: 1}),
        ({1: 7, 2: 3}, 20, {1: 14, 2: 6}),
        ({1: 1, 2: 1}, 3, {1: 1, 2: 2}),  # a tie on the way up: the newer set takes it
        ({1: 2, 2: 2}, 3, {1: 1, 2: 2}),  # a tie on the way down: the older set gives it
        ({1: 5, 2: 1}, 0, {1: 0, 2: 0}),
        ({1: 0, 2: 0}, 4, {1: 0, 2: 0}),
    ],
)
def test_scaling_in_mid_rollout_is_proportional(sets: dict[int, int], total: int, expected: dict[int, int]) -> None:
    assert proportional(sets, total) == expected


@given(st.dictionaries(st.integers(1, 9), st.integers(0, 50), min_size=1, max_size=4), st.integers(0, 300))
def test_shares_add_up_and_none_moves_against_the_scale(sets: dict[int, int], total: int) -> None:
    shares = proportional(sets, total)
    present = sum(sets.values())
    assert sum(shares.values()) == (total if present else 0)
    for revision, share in shares.items():
        assert share >= 0
        if present and total >= present:
            assert share >= sets[revision]
        elif present:
            assert share <= sets[revision]


@given(st.integers(0, 20), st.integers(0, 2000))
def test_two_sets_have_room_to_double(hundreds: int, replicas: int) -> None:
    base = hundreds * 100
    other = other_base(base, replicas)
    first, second = range(base, base + 2 * replicas), range(other, other + 2 * replicas)
    assert other != base
    assert other % 100 == 0
    assert not (first and second) or max(first[0], second[0]) > min(first[-1], second[-1])
