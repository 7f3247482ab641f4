"""Documents about nodes: drains and what they would do."""

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
