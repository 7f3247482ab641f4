"""Crashes before and after writes and actions, stale and missed events: the end is that of the undisturbed run.

A test run takes every eleventh point; `python -m tests.sim --sweep` takes all.
"""

from __future__ import annotations

import pytest

from tests.sim.sweep import SCRIPTS, disturbed, plan, reference

SHARE = 11
"""No divisor of the number of ways, so that each way has its turn."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_crash_at_any_point_changes_nothing_in_the_end(script: str) -> None:
    expected, points = reference(script)
    assert expected.violation is None, expected.report()
    assert len(points) > 20
    for at, way in plan(len(points), 0, SHARE):
        result = disturbed(script, at, way)
        assert result.violation is None, f"{way} {points[at]} (point {at}): {result.report()}"
        assert result.picture == expected.picture, f"{way} {points[at]} (point {at}): another end"
