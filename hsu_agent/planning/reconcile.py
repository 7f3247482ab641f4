"""The plan of the agent: what brings each instance closer to its order. Pure.

One row per state. The shell applies the actions, which changes the instance, and asks again until
there is nothing left to do but wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_agent.planning import cron, hook_changes, stop
from hsu_agent.planning.observed import Desired, Observed, end_of_stop
from hsu_core.model.hooks import HookName
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import Event, State
from hsu_core.model.restarts import BreakerPhase
from hsu_core.model.schedules import ScheduleSpec
from hsu_core.model.unmanaged import UnmanagedSpec


@dataclass(frozen=True, slots=True)
class Register:
    """Begin to hold an instance that has an order and nothing else."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class Hold:
    """Say why the start has to wait; whoever lifts that has the instance planned anew."""

    instance: InstanceId
    why: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for this order; nothing of an earlier one is left."""

    instance: InstanceId
    order: Desired


@dataclass(frozen=True, slots=True)
class SignalStop:
    """Send the stop signal to the process group and give it `grace_s`."""

    instance: InstanceId
    event: Event
    signal: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class BeginStop:
    """Run pre_stop; the stop signal follows it. The whole takes at most `grace_s`."""

    instance: InstanceId
    event: Event
    signal: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send the stop signal that waited for pre_stop."""

    instance: InstanceId
    signal: str


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run a hook of this order; it is told when it has ended."""

    instance: InstanceId
    name: HookName
    order: Desired


@dataclass(frozen=True, slots=True)
class EndHook:
    """End the pre_start that runs: it is for an order that is in force no more."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class KillTree:
    """Kill every process of the instance, and say when none is left."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class Settle:
    """Change the state: nothing has to be done for it."""

    instance: InstanceId
    event: Event


@dataclass(frozen=True, slots=True)
class CloseBreaker:
    """Let restarts through again: the start on trial has lasted."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class PlanRun:
    """Find the next run of a schedule."""

    instance: InstanceId
    schedule: ScheduleSpec


@dataclass(frozen=True, slots=True)
class TakeRun:
    """The time of a run has come (or somebody asks for one): it starts next."""

    instance: InstanceId
    schedule: ScheduleSpec


@dataclass(frozen=True, slots=True)
class Renew:
    """Hold the instance to a newer order that needs no other process."""

    instance: InstanceId
    order: Desired


@dataclass(frozen=True, slots=True)
class Release:
    """Leave an unmanaged process as it is, and look after it no more."""

    instance: InstanceId
    event: Event
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the instance: no order, no process."""

    instance: InstanceId


Action = (
    Register
    | Hold
    | Spawn
    | SignalStop
    | BeginStop
    | SendSignal
    | RunHook
    | EndHook
    | KillTree
    | Settle
    | CloseBreaker
    | PlanRun
    | TakeRun
    | Renew
    | Release
    | Forget
)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now; `wake_at_s` is when time alone changes the answer (None: never)."""

    actions: tuple[Action, ...] = ()
    wake_at_s: float | None = None


NOTHING = Step()

LOOK_S = 20.0
"""Between two looks at the clock of an instance that waits for its next run: clocks are set."""


def reconcile(
    desired: Mapping[InstanceId, Desired],
    observed: Mapping[InstanceId, Observed],
    now_s: float,
    now_at: float = 0.0,
) -> list[Action]:
    """Return the actions that bring this host closer to its orders."""
    actions: list[Action] = []
    for instance in sorted(desired.keys() | observed.keys()):
        actions += plan_instance(instance, desired.get(instance), observed.get(instance), now_s, now_at).actions
    return actions


