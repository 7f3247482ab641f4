"""Documents about nodes: drains and rebalances, and what they would do."""

from __future__ import annotations

from typing import TypedDict


class DrainDocument(TypedDict):
    """How far a drain is. `assigned`: instances still to leave; `stopping`: others whose processes have not ended yet.

    `deadline_at`: when the rest is taken off whatever stays ready (null: never); `forced`: that this is so now.
    `waits`: why those that are left have not gone yet, a sentence each.
    """

    assigned: int
    stopping: int
    deadline_at: float | None
    forced: bool
    waits: list[str]


class DrainBody(TypedDict, total=False):
    """Body of a drain. `deadline`: seconds from now after which the floor counts no more; `force`: at once.

    `cancel`: nothing more leaves the node; it stays cordoned.
    """

    deadline: float
    force: bool
    cancel: bool


class DrainMoveDocument(TypedDict):
    """One instance of the node: whether it would leave, where it would be then (null: nowhere), and why not."""

    id: str
    namespace: str
    leaves: bool
    node: str | None
    reason: str


class DrainWorkerDocument(TypedDict):
    """A worker with instances there: how many are ready, and the fewest that would be while they move."""

    id: str
    namespace: str
    ready: int
    lowest_ready: int


class DrainPlanDocument(TypedDict):
    """What a drain of the node would do, if nothing else happened."""

    node: str
    instances: list[DrainMoveDocument]
    workers: list[DrainWorkerDocument]
    revision: int


class MoveDocument(TypedDict):
    """One instance that moves to another node; `reason`: what that makes better. `state`: pending, done, skipped."""

    id: str
    namespace: str
    source: str
    target: str
    reason: str
    state: str


class NodeLoadDocument(TypedDict):
    """How many instances a node has before and after the moves."""

    node: str
    before: int
    after: int


class RebalancePlanDocument(TypedDict):
    """What a rebalance would do now: its moves in their order, and what becomes of the nodes they touch."""

    moves: list[MoveDocument]
    nodes: list[NodeLoadDocument]
    revision: int


class RebalanceDocument(TypedDict):
    """How far the last rebalance is. `phase`: Idle (there was none), Requested, Moving, Done or Cancelled.

    `moves` are those on the way now, `moved` and `skipped` count all of it. `max_moves` 0: no limit.
    """

    id: str
    phase: str
    text: str
    automatic: bool
    max_moves: int
    moved: int
    skipped: int
    moves: list[MoveDocument]
    started_at: float | None
    ended_at: float | None
    revision: int


class RebalanceBody(TypedDict, total=False):
    """Body of a rebalance: at most so many moves (1 to 10,000; absent: as many as make it better)."""

    max_moves: int
