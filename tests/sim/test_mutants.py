"""Planted faults are found: `python -m tests.sim --mutants` tells by which seed."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, SEEDS_LIMIT, find


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name: str) -> None:
    assert find(name) is not None, f"no seed below {SEEDS_LIMIT} finds it"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 12
