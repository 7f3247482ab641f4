"""The times of `guarantee: strict`: a node's own lease ends before its leader gives the node up. Pure.

A leader calls a node lost when it has been silent for `ttl`. The node kills its strict workers earlier than that: its
lease counts from when it SENT the newest beat that a leader acknowledged, so it began before the leader heard of it.
"""

from __future__ import annotations

KILL_BUDGET_S = 1.0
"""Time from the end of the lease until the last strict process is gone; measured below 50 ms, more under load."""

MARGIN_S = 1.0
"""What clocks of two hosts may differ in pace over one lease (0.1 % are 8 ms), with much to spare."""

CALL_TIMEOUT_S = 2.0
"""Time granted to a beat and its acknowledgement; one of them may be lost before the lease is in danger."""

SHARE = 8
"""Of a shorter TTL, budget and margin take an eighth each at most, a call twice that."""


def kill_budget_s(ttl_s: float) -> float:
    """Return the time kept for the kill, in seconds."""
    return min(KILL_BUDGET_S, ttl_s / SHARE)


def margin_s(ttl_s: float) -> float:
    """Return the time kept for what clocks may differ, in seconds."""
    return min(MARGIN_S, ttl_s / SHARE)


def call_timeout_s(ttl_s: float) -> float:
    """Return the time granted to one beat and its answer, in seconds."""
    return min(CALL_TIMEOUT_S, 2 * ttl_s / SHARE)


def lease_s(ttl_s: float) -> float:
    """Return how long a node's lease lasts from the send time of an acknowledged beat, in seconds."""
    return ttl_s - kill_budget_s(ttl_s) - margin_s(ttl_s)


def shortest_ttl_s(beat_s: float) -> float:
    """Return the shortest TTL of a node that beats so often: one beat, two calls, the kill and the margin fit in.

    `beat + 2 * call + budget + margin <= ttl`; for a TTL below 8 s that is a quarter of it.
    """
    short_s = beat_s * SHARE / (SHARE - 6)
    return short_s if short_s <= KILL_BUDGET_S * SHARE else beat_s + 2 * CALL_TIMEOUT_S + KILL_BUDGET_S + MARGIN_S