def plan_instance(
    instance: InstanceId,
    desired: Desired | None,
    observed: Observed | None,
    now_s: float,
    now_at: float = 0.0,
    hold: str = "",
) -> Step:
    """Return the next step of one instance; `now_at` is the clock on the wall, for schedules.

    `hold`: why nothing of it may be started now (empty: it may).
    """
    if observed is None:
        return NOTHING if desired is None else Step((Register(instance),))
    if observed.state in (State.STARTING, State.RUNNING):
        return _plan_alive(desired, observed, now_s)
    if observed.state is State.STOPPING:
        return _plan_stopping(observed, now_s)
    if not observed.is_tree_empty:
        return NOTHING if observed.is_killing else Step((KillTree(instance),))
    if observed.hooks.owes_post_stop and observed.order is not None:
        is_due = observed.hooks.running is None
        return Step((RunHook(instance, HookName.POST_STOP, observed.order),)) if is_due else NOTHING
    schedule = desired.spec.worker.schedule if desired is not None and desired.wants_process else None
    if desired is not None and schedule is not None and observed.state is not State.RESTARTING:
        return _plan_scheduled(desired, schedule, observed, now_s, now_at, hold)  # but for a retry within a run
    if observed.state in (State.REGISTERED, State.RESTARTING):
        return _plan_waiting(desired, observed, now_s, hold)
    return _plan_ended(desired, observed)


def _plan_alive(desired: Desired | None, observed: Observed, now_s: float) -> Step:
    instance, running = observed.instance, observed.order
    if running is not None and running.spec.worker.unmanaged is not None:
        return _plan_unmanaged(desired, observed, running, running.spec.worker.unmanaged)
    rule = stop.rule(running)
    if desired is None or not desired.wants_process:
        return _begin_stop(observed, Event.STOP_REQUESTED, rule.signal, rule.grace_s)
    if running is None or desired.needs_other_process_than(running) or not observed.health.is_alive:
        is_kill = observed.fault is not None and observed.fault.is_kill
        if is_kill:
            return Step((SignalStop(instance, Event.RESTART_REQUESTED, "SIGKILL", 0.0),))
        return _begin_stop(observed, Event.RESTART_REQUESTED, rule.signal, rule.grace_s)
    if observed.hooks.owes_post_start:
        return Step((RunHook(instance, HookName.POST_START, running),))
    if desired != running:
        return Step((Renew(instance, desired),))
    if observed.breaker is BreakerPhase.CLOSED:
        return NOTHING
    stable_at_s = observed.started_s + desired.spec.worker.restart.reset_after_s
    return Step((CloseBreaker(instance),)) if now_s >= stable_at_s else Step(wake_at_s=stable_at_s)


def _plan_unmanaged(desired: Desired | None, observed: Observed, running: Desired, spec: UnmanagedSpec) -> Step:
    """Of a process that somebody else started: what is not allowed is not done, whatever is asked."""
    if desired is None or not desired.wants_process:
        return _end_unmanaged(observed, running, spec, Event.STOP_REQUESTED, is_allowed=spec.can_terminate)
    if desired.assignment.spec_hash != running.assignment.spec_hash:
        reason = "is looked for anew: what it is found by has changed"
        return Step((Release(observed.instance, Event.RESTART_REQUESTED, reason),))
    is_asked = desired.assignment.generation != running.assignment.generation or not observed.health.is_alive
    if is_asked and spec.can_restart:
        return _end_unmanaged(observed, running, spec, Event.RESTART_REQUESTED, is_allowed=spec.can_terminate)
    return NOTHING if desired == running else Step((Renew(observed.instance, desired),))


def _end_unmanaged(
    observed: Observed, running: Desired, spec: UnmanagedSpec, event: Event, *, is_allowed: bool
) -> Step:
    rule = stop.rule(running)
    if is_allowed and spec.may_send(rule.signal):
        return Step((SignalStop(observed.instance, event, rule.signal, rule.grace_s),))
    why = f"{rule.signal} is not one of allowed_signals" if is_allowed else "can_terminate is not true"
    return Step((Release(observed.instance, event, f"is left running: {why}"),))


