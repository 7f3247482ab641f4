"""The leader's view: everything under the root, listed once and then kept by watching.

Only `follow` changes it, between two awaits of the event loop; planners are synchronous, so a view
they are given does not change under them. It must not decide anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from hsu_core.model.analysis import AnalysisRun
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, Revision
from hsu_core.model.errors import Compacted, StoreError, StoreUnavailable
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.node import DEFAULT_TIMES, NodeIntent, NodeRecord, NodeTimes
from hsu_core.model.order import OrderSpec, spec_key
from hsu_core.model.rebalance import DEFAULT_RULES, Rebalance, RebalanceIntent, RebalanceRules
from hsu_core.model.records import ClusterRecord
from hsu_core.model.rollout import Rollout
from hsu_core.model.routes import RouteState
from hsu_core.model.view import ClusterView
from hsu_core.store.base import Entry, Resync, Store, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import Undecodable, decode, decode_plain, from_plain, to_plain

log = logging.getLogger(__name__)

REACH_TIMEOUT_S = 5.0
"""Longest wait for the watch to show a commit of ours: it takes milliseconds."""

KEPT = (
    "apps",
    "revisions",
    "assignments",
    "status",
    "nodes",
    "node-intents",
    "rollouts",
    "runs",
    "routes",
    "plan",
    "rebalance",
)
"""Families of keys that make up the view."""


class Changes:
    """What changed since the planner looked last."""

    def __init__(self) -> None:
        self.apps: set[AppId] = set()
        self.nodes: set[str] = set()
        self.ordered: set[str] = set()
        """Nodes whose orders may have changed."""
        self.is_everything = False

    def take(self) -> Changes:
        """Return what has gathered and start anew."""
        taken = Changes()
        taken.apps, taken.nodes, taken.is_everything = self.apps, self.nodes, self.is_everything
        self.apps, self.nodes, self.is_everything = set(), set(), False
        return taken

    def __bool__(self) -> bool:
        return bool(self.apps or self.nodes or self.is_everything)


class Snapshot:
    """Desired and observed state at `revision`, with an index of assignments by node."""

    def __init__(
        self,
        store: Store,
        on_change: Callable[[set[str]], None],
        times: NodeTimes = DEFAULT_TIMES,
        rules: RebalanceRules = DEFAULT_RULES,
    ) -> None:
        self.revision = 0
        self.plan_revision = 0
        """Store revision of the latest plan that the view holds, 0 before the first."""
        self._times = times
        self.changes = Changes()
        self.cluster: ClusterRecord | None = None
        """Who this cluster is; None: the store does not tell."""

        self.assignments_of: dict[str, dict[InstanceId, Assignment]] = defaultdict(dict)
        self._store = store
        self._on_change = on_change
        self._rules = rules
        self.replacements_of: dict[str, set[InstanceId]] = defaultdict(set)
        """For each node the instances that were placed elsewhere because it was lost."""
        self.statuses_of: dict[str, dict[InstanceId, InstanceStatus]] = defaultdict(dict)
        self.unreadable: set[str] = set()
        """Keys whose value this release cannot read: they are there, and nothing is done about them."""
        self._advanced = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self.cluster = None
        self._apps: dict[AppId, AppRecord] = {}
        self._revisions: dict[tuple[AppId, int], Revision] = {}
        self._plain_workers: dict[str, Any] = {}
        self._assignments: dict[InstanceId, Assignment] = {}
        self._statuses: dict[tuple[InstanceId, str], InstanceStatus] = {}
        self._nodes: dict[str, NodeRecord] = {}
        self._node_intents: dict[str, NodeIntent] = {}
        self._rollouts: dict[AppId, Rollout] = {}
        self._runs: dict[tuple[AppId, str], AnalysisRun] = {}
        self._routes: dict[tuple[AppId, str], RouteState] = {}
        self._rebalance_intent: RebalanceIntent | None = None
        self._rebalance: Rebalance | None = None
        self.assignments_of.clear()
        self.statuses_of.clear()
        self.replacements_of.clear()
        self.unreadable.clear()

    def view(self) -> ClusterView:
        """Return the view as of now; it holds until the next await."""
        return ClusterView(
            self.revision,
            self._apps,
            self._revisions,
            self._assignments,
            self._statuses,
            self._nodes,
            self._node_intents,
            held=frozenset(filter(None, map(_app_of, self.unreadable))),
            unreadable_nodes=frozenset(filter(None, map(_node_of, self.unreadable))),
            rollouts=self._rollouts,
            runs=self._runs,
            routes=self._routes,
            times=self._times,
            rebalance_intent=self._rebalance_intent,
            rebalance=self._rebalance,
            rebalance_rules=self._rules,
        )

    def order_spec(self, assignment: Assignment) -> tuple[str, Any]:
        """Return the key and plain tree of the specification an assignment refers to (tree None: not here).

        The worker's tree is the stored one, so that fields which this release does not know reach
        a newer agent.
        """
        app = assignment.instance.app_id
        revision = self._revisions.get((app, assignment.revision))
        key = spec_key(app, assignment.revision, assignment.instance.worker)
        worker = revision.spec.worker(assignment.instance.worker) if revision else None
        if revision is None or worker is None:
            return key, None
        tree = to_plain(OrderSpec(app, assignment.revision, worker, revision.spec.base_directory))
        tree["worker"] = self._plain_workers.get(key, tree["worker"])
        return key, tree

    async def load(self) -> None:
        """List everything at one revision. Raises StoreError."""
        while True:
            try:
                await self._load_once()
                return
            except Compacted:
                continue  # the list was overtaken by a compaction: take a newer revision

    async def _load_once(self) -> None:
        revision: int | None = None
        entries: list[Entry] = []
        for family in KEPT:
            prefix = keys.PLAN if family == "plan" else f"{keys.ROOT}{family}/"
            page = await range_all(self._store, prefix, revision=revision)
            revision = page.revision
            entries += page.entries
        identity = await self._store.range(keys.CLUSTER, limit=1, revision=revision)
        entries += [entry for entry in identity.entries if entry.key == keys.CLUSTER]
        self._clear()
        for entry in entries:
            self._put(entry)
        self.changes.is_everything = True
        self._advance(revision or 0)

    async def catch_up(self) -> None:
        """Wait until the view holds all that is committed now, a write of ours without an answer included.

        Raises StoreError.
        """
        await self.reach((await self._store.txn([], [])).revision)

    async def follow(self) -> None:
        """Keep the view up to date until cancelled; after a compaction list everything again."""
        while True:
            async with self._store.watch(keys.ROOT, after_revision=self.revision) as batches:
                async for batch in batches:
                    if isinstance(batch, Resync):
                        log.warning("the watch was compacted at revision %d; listing again", batch.compacted_revision)
                        break
                    for event in batch.events:
                        if event.is_delete:
                            self._delete(event.entry.key)
                        else:
                            self._put(event.entry)
                    self._advance(batch.revision)
                else:
                    raise StoreError("follow the store", "the watch ended by itself")
            await self.load()

    async def reach(self, revision: int) -> None:
        """Wait until the view holds everything up to `revision` (our own commit, for instance).

        Raises StoreUnavailable after REACH_TIMEOUT_S.
        """
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                while self.revision < revision:
                    await self._advanced.wait()
        except TimeoutError:
            raise StoreUnavailable(
                f"see revision {revision}", f"the watch is at {self.revision} and silent for {REACH_TIMEOUT_S:g} s"
            ) from None

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        self._advanced.set()
        self._advanced = asyncio.Event()
        if self.changes:
            ordered, self.changes.ordered = self.changes.ordered, set()
            self._on_change(ordered)

    def _put(self, entry: Entry) -> None:
        if entry.key == keys.PLAN:
            self.plan_revision = entry.mod_revision
            return
        try:
            self._apply(keys.parts(entry.key)[0], entry.value, entry.key)
            self.unreadable.discard(entry.key)
        except (Undecodable, ValueError) as error:
            log.error("store key %s holds what this version cannot read: %s", entry.key, error)
            self.unreadable.add(entry.key)
            self.changes.is_everything = True

    def _apply(self, family: str, value: bytes, key: str) -> None:
        if family == "assignments":
            self._put_assignment(decode(Assignment, value))
        elif family == "status":
            status = decode(InstanceStatus, value)
            self._statuses[status.instance, status.node] = status
            self.statuses_of[status.node][status.instance] = status
            assignment = self._assignments.get(status.instance)
            if assignment is not None and assignment.beside:
                self.changes.ordered.add(assignment.beside)  # the copy there may have waited for this
            self.changes.apps.add(status.instance.app_id)
        elif family == "cluster":
            self.cluster = decode(ClusterRecord, value)
            self.changes.is_everything = True
        elif family == "apps":
            record = decode(AppRecord, value)
            self._apps[record.id] = record
            self.changes.apps.add(record.id)
        elif family == "revisions":
            self._put_revision(value)
        elif family == "nodes":
            node = decode(NodeRecord, value)
            self._nodes[node.name] = node
            self.changes.nodes.add(node.name)
        elif family == "node-intents":
            intent = decode(NodeIntent, value)
            self._node_intents[intent.name] = intent
            self.changes.nodes.add(intent.name)
        elif family == "rollouts":
            rollout = decode(Rollout, value)
            self._rollouts[rollout.id] = rollout
            self.changes.apps.add(rollout.id)
        elif family == "runs":
            run = decode(AnalysisRun, value)
            self._runs[run.app, run.id] = run
            self.changes.apps.add(run.app)
        elif family == "routes":
            route = decode(RouteState, value)
            self._routes[route.app, route.name] = route
            self.changes.apps.add(route.app)
        elif key == keys.REBALANCE_INTENT:
            self._rebalance_intent = decode(RebalanceIntent, value)
            self.changes.is_everything = True
        elif key == keys.REBALANCE_STATE:
            self._put_rebalance(decode(Rebalance, value))

    def _put_rebalance(self, rebalance: Rebalance) -> None:
        known, self._rebalance = self._rebalance, rebalance
        moves = (*rebalance.moves, *(known.moves if known is not None else ()))
        self.changes.apps |= {move.instance.app_id for move in moves}

    def _put_assignment(self, assignment: Assignment) -> None:
        self._drop_assignment(assignment.instance)
        self._assignments[assignment.instance] = assignment
        self.assignments_of[assignment.node][assignment.instance] = assignment
        if assignment.replaces:
            self.replacements_of[assignment.replaces].add(assignment.instance)
            self.changes.ordered.add(assignment.replaces)
        self.changes.ordered.add(assignment.node)
        self.changes.apps.add(assignment.instance.app_id)

    def _drop_assignment(self, instance: InstanceId) -> None:
        previous = self._assignments.pop(instance, None)
        if previous is not None:
            self.assignments_of[previous.node].pop(instance, None)
            if previous.replaces:
                self.replacements_of[previous.replaces].discard(instance)
                self.changes.ordered.add(previous.replaces)
            if previous.beside:
                self.changes.ordered.add(previous.beside)
            self.changes.ordered.add(previous.node)
            self.changes.apps.add(instance.app_id)

    def _put_revision(self, value: bytes) -> None:
        tree = decode_plain(value)
        revision = from_plain(Revision, tree)
        self._revisions[revision.id, revision.number] = revision
        for worker in tree["spec"].get("workers", ()):
            self._plain_workers[spec_key(revision.id, revision.number, worker["id"])] = worker
        self.changes.ordered |= {
            assignment.node
            for assignment in self._assignments.values()
            if assignment.revision == revision.number and assignment.instance.app_id == revision.id
        }
        self.changes.apps.add(revision.id)

    def _delete(self, key: str) -> None:
        self.unreadable.discard(key)
        family, *rest = keys.parts(key)
        try:
            self._forget(family, rest)
        except (ValueError, IndexError) as error:
            log.error("store key %s is none of ours: %s", key, error)

    def _forget(self, family: str, rest: list[str]) -> None:
        if family == "assignments":
            self._drop_assignment(_instance(rest))
        elif family == "status":
            self._statuses.pop((_instance(rest), rest[4]), None)
            self.statuses_of[rest[4]].pop(_instance(rest), None)
            self.changes.apps.add(_instance(rest).app_id)
        elif family == "apps":
            self._apps.pop(AppId(rest[0], rest[1]), None)
            self.changes.apps.add(AppId(rest[0], rest[1]))
        elif family == "revisions":
            self._drop_revision(AppId(rest[0], rest[1]), int(rest[2]))
        elif family == "nodes":
            self._nodes.pop(rest[0], None)
            self.changes.nodes.add(rest[0])
        elif family == "node-intents":
            self._node_intents.pop(rest[0], None)
            self.changes.nodes.add(rest[0])
        elif family == "rebalance":
            if rest[0] == "intent":
                self._rebalance_intent = None
            else:
                self._rebalance = None
        elif family in ("rollouts", "runs", "routes", "plan"):
            app = AppId(rest[0], rest[1])
            self.changes.apps.add(app)
            if family == "rollouts":
                self._rollouts.pop(app, None)
            elif family == "runs":
                self._runs.pop((app, rest[2]), None)
            else:
                self._routes.pop((app, rest[2]), None)

    def _drop_revision(self, app: AppId, number: int) -> None:
        revision = self._revisions.pop((app, number), None)
        for worker in revision.spec.workers if revision else ():
            self._plain_workers.pop(spec_key(app, number, worker.id), None)
        self.changes.apps.add(app)


def _app_of(key: str) -> AppId | None:
    """Return the app a key belongs to, None for other keys."""
    family, *rest = keys.parts(key)
    is_of_app = family not in ("nodes", "node-intents", "rebalance") and len(rest) >= 2
    return AppId(rest[0], rest[1]) if is_of_app else None


def _node_of(key: str) -> str | None:
    """Return the node a key belongs to, None for other keys."""
    family, *rest = keys.parts(key)
    return rest[0] if family in ("nodes", "node-intents") and rest else None


def _instance(rest: Iterable[str]) -> InstanceId:
    namespace, app, worker, slot, *_ = rest
    return InstanceId(namespace, app, worker, int(slot))
