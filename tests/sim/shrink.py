"""Makes a failing run small: takes away faults and requests, then rates of faults, while the same promise is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from tests.sim.options import Decision, Options

RUNS_LIMIT = 120
"""Most runs that one shrinking takes: about two minutes."""

RATES = ("slow", "lost_before", "lost_after", "refused", "spawn_failures")


def shrink(options: Options, still_fails: Callable[[Options], bool], runs_limit: int = RUNS_LIMIT) -> Options:
    """Return a smaller run of which `still_fails` is true (delta debugging over the list of decisions)."""
    left = runs_limit

    def fails(candidate: Options) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and still_fails(candidate)

    for rate in RATES:
        smaller = replace(options, **{rate: 0.0})
        if getattr(options, rate) and fails(smaller):
            options = smaller
    pieces = 2
    while options.decisions and left > 0:
        smaller = _without_a_piece(options, min(pieces, len(options.decisions)), fails)
        if smaller is not None:
            options, pieces = smaller, max(2, pieces - 1)
        elif pieces >= len(options.decisions):
            break
        else:
            pieces = min(2 * pieces, len(options.decisions))
    return options


def _without_a_piece(options: Options, pieces: int, fails: Callable[[Options], bool]) -> Options | None:
    count = len(options.decisions)
    bounds = [count * number // pieces for number in range(pieces + 1)]
    for low, high in pairwise(bounds):
        rest: tuple[Decision, ...] = options.decisions[:low] + options.decisions[high:]
        candidate = replace(options, decisions=rest)
        if fails(candidate):
            return candidate
    return None
