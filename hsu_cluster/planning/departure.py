"""Why an instance leaves a node that lives: people drain it, or it moves to one that is less full. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.node import NodeIntent


@dataclass(frozen=True, slots=True)
class Departure:
    """Why an instance leaves its node. `forced_why`: why the floor does not count any more (empty: it does).

    `deadline_at`: when that begins by time, in seconds since 1970 (None: never, or it has begun). `to`: the one node
    that it moves to ("": any); then nothing is wrong with its own, and it stays if that cannot be.
    """

    why: str
    forced_why: str = ""
    deadline_at: float | None = None
    to: str = ""


def departure_of(intent: NodeIntent, now_s: float) -> Departure | None:
    """Return why the instances of a node leave it, None when nobody drains it."""
    if not intent.is_draining:
        return None
    why, deadline_at = f"node {intent.name} is draining", intent.drain_deadline_at
    if intent.is_drain_forced:
        return Departure(why, f"node {intent.name} is drained by force")
    if deadline_at is not None and deadline_at <= now_s:
        return Departure(why, f"the deadline of the drain of node {intent.name} is over")
    return Departure(why, deadline_at=deadline_at)
