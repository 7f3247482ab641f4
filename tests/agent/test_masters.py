"""Whom an agent dials next, and after what wait."""

from __future__ import annotations

import pytest

from hsu_agent.masters import (
    DOUBTED_S,
    HOPS_LIMIT,
    LASTING_S,
    RETRY_BASE_S,
    RETRY_CEILING_S,
    Masters,
    Outcome,
)

REFUSED = Outcome("refused", is_refused=True)
SILENT = Outcome("silent", is_silent=True)
FAILED = Outcome("HTTP 500")


@pytest.fixture
def masters() -> Masters:
    """Return three masters, without chance."""
    return Masters(["a", "b", "c"], lambda low, high: 0.0 if low == 0 else high)


def _cut(term: int, lasted_s: float = 0.1) -> Outcome:
    return Outcome("cut", lasted_s=lasted_s, term=term)


def test_masters_are_asked_in_turn_with_growing_waits(masters: Masters) -> None:
    assert [masters.next(0.0) for _ in range(4)] == ["a", "b", "c", "a"]
    waits = [masters.note("a", FAILED, 0.0) for _ in range(8)]
    assert waits[:3] == pytest.approx([RETRY_BASE_S, 2 * RETRY_BASE_S, 4 * RETRY_BASE_S])
    assert waits[-1] == RETRY_CEILING_S


def test_refusals_cost_a_wait_only_when_all_have_refused(masters: Masters) -> None:
    waits = [masters.note(masters.next(0.0), REFUSED, 0.0) for _ in range(6)]
    assert waits == pytest.approx([0.0, 0.0, RETRY_BASE_S, 0.0, 0.0, 2 * RETRY_BASE_S])
    alone = Masters(["a"], lambda low, high: high if low else 0.0)
    assert alone.note(alone.next(0.0), REFUSED, 0.0) == RETRY_BASE_S


def test_redirects_are_followed_at_once_but_not_for_ever(masters: Masters) -> None:
    for _ in range(HOPS_LIMIT):
        assert masters.note("a", Outcome("it does not lead", ("z",)), 0.0) == 0.0
        assert masters.next(0.0) == "z"
    assert masters.note("z", Outcome("it does not lead", ("z",)), 0.0) > 0.0
    assert masters.next(0.0) == "a"


def test_a_session_of_a_new_term_or_a_long_one_ends_the_growth(masters: Masters) -> None:
    waits = [masters.note("a", _cut(term), 0.0) for term in (5, 5, 5, 6, 6, 7)]
    grown = [RETRY_BASE_S * factor for factor in (1, 2, 4, 1, 2, 1)]
    assert waits == pytest.approx(grown)
    assert masters.note("a", _cut(7, LASTING_S), 0.0) == RETRY_BASE_S


def test_a_silent_master_is_asked_last_and_in_doubt_until_it_speaks_or_time_has_passed(masters: Masters) -> None:
    masters.note("a", SILENT, 100.0)
    assert masters.is_doubted("a", 101.0)
    assert [masters.next(101.0) for _ in range(4)] == ["b", "c", "b", "c"]
    masters.note("b", Outcome("it does not lead", ("a",)), 101.0)
    assert masters.next(101.0) == "a", "it may live again: it is dialled, with little patience"
    assert masters.is_doubted("a", 101.0)
    masters.note("a", _cut(9), 102.0)
    assert not masters.is_doubted("a", 102.0)
    masters.note("a", SILENT, 100.0)
    assert not masters.is_doubted("a", 100.0 + DOUBTED_S)
    for each in "abc":
        masters.note(each, SILENT, 200.0)
    assert masters.next(201.0) in "abc", "when all were silent they are asked all the same"
    assert [masters.patience_s(each, 201.0) for each in "abc"] == [None] * 3, "and with all patience"


def test_patience_with_a_master_in_doubt_grows_and_the_doubt_is_not_renewed_by_it(masters: Masters) -> None:
    assert masters.patience_s("a", 99.0) is None
    patience = []
    for second in range(3):
        masters.note("a", SILENT, 100.0 + second)
        patience.append(masters.patience_s("a", 100.0 + second))
    assert patience == [1.0, 2.0, 4.0]
    assert masters.patience_s("a", 100.0 + DOUBTED_S) is None
    alone = Masters(["a"], lambda low, high: high if low else 0.0)
    alone.note("a", SILENT, 100.0)
    assert alone.patience_s("a", 101.0) is None


def test_a_wait_that_was_asked_for_is_kept(masters: Masters) -> None:
    assert masters.note("a", Outcome("nobody leads", wait_s=1.0), 0.0) == 1.0
