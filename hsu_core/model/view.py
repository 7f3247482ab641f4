"""The immutable snapshot that planners read, and the plan they return. Pure.

`ClusterView` is what the leader keeps by watching the store. Planners of `hsu_cluster.planning`
take it (with the time as an argument) and return a `Plan`; the leader's shell applies it in fenced
transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hsu_core.model.analysis import AnalysisRun
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import DEFAULT_TIMES, NodeIntent, NodeRecord, NodeTimes
from hsu_core.model.rebalance import DEFAULT_RULES, Rebalance, RebalanceIntent, RebalanceRules
from hsu_core.model.rollout import Rollout
from hsu_core.model.routes import RouteState


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Desired and observed state at one store `revision`.

    `revisions` holds the current revision of each app (and older ones still referred to by an assignment),
    keyed by (app, number). `statuses` is keyed by (instance, node): during a move there can be two.
    `runs` are keyed by (app, run id), `routes` by (app, name of the route).
    `held` and `unreadable_nodes`: apps and nodes of which a record is there that this release cannot read
    (damaged, or of a newer release): absent from the maps, and not to be taken for removed.
    `times` and `rebalance_rules`: what the masters' settings say.
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
    rollouts: Mapping[AppId, Rollout] = field(default_factory=dict)
    runs: Mapping[tuple[AppId, str], AnalysisRun] = field(default_factory=dict)
    routes: Mapping[tuple[AppId, str], RouteState] = field(default_factory=dict)
    times: NodeTimes = DEFAULT_TIMES
    rebalance_intent: RebalanceIntent | None = None
    rebalance: Rebalance | None = None
    rebalance_rules: RebalanceRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class PutAssignment:
    """Write this assignment; `previous_epoch` 0: the slot has none now. `forced_off`: the node it must leave.

    `code`: of the event that tells of it.
    """

    assignment: Assignment
    previous_epoch: int
    why: str
    forced_off: str = ""
    code: str = "Assigned"


@dataclass(frozen=True, slots=True)
class DropAssignment:
    """Delete the slot's assignment: its agent stops the process. `forced_off`: the node it must leave."""

    instance: InstanceId
    previous_epoch: int
    why: str
    forced_off: str = ""


@dataclass(frozen=True, slots=True)
class DropStatus:
    """Forget a status that no longer means anything (its node was removed, its instance is gone)."""

    instance: InstanceId
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class PutRollout:
    """Write how far a rollout is; `events` are (code, text) of what people are to be told of it."""

    rollout: Rollout
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DropRollout:
    """Forget the rollout of an app that was removed."""

    app: AppId


@dataclass(frozen=True, slots=True)
class PutRun:
    """Begin an analysis run, or tell it that no more of it is needed."""

    run: AnalysisRun


@dataclass(frozen=True, slots=True)
class DropRun:
    """Forget an analysis run of an earlier rollout."""

    app: AppId
    id: str


@dataclass(frozen=True, slots=True)
class PutRebalance:
    """Write how far the rebalance is; `events` are (code, text) of what people are to be told of it."""

    rebalance: Rebalance
    events: tuple[tuple[str, str], ...] = ()


Action = PutAssignment | DropAssignment | DropStatus | PutRollout | DropRollout | PutRun | DropRun | PutRebalance


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
    leaving: frozenset[InstanceId] = frozenset()
    """Instances that have to be out of the routes before they are stopped."""
    weights: Mapping[tuple[AppId, str], int] = field(default_factory=dict)
    """For each (app, worker) with two sets: the percent of the traffic that the new one is to have now."""
