"""Moves between nodes that make the load more even: what people ask, and how far it is. Pure.

People's wish is written by the API, the record by the leader alone: a new leader goes on from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsu_core.model.ids import InstanceId


class MoveState(StrEnum):
    """What has become of a move."""

    PENDING = "pending"  # still on its old node, or not available on the new one
    DONE = "done"
    SKIPPED = "skipped"  # no longer possible, or not done in time


class RebalancePhase(StrEnum):
    """How far a rebalance is."""

    MOVING = "Moving"
    DONE = "Done"  # nothing would be better by a clear margin, or all moves that were allowed are over
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class Move:
    """One instance from node `source` to node `target`; `why` is what it makes better."""

    instance: InstanceId
    source: str
    target: str
    why: str = ""
    state: MoveState = MoveState.PENDING


@dataclass(frozen=True, slots=True)
class RebalanceIntent:
    """What somebody asked. `max_moves` 0: as many as make it better."""

    id: str
    max_moves: int = 0
    is_cancelled: bool = False
    requested_at: float = 0.0
    requested_by: str = ""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """How far the last rebalance is. `moves` are those of the present batch, begun at `batch_at`.

    `moved` and `skipped` count the batches before; `left_alone` are the instances whose move was skipped: they are not
    tried again. `considered_at`: the newest join or return of a node that it has taken into account.
    """

    id: str
    phase: RebalancePhase = RebalancePhase.MOVING
    max_moves: int = 0
    is_automatic: bool = False
    moves: tuple[Move, ...] = ()
    moved: int = 0
    left_alone: tuple[InstanceId, ...] = ()
    started_at: float = 0.0
    batch_at: float = 0.0
    ended_at: float | None = None
    considered_at: float = 0.0
    text: str = ""

    @property
    def is_active(self) -> bool:
        """Return whether it goes on."""
        return self.phase is RebalancePhase.MOVING


@dataclass(frozen=True, slots=True)
class RebalanceRules:
    """What the masters' settings say of the automatic one: at most `max_moves` begin per `interval_s`."""

    is_automatic: bool = False
    max_moves: int = 2
    interval_s: float = 60.0


DEFAULT_RULES = RebalanceRules()
