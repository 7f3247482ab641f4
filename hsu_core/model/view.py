"""The immutable snapshot that planners read, and the plan they return. Pure.

`ClusterView` is what the leader keeps by watching the store. Planners of `hsu_cluster.planning`
take it (with the time as an argument) and return a `Plan`; the leader's shell applies it in fenced
transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import NodeIntent, NodeRecord


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Desired and observed state at one store `revision`.

    `revisions` holds the current revision of each app (and older ones still referred to by an assignment),
    keyed by (app, number). `statuses` is keyed by (instance, node): during a move there can be two.
    `held` and `unreadable_nodes`: apps and nodes of which a record is there that this release cannot read
    (damaged, or of a newer release): absent from the maps, and not to be taken for removed.
    """

    revision: int
    apps: Mapping[AppId, AppRecord]
    revisions: Mapping[tuple[AppId, int], Revision]
    assignments: Mapping[InstanceId, Assignment]
    statuses: Mapping[tuple[InstanceId, str], InstanceStatus]
    nodes: Mapping[str, NodeRecord]
    node_intents: Mapping[str, NodeIntent]
    held: frozenset[AppId] = frozenset()
    unreadable_nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PutAssignment:
    """Write this assignment; `previous_epoch` 0: the slot has none now."""

    assignment: Assignment
    previous_epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class DropAssignment:
    """Delete the slot's assignment: its agent stops the process."""

    instance: InstanceId
    previous_epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class DropStatus:
    """Forget a status that no longer means anything (its node was removed, its instance is gone)."""

    instance: InstanceId
    node: str
    why: str


Action = PutAssignment | DropAssignment | DropStatus


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that is not done now, with the reason (`code` stable, `text` for people)."""

    subject: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now and what is waited for; `retry_at_s` when time alone may change the answer (None: never)."""

    actions: tuple[Action, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    retry_at_s: float | None = None
    unplaced: Mapping[InstanceId, str] = field(default_factory=dict)
    """For each slot without a node: the sentence with the reason per filter."""
