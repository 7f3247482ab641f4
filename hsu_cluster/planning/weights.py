"""Whole weights of servers so that two sets share traffic exactly as asked. Pure."""

from __future__ import annotations

from functools import lru_cache
from math import gcd, lcm

WEIGHT_LIMIT = 256
"""Highest weight of a server that HAProxy knows; others take more."""

EVEN_WEIGHT = 100
"""Weight of each server where there is one set only: small changes stay possible in both directions."""


@lru_cache(maxsize=4096)
def server_weights(percent: int, old: int, new: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the weights (0..256) of `old` and `new` servers so that the new ones have `percent` of the sum.

    The share is exact for every percent and every number of servers; within a set weights differ by 1 at most, and
    they do not differ at all where 256 leaves room for that. With one set empty the other has all the traffic, unless
    its share is none: then all its weights are 0.
    """
    if not 0 <= percent <= 100 or old < 0 or new < 0:
        raise ValueError(f"no share: {percent} % with {old} and {new} servers")
    if not old or not new or percent in (0, 100):
        return (0 if percent == 100 else EVEN_WEIGHT,) * old, (0 if percent == 0 else EVEN_WEIGHT,) * new
    common = gcd(percent, 100)
    new_part, old_part = percent // common, (100 - percent) // common
    most = min(WEIGHT_LIMIT * new // new_part, WEIGHT_LIMIT * old // old_part)
    even = lcm(new // gcd(new, new_part), old // gcd(old, old_part))
    times = most // even * even or most
    return _spread(old_part * times, old), _spread(new_part * times, new)


def _spread(total: int, servers: int) -> tuple[int, ...]:
    """Return `total` over so many servers, as evenly as whole numbers allow."""
    each, rest = divmod(total, servers)
    return (each + 1,) * rest + (each,) * (servers - rest)