def _begin_stop(observed: Observed, event: Event, signal: str, grace_s: float) -> Step:
    has_hook = observed.order is not None and observed.order.spec.worker.hooks.pre_stop is not None
    begin = BeginStop if has_hook else SignalStop
    return Step((begin(observed.instance, event, signal, grace_s),))


def _plan_stopping(observed: Observed, now_s: float) -> Step:
    if observed.is_tree_empty:
        return Step((Settle(observed.instance, end_of_stop(observed)),))
    if stop.is_kill_due(observed, now_s):
        return Step((KillTree(observed.instance),))
    if observed.hooks.signal and observed.hooks.running is None:
        return Step((SendSignal(observed.instance, observed.hooks.signal),))
    return Step(wake_at_s=None if observed.is_killing else observed.stop_deadline_s)


def _plan_waiting(desired: Desired | None, observed: Observed, now_s: float, hold: str) -> Step:
    hooks = observed.hooks
    is_wanted = desired is not None and desired.wants_process
    if hooks.running is not None and not (is_wanted and desired and hooks.key == hook_changes.key_of(desired)):
        return Step((EndHook(observed.instance),))
    if desired is None or not is_wanted:
        return Step((Settle(observed.instance, Event.STOP_REQUESTED),))
    is_other = observed.order is not None and desired.needs_other_process_than(observed.order)
    if observed.state is State.RESTARTING and is_other:
        return Step((Settle(observed.instance, Event.RESTART_REQUESTED),))
    if now_s < observed.next_start_s:
        return Step(wake_at_s=observed.next_start_s)
    if hold:
        return NOTHING if observed.reason == hold else Step((Hold(observed.instance, hold),))
    if desired.spec.worker.hooks.pre_start is None:
        return Step((Spawn(observed.instance, desired),))
    if hooks.running is not None:
        return NOTHING
    if hooks.is_prepared and hooks.key == hook_changes.key_of(desired):
        return Step((Spawn(observed.instance, desired),))
    return Step((RunHook(observed.instance, HookName.PRE_START, desired),))


def _plan_scheduled(
    desired: Desired, schedule: ScheduleSpec, observed: Observed, now_s: float, now_at: float, hold: str
) -> Step:
    """Between runs it is stopped (or failed, if the last one did); registered means that its run begins."""
    instance, planned = observed.instance, observed.next_run
    if observed.state is State.REGISTERED:
        is_begun = planned is not None and planned.is_taken
        return _plan_waiting(desired, observed, now_s, hold) if is_begun else _settle(observed, Event.STOP_REQUESTED)
    begin = Step((TakeRun(instance, schedule), Settle(instance, Event.START_REQUESTED)))
    if observed.order is not None and observed.order.assignment.generation != desired.assignment.generation:
        return begin  # somebody asked for a restart: that is a run now
    if not observed.has_finished and not observed.health.is_alive and observed.order is not None:
        return begin  # its probes or a rule ended it within the run
    if desired != observed.order:
        return Step((Renew(instance, desired),))
    if planned is None or planned.is_taken or planned.schedule != schedule:
        return Step((PlanRun(instance, schedule),))
    if now_at < planned.at:
        return Step(wake_at_s=now_s + min(planned.at - now_at, LOOK_S))
    if now_at > planned.at + cron.LATE_S and not schedule.is_catching_up:
        return Step((PlanRun(instance, schedule),))
    return begin


def _settle(observed: Observed, event: Event) -> Step:
    return Step((Settle(observed.instance, event),))


def _plan_ended(desired: Desired | None, observed: Observed) -> Step:
    instance = observed.instance
    if desired is None:
        return Step((Forget(instance),))
    if not desired.wants_process and observed.state is State.FAILED:
        return Step((Settle(instance, Event.STOP_REQUESTED),))
    is_other = observed.order is None or desired.needs_other_process_than(observed.order)
    if desired.wants_process and (is_other or not observed.has_finished):
        return Step((Settle(instance, Event.START_REQUESTED),))
    return NOTHING if desired == observed.order else Step((Renew(instance, desired),))
