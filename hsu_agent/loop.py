"""The loop of the agent: view, plan, apply, one instance at a time, only when something happened to it.

Events (orders, exits, probe outcomes, timers) mark instances; `hsu_agent.turns` has the marked ones planned and
their steps applied, for a few milliseconds at a time, so that a thousand starts never keep heartbeats waiting.
All calls are made from the event loop's thread. Decisions live in `hsu_agent.planning`; what to do with the
system in `hsu_agent.host`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from hsu_agent import adopt, schedules
from hsu_agent.companions import Companions
from hsu_agent.fence import Fence
from hsu_agent.finder import Looker, NotYetFound
from hsu_agent.hooks import Hooks
from hsu_agent.host.base import Host
from hsu_agent.host.discovery import Finder
from hsu_agent.host.ports import busy_numbers
from hsu_agent.launch import Preparer
from hsu_agent.ledger import Ledger
from hsu_agent.logs.capture import Capture
from hsu_agent.metrics import AgentMetrics
from hsu_agent.notify import NotifySocket
from hsu_agent.planning import health as health_rules
from hsu_agent.planning import hook_changes, reconcile
from hsu_agent.planning import observed as changes
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.observed import Desired, Fault, Observed, Process
from hsu_agent.probes.runner import ProbeRunner
from hsu_agent.signals import Signals
from hsu_agent.starter import Starter
from hsu_agent.strays import Strays
from hsu_agent.table import Table
from hsu_agent.timers import Sweeper
from hsu_agent.turns import TreeEnds, Turns
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import Bug, HsuError
from hsu_core.model.hooks import HookName
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import ALIVE, State
from hsu_core.runtime.ambient import REAL, Ambient
from hsu_core.runtime.tasks import Wake

log = logging.getLogger(__name__)

STEPS_LIMIT = 16
"""Most steps an instance takes in a row; more means that the plan goes in circles."""


class Supervisor:
    """Keeps the processes of this host as ordered. `node` is our name in reports."""

    def __init__(
        self,
        *,
        node: str,
        host: Host,
        ledger: Ledger,
        capture: Capture,
        preparer: Preparer,
        metrics: AgentMetrics,
        tasks: asyncio.TaskGroup,
        companions: Companions | None = None,
        notices: NotifySocket | None = None,
        ambient: Ambient = REAL,
        fence: Fence | None = None,
    ) -> None:
        self._ambient = ambient
        self._fence = fence = fence or Fence(None)
        self._host = host
        self._ledger = ledger
        self._capture = capture
        self._preparer = preparer
        self._metrics = metrics
        self._companions = companions if companions is not None else Companions()
        self._looker = looker = Looker(Finder(host.boot_id, ledger.agent), tasks, self._on_found)
        self._starter = Starter(host, ledger, capture, preparer, self._companions, looker, ambient)
        self._probes = ProbeRunner(preparer, tasks, self._on_outcome, notices, ambient)
        self.table = table = Table(node)
        self.status, self.statuses, self._put = table.status, table.statuses, table.put
        self._desired, self._observed = self.desired, self.observed = table.desired, table.observed
        self._signals = Signals(host, table)
        self.send_signal = self._signals.send
        self._turns = Turns(self._plan, ambient)
        self.mark = self._turns.mark
        self._hooks = Hooks(table, preparer, capture, tasks, self.mark, self.fault, self._remember_end, ambient, fence)
        self._tree_ends = TreeEnds(host, tasks, self._tree_has_ended)
        self._sweeper = Sweeper(self._remove, ambient)
        self._strays = Strays(table, ledger, self._adopt, self._attach, self.mark)
        self.settle_strays = self._strays.settle
        self._emptied: set[InstanceId] = set()
        self._forgotten = Wake()
        self._companions.add(self._fence)
        self._fence.listeners.append(self._turns.mark_all(lambda: table.idle_strict))

    @property
    def has_workers(self) -> bool:
        """Return whether any worker runs or is to run."""
        return self.table.has_workers

    # -- orders -----------------------------------------------------------------------------------

    def put_order(self, order: Desired, spec_key: str) -> None:
        """Obey an order from now on. The caller has written it to the ledger."""
        instance = order.assignment.instance
        self._desired[instance] = order
        self.table.spec_keys[instance] = spec_key
        self.mark(instance)

    def drop_order(self, instance: InstanceId) -> None:
        """Stop an instance that is no longer assigned."""
        if self._desired.pop(instance, None) is not None:
            self.mark(instance)

    def load(self) -> None:
        """Take over what an earlier agent left: orders from the ledger, processes by their identity."""
        remembered = self._ledger.remembered()
        self._desired.update(remembered.orders)
        self.table.spec_keys |= {instance: order.spec.key for instance, order in remembered.orders.items()}
        taken = adopt.take_over(remembered, self._host.find_marked(), self._host.boot_id)
        for instance, observed in taken.observed.items():
            self._observed[instance] = observed
            if observed.order is not None:
                self.table.spec_keys.setdefault(instance, observed.order.spec.key)
        for instance, process in taken.processes.items():
            self._adopt(self._observed[instance], process)
        self._strays.take(taken.strays)
        self._fence.take_strays(taken.strays)
        for instance in taken.observed.keys() | self._desired.keys():
            self._attach(instance)
            self.mark(instance)
        if taken.observed:
            count = sum(1 for found in self._observed.values() if found.is_alive)
            log.info("took over %d running and %d other instances", count, len(taken.observed) - count)

    def _adopt(self, observed: Observed, process: Process) -> None:
        """Hold an instance whose process an earlier agent started: watch it, or find out how it ended."""
        instance, now_s, at = observed.instance, self._ambient.monotonic(), self._ambient.wall()
        adopted = changes.adopted(observed, process, now_s, at)
        if self._host.watch(instance, process, lambda last_exit: self._on_exit(instance, process.run, last_exit)):
            self._ledger.put_process(instance, process)
            self._put(adopted)
            if adopted.order is not None:
                self._companions.started(instance, adopted.order, process)
            self._run_probes(adopted)
            return
        reason = "ended while no agent was running: its exit code is not known"
        self._put(self._exited(adopted, self._host.exit_of(process) or LastExit(at=at, reason=reason)))

    def _attach(self, instance: InstanceId) -> None:
        """Drain the pipes of an instance; its first start tells if that fails."""
        order = self.table.order_of(instance)
        if order is not None:
            self._starter.attach(instance, order)

    # -- events -----------------------------------------------------------------------------------

    def _on_exit(self, instance: InstanceId, run: str, last_exit: LastExit) -> None:
        observed = self._observed.get(instance)
        if observed is None or observed.process is None or observed.process.run != run:
            return
        self._probes.stop(instance)
        self._hooks.stop(instance)
        self._capture.drain_now(instance)
        last_exit = self._companions.ended(instance, last_exit)
        ended = self._exited(observed, last_exit)
        self._put(ended)
        self._remember_end(ended)
        if instance in self._emptied:
            self._emptied.discard(instance)
            self._tree_is_empty(instance)
        self.mark(instance)

    def _exited(self, observed: Observed, last_exit: LastExit) -> Observed:
        times = self._ambient.monotonic(), self._ambient.uniform(0, 1)
        return changes.exited(observed, last_exit, *times, self._fence.why_ended(observed, last_exit))

    def _remember_end(self, observed: Observed) -> None:
        is_open = observed.has_finished or observed.state is State.RESTARTING
        state = str(observed.state) if is_open and observed.state is not State.STOPPING else adopt.IDLE
        owed = adopt.OWES_POST_STOP if observed.hooks.owes_post_stop else ""
        self._ledger.put_end(observed.instance, state + owed, observed.last_exit, observed.failures)

    def _on_outcome(self, instance: InstanceId, kind: ProbeKind, outcome: Outcome) -> None:
        self._metrics.count_probe(kind, outcome.is_passed)
        before = self._observed.get(instance)
        if before is None:
            return
        after = changes.probed(before, kind, outcome, self._ambient.monotonic(), self._ambient.wall())
        if after is before:
            return
        self._put(after)
        if (before.health.is_started, before.health.is_ready) != (after.health.is_started, after.health.is_ready):
            self._ledger.put_health(instance, after.health.is_started, after.health.is_ready)
            self._run_probes(after)
        if not after.health.is_alive:
            log.warning("%s is restarted: %s", instance, after.health.reason)
            self.mark(instance)

    def fault(self, instance: InstanceId, fault: Fault) -> None:
        """End the process of an instance because a rule of this agent says so; the plan does the rest."""
        before = self._observed.get(instance)
        if before is None or (after := changes.faulted(before, fault, self._ambient.monotonic())) is before:
            return
        log.warning("%s: %s", instance, fault.text)
        self._put(after)
        self.mark(instance)

    # -- view, plan, apply ------------------------------------------------------------------------

    def _plan(self, instance: InstanceId) -> None:
        if instance in self._strays:
            return
        for _ in range(STEPS_LIMIT):
            found = self._desired.get(instance), self._observed.get(instance)
            times = self._ambient.monotonic(), self._ambient.wall()
            step = reconcile.plan_instance(instance, *found, *times, self._fence.hold(found[0]))
            if step.wake_at_s is not None:
                self._turns.wake_at(step.wake_at_s, instance)
            if not step.actions:
                return
            for action in step.actions:
                self._apply(action)
        raise Bug(f"settle {instance}", f"its plan went on for {STEPS_LIMIT} steps")

    def _apply(self, action: reconcile.Action) -> None:
        instance, at = action.instance, self._ambient.wall()
        if isinstance(action, reconcile.Register):
            self._put(Observed(instance, changed_at=at))
            return
        observed = self._observed[instance]
        if isinstance(action, reconcile.Hold):
            self._put(changes.held(observed, action.why, at))
            return
        if isinstance(action, reconcile.Spawn):
            self._spawn(observed, action.order)
        elif isinstance(action, reconcile.SignalStop | reconcile.BeginStop):
            self._signal_stop(observed, action)
        elif isinstance(action, reconcile.SendSignal):
            self._put(hook_changes.signalled(observed))
            self._signals.stop(observed, action.signal)
        elif isinstance(action, reconcile.RunHook | reconcile.EndHook):
            self._hooks.apply(observed, action)
        elif isinstance(action, reconcile.KillTree):
            self._kill_tree(observed)
        elif isinstance(action, reconcile.Settle):
            settled = changes.settled(observed, action.event, at)
            self._put(settled)
            self._remember_end(settled)
        elif isinstance(action, reconcile.CloseBreaker):
            self._put(changes.stable(observed))
        elif isinstance(action, reconcile.PlanRun | reconcile.TakeRun):
            self._put(schedules.apply(observed, action, at))
        elif isinstance(action, reconcile.Release):
            self._release(observed, action)
        elif isinstance(action, reconcile.Renew):
            self._renew(observed, action.order)
        else:
            self._forget(instance)

    def _spawn(self, observed: Observed, order: Desired) -> None:
        instance = observed.instance
        started_s = self._ambient.monotonic()
        try:
            process = self._starter.start(observed, order, self.table.spec_key(instance, order))
        except (HsuError, OSError) as error:
            if not isinstance(error, NotYetFound):  # that is no failure: it is looked for in the background
                log.warning("%s: %s", instance, error)
                self._metrics.spawn_failures.inc()
            times = self._ambient.monotonic(), self._ambient.wall(), self._ambient.uniform(0, 1)
            text = error.sentence if isinstance(error, HsuError) else str(error)
            self._put(changes.spawn_failed(observed, order, text, *times, busy_numbers(error)))
            return
        spawned = changes.spawned(observed, order, process, self._ambient.monotonic(), process.started_at)
        if spawned.restarts > observed.restarts:
            self._metrics.restarts.inc()
        self._put(spawned)
        if not self._host.watch(instance, process, lambda last_exit: self._on_exit(instance, process.run, last_exit)):
            at = self._ambient.wall()
            self._on_exit(instance, process.run, LastExit(at=at, reason="ended as soon as it was found"))
            return  # only a process of somebody else can be gone before it is waited for
        self._companions.started(instance, order, process)
        self._run_probes(spawned)
        self._metrics.spawn_seconds.observe(self._ambient.monotonic() - started_s)

    def _run_probes(self, observed: Observed) -> None:
        if observed.order is None or not observed.is_alive or observed.state not in ALIVE:
            self._probes.stop(observed.instance)
            return
        kinds = health_rules.active(observed.order.spec.worker.health, observed.health)
        self._probes.run(observed.instance, observed.order, kinds)

    def _signal_stop(self, observed: Observed, action: reconcile.SignalStop | reconcile.BeginStop) -> None:
        instance = observed.instance
        self._probes.stop(instance)
        self._hooks.stop(instance)
        now_s = self._ambient.monotonic()
        if isinstance(action, reconcile.SignalStop):
            self._signals.stop(observed, action.signal)
        times = now_s + action.grace_s, now_s, self._ambient.uniform(0, 1), self._ambient.wall()
        stopping = changes.stop_sent(observed, action.event, *times)
        if isinstance(action, reconcile.BeginStop) and observed.order is not None:
            stopping = hook_changes.stop_begun(stopping, action.signal)
            self._hooks.begin(instance, HookName.PRE_STOP, observed.order)
        self._put(stopping)

    def _kill_tree(self, observed: Observed) -> None:
        instance, process = observed.instance, observed.process
        self._hooks.stop(instance)
        has_hooks = observed.order is not None and not observed.order.spec.worker.hooks.is_empty
        is_over = not observed.is_alive and not has_hooks
        if process is not None and is_over and self._host.is_tree_empty(instance, process):
            self._tree_is_empty(instance)
            return
        self._put(changes.killing(observed))
        self._tree_ends.begin(instance, process)

    def _tree_has_ended(self, instance: InstanceId) -> None:
        if self._observed[instance].is_alive:
            self._emptied.add(instance)  # it has ended too: its exit is about to be delivered
            return
        self._tree_is_empty(instance)

    def _tree_is_empty(self, instance: InstanceId) -> None:
        before = self._observed[instance]
        observed = changes.tree_empty(before, self._ambient.wall())
        self._put(observed)
        if observed.state is not before.state:
            self._remember_end(observed)
        self.mark(instance)

    def _renew(self, observed: Observed, order: Desired) -> None:
        instance = observed.instance
        renewed = changes.renewed(observed, order)
        self._put(renewed)
        self._ledger.put_order_of_run(instance, order, self.table.spec_key(instance, order))
        self._attach(instance)
        if renewed.is_alive and renewed.process is not None:
            self._companions.started(instance, order, renewed.process)
        self._run_probes(renewed)

    def _forget(self, instance: InstanceId) -> None:
        self.table.remove(instance)
        self._probes.stop(instance)
        self._capture.detach(instance)
        self._companions.forgotten(instance)
        self._ledger.forget(instance)
        self._looker.forget(instance)
        self._sweeper.add(instance)
        self._forgotten.wake()
        self.table.tell(instance)

    def _on_found(self, instance: InstanceId) -> None:
        observed = self._observed.get(instance)
        if observed is not None and observed.state in (State.REGISTERED, State.RESTARTING):
            self._put(changes.found(observed))
        self.mark(instance)

    def _release(self, observed: Observed, action: reconcile.Release) -> None:
        self._probes.stop(observed.instance)
        if observed.process is not None:
            self._host.unwatch(observed.process)
        released = changes.released(observed, action.event, action.reason, self._ambient.wall())
        self._put(released)
        self._remember_end(released)

    def _remove(self, instance: InstanceId) -> None:
        """Remove folders and cgroup of an instance, unless it has come back meanwhile."""
        if instance not in self._observed:
            self._capture.remove(instance)
            self._preparer.forget(instance)
            self._host.release(instance)

    # -- the end ----------------------------------------------------------------------------------

    async def stop_all(self) -> None:
        """Stop every process and return when none is left; the orders stay in the ledger."""
        self._strays.clear()
        await self.stop(list(self._desired.keys() | self._observed.keys()))

    async def stop(self, instances: Collection[InstanceId]) -> None:
        """Stop these and return when none of them is left; the orders stay in the ledger."""
        for instance in instances:
            self._desired.pop(instance, None)
            self.mark(instance)
        while not self._observed.keys().isdisjoint(instances):
            await self._forgotten.wait()

    def close(self) -> None:
        """Stop supervising; processes run on and the next agent finds them."""
        self._turns.close()
        self._sweeper.close()
        self._probes.close()
        self._hooks.close()
        self._tree_ends.close()
        self._looker.close()
