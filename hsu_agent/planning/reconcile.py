"""The plan of the agent: what brings each instance closer to its order. Pure.

One row per state. The shell applies the actions, which changes the instance, and asks again until
there is nothing left to do but wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_agent.planning import stop
from hsu_agent.planning.observed import Desired, Observed, end_of_stop
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import Event, State
from hsu_core.model.restarts import BreakerPhase


@dataclass(frozen=True, slots=True)
class Register:
    """Begin to hold an instance that has an order and nothing else."""

    instance: InstanceId


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
class Renew:
    """Hold the instance to a newer order that needs no other process."""

    instance: InstanceId
    order: Desired


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the instance: no order, no process."""

    instance: InstanceId


Action = Register | Spawn | SignalStop | KillTree | Settle | CloseBreaker | Renew | Forget


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now; `wake_at_s` is when time alone changes the answer (None: never)."""

    actions: tuple[Action, ...] = ()
    wake_at_s: float | None = None


NOTHING = Step()


def reconcile(
    desired: Mapping[InstanceId, Desired], observed: Mapping[InstanceId, Observed], now_s: float
) -> list[Action]:
    """Return the actions that bring this host closer to its orders."""
    actions: list[Action] = []
    for instance in sorted(desired.keys() | observed.keys()):
        actions += plan_instance(instance, desired.get(instance), observed.get(instance), now_s).actions
    return actions


def plan_instance(instance: InstanceId, desired: Desired | None, observed: Observed | None, now_s: float) -> Step:
    """Return the next step of one instance."""
    if observed is None:
        return NOTHING if desired is None else Step((Register(instance),))
    if observed.state in (State.STARTING, State.RUNNING):
        return _plan_alive(desired, observed, now_s)
    if observed.state is State.STOPPING:
        return _plan_stopping(observed, now_s)
    if not observed.is_tree_empty:
        return NOTHING if observed.is_killing else Step((KillTree(instance),))
    if observed.state in (State.REGISTERED, State.RESTARTING):
        return _plan_waiting(desired, observed, now_s)
    return _plan_ended(desired, observed)


def _plan_alive(desired: Desired | None, observed: Observed, now_s: float) -> Step:
    instance, running = observed.instance, observed.order
    rule = stop.rule(running)
    if desired is None or not desired.wants_process:
        return Step((SignalStop(instance, Event.STOP_REQUESTED, rule.signal, rule.grace_s),))
    if running is None or desired.needs_other_process_than(running) or not observed.health.is_alive:
        is_kill = observed.fault is not None and observed.fault.is_kill
        signal, grace_s = ("SIGKILL", 0.0) if is_kill else (rule.signal, rule.grace_s)
        return Step((SignalStop(instance, Event.RESTART_REQUESTED, signal, grace_s),))
    if desired != running:
        return Step((Renew(instance, desired),))
    if observed.breaker is BreakerPhase.CLOSED:
        return NOTHING
    stable_at_s = observed.started_s + desired.spec.worker.restart.reset_after_s
    return Step((CloseBreaker(instance),)) if now_s >= stable_at_s else Step(wake_at_s=stable_at_s)


def _plan_stopping(observed: Observed, now_s: float) -> Step:
    if observed.is_tree_empty:
        return Step((Settle(observed.instance, end_of_stop(observed)),))
    if stop.is_kill_due(observed, now_s):
        return Step((KillTree(observed.instance),))
    return Step(wake_at_s=None if observed.is_killing else observed.stop_deadline_s)


def _plan_waiting(desired: Desired | None, observed: Observed, now_s: float) -> Step:
    if desired is None or not desired.wants_process:
        return Step((Settle(observed.instance, Event.STOP_REQUESTED),))
    is_other = observed.order is not None and desired.needs_other_process_than(observed.order)
    if observed.state is State.RESTARTING and is_other:
        return Step((Settle(observed.instance, Event.RESTART_REQUESTED),))
    if now_s < observed.next_start_s:
        return Step(wake_at_s=observed.next_start_s)
    return Step((Spawn(observed.instance, desired),))


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
