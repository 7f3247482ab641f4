"""Planted faults: versions of parts of the product with one line wrong, given to the constructors in their place.

A simulation that does not find these would not find the real ones either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hsu_agent.fence import Fence
from hsu_agent.ledger import Ledger
from hsu_agent.loop import Supervisor
from hsu_agent.planning.observed import Desired, Process
from hsu_agent.sync import Sync
from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.view import ClusterView, DropAssignment, Plan, PutAssignment
from hsu_core.store.base import Compare, Operation, Put, Resync, TxnResult, WatchBatch
from hsu_core.wire import keys
from tests.sim.checks import Violation
from tests.sim.guard import SimGuard
from tests.sim.host import SimHost
from tests.sim.options import draw
from tests.sim.run import run
from tests.sim.store import View, _ViewedWatch
from tests.sim.world import Parts

Planner = Callable[..., Plan]


class _Blind(View):
    """A store client whose transactions lack compares that `is_dropped` names."""

    is_dropped: Callable[[Compare], bool]

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = (), **more: Any
    ) -> TxnResult:
        """Compare less than was asked."""
        kept = [compare for compare in compares if not type(self).is_dropped(compare)]
        return await super().txn(kept, success, failure, **more)


class _NoFence(_Blind):
    @staticmethod
    def is_dropped(compare: Compare) -> bool:
        return compare.key == keys.LEADER and bool(compare.operand)


class _NoElection(_Blind):
    @staticmethod
    def is_dropped(compare: Compare) -> bool:
        return compare.key == keys.LEADER and not compare.operand


class _NoChain(_Blind):
    @staticmethod
    def is_dropped(compare: Compare) -> bool:
        return compare.key == keys.PLAN

    async def txn(self, compares: Any, success: Any, failure: Any = (), **more: Any) -> TxnResult:
        """Say that nothing was committed that the view lacks."""
        if not compares and not success:
            return TxnResult(True, 0)
        return await super().txn(compares, success, failure, **more)


class _NoIdempotency(_Blind):
    @staticmethod
    def is_dropped(compare: Compare) -> bool:
        return compare.key.startswith((keys.IDEMPOTENCY, keys.APPS, keys.REVISIONS))

    async def get(self, key: str, **more: Any) -> Any:
        """Find no record of an earlier request."""
        return None if key.startswith(keys.IDEMPOTENCY) else await super().get(key, **more)


class _EarlyAnswer(View):
    async def txn(self, compares: Any, success: Any, failure: Any = (), **more: Any) -> TxnResult:
        """Answer requests of people before they are committed, and lose some."""
        is_request = any(isinstance(each, Put) and each.key.startswith(keys.IDEMPOTENCY) for each in success)
        if is_request and self.rng.random() < 0.2:
            return TxnResult(True, self.truth.revision)
        return await super().txn(compares, success, failure, **more)


class _NoDeletes(View):
    def watch(self, prefix: str, *, after_revision: int) -> Any:
        """Watch, and hear of no deletion of an assignment."""
        return _Censored(super().watch(prefix, after_revision=after_revision))


class _Censored:
    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> _Censored:
        self._watch: _ViewedWatch = await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error)

    def __aiter__(self) -> _Censored:
        return self

    async def __anext__(self) -> WatchBatch | Resync:
        item = await anext(self._watch)
        if isinstance(item, Resync):
            return item
        kept = tuple(e for e in item.events if not (e.is_delete and e.entry.key.startswith(keys.ASSIGNMENTS)))
        return WatchBatch(item.revision, kept)


# -- planners -----------------------------------------------------------------------------------------


def _edited(edit: Callable[[ClusterView, Plan, float], Plan]) -> Planner:
    def plan(view: ClusterView, now_s: float, **more: Any) -> Plan:
        return edit(view, reconcile(view, now_s, **more), now_s)

    return plan


def _all_on_one(view: ClusterView, plan: Plan, now_s: float) -> Plan:
    """Place everything on the first node that is ready."""
    ready = sorted(name for name, node in view.nodes.items() if node.state is NodeState.READY)
    actions = tuple(
        replace(action, assignment=replace(action.assignment, node=ready[0]))
        if isinstance(action, PutAssignment) and ready
        else action
        for action in plan.actions
    )
    return replace(plan, actions=actions)


def _same_epoch(view: ClusterView, plan: Plan, now_s: float) -> Plan:
    """Change an order and leave its epoch what it was."""
    actions = tuple(
        replace(action, assignment=replace(action.assignment, epoch=action.previous_epoch))
        if isinstance(action, PutAssignment) and action.previous_epoch
        else action
        for action in plan.actions
    )
    return replace(plan, actions=actions)


def _no_drops(view: ClusterView, plan: Plan, now_s: float) -> Plan:
    """Take no order back."""
    return replace(plan, actions=tuple(each for each in plan.actions if not isinstance(each, DropAssignment)))


def _restless(view: ClusterView, plan: Plan, now_s: float) -> Plan:
    """Write an order again although nothing has changed, now and then."""
    if plan.actions or not view.assignments:
        return plan
    if now_s % 10.0 > 0.1:
        return replace(plan, retry_at_s=now_s + 10.0 - now_s % 10.0)
    held = view.assignments[min(view.assignments)]
    again = PutAssignment(replace(held, epoch=view.revision + 1), held.epoch, "once more")
    return replace(plan, actions=(again,), retry_at_s=now_s + 5.0)


# -- agents and hosts ---------------------------------------------------------------------------------


class _ForgetfulLedger(Ledger):
    def put_order(self, order: Desired, spec_key: str, tree: Any) -> None:
        """Keep no order for the next agent."""
        super().put_order(order, spec_key, tree)
        self.drop_order(order.assignment.instance)


class _NoIntentLedger(Ledger):
    def put_process(self, instance: InstanceId, process: Process) -> None:
        """Do not write who was started."""


class _BlindHost(SimHost):
    def find_marked(self) -> list[Any]:
        """Find nothing that runs."""
        return []


class _LeavesTrees(SimHost):
    def is_tree_empty(self, instance: InstanceId, process: Process) -> bool:
        """Call every tree empty."""
        return True


class _AsleepGuard(SimGuard):
    def _look(self) -> None:
        """Kill nobody."""


class _LongFence(Fence):
    def begin_session(self, ttl_s: float) -> None:
        """Take the lease for three times as long as it is."""
        super().begin_session(3 * ttl_s)


class _StopsAlone(Supervisor):
    def load(self) -> None:
        """Begin anew, as if what the last agent left were in the way."""
        super().load()
        for observed in list(self.observed.values()):
            if observed.process is not None and observed.state is State.RUNNING:
                self._host.signal(observed.process, "SIGKILL")


class _DropsOnSilence(Sync):
    async def _dial(self, *arguments: Any, **more: Any) -> Any:
        """Give all orders up whenever a session ends."""
        outcome = await super()._dial(*arguments, **more)
        if outcome.lasted_s is not None:
            for instance in list(self._supervisor.desired):
                self._supervisor.drop_order(instance)
        return outcome


class _Hasty(LeaderService):
    def __init__(self, store: Any, advert: Any, times: LeaderTimes, **more: Any) -> None:
        """Call a node lost after three seconds."""
        hasty = replace(times, nodes=replace(times.nodes, suspect_s=2.5, ttl_s=3.0))
        super().__init__(store, advert, hasty, **more)


def _planning(planner: Planner) -> Parts:
    return Parts(master={"make_service": functools.partial(LeaderService, planner=planner)})


MUTANTS: dict[str, tuple[Parts, frozenset[str]]] = {
    "no_fence": (Parts(master={"make_view": _NoFence}), frozenset({"I1"})),
    "no_election": (Parts(master={"make_view": _NoElection}), frozenset({"I1"})),
    "plans_not_chained": (Parts(master={"make_view": _NoChain}), frozenset({"I9"})),
    "no_idempotency": (Parts(master={"make_view": _NoIdempotency}), frozenset({"I2"})),
    "ack_before_commit": (Parts(master={"make_view": _EarlyAnswer}), frozenset({"I2"})),
    "watch_skips_deletes": (Parts(master={"make_view": _NoDeletes}), frozenset({"I13", "I8"})),
    "all_on_one_node": (_planning(_edited(_all_on_one)), frozenset({"I18"})),
    "epoch_stays": (_planning(_edited(_same_epoch)), frozenset({"I9"})),
    "orders_stay": (_planning(_edited(_no_drops)), frozenset({"I8"})),
    "keeper_sleeps": (Parts(agent={"make_guard": _AsleepGuard}), frozenset({"I3"})),
    "lease_too_long": (Parts(agent={"make_fence": _LongFence}), frozenset({"I3"})),
    "restless": (_planning(_edited(_restless)), frozenset({"I8"})),
    "hasty": (Parts(master={"make_service": _Hasty}), frozenset({"I17"})),
    "orders_forgotten": (Parts(agent={"make_ledger": _ForgetfulLedger}), frozenset({"I5"})),
    "starts_forgotten": (Parts(agent={"make_ledger": _NoIntentLedger}, host=_BlindHost), frozenset({"I5"})),
    "trees_left": (Parts(host=_LeavesTrees), frozenset({"I5"})),
    "new_agent_restarts_all": (Parts(agent={"make_supervisor": _StopsAlone}), frozenset({"I5"})),
    "silence_ends_workers": (Parts(agent={"make_sync": _DropsOnSilence}), frozenset({"I5"})),
}
"""Name, what is in place of the real parts, and the promises of which one is found broken."""

SEEDS_LIMIT = 200
"""A planted fault has to be found by one of so many seeds."""


def find(name: str, seeds_limit: int = SEEDS_LIMIT) -> tuple[int, Violation] | None:
    """Return the first seed that finds a planted fault by one of its promises, and what it says; None: no seed does.

    A planted fault that no longer fits the product, and so just crashes, is none: `crash` is not among the promises.
    """
    parts, promises = MUTANTS[name]
    for seed in range(1, seeds_limit + 1):
        violation = run(draw(seed), parts).violation
        if violation is not None and violation.name in promises:
            return seed, violation
    return None
