"""What the agent holds of one instance, and how events change it. Pure.

Every change of state goes through `advance`; the functions here are all of them. Times named `*_s`
are monotonic, those named `*_at` are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hsu_agent.planning import health as health_rules
from hsu_agent.planning import hooks as hook_rules
from hsu_agent.planning import restart
from hsu_agent.planning.cron import NextRun
from hsu_agent.planning.health import Health, Outcome, ProbeKind
from hsu_agent.planning.hooks import HookPhase
from hsu_core.model.assignment import Assignment, LastExit
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import ALIVE, Event, State, advance
from hsu_core.model.order import OrderSpec
from hsu_core.model.restarts import BreakerPhase
from hsu_core.model.spec import Guarantee


@dataclass(frozen=True, slots=True)
class Desired:
    """One order of the leader with the specification it refers to."""

    assignment: Assignment
    spec: OrderSpec

    @property
    def wants_process(self) -> bool:
        """Return whether a process is to run."""
        return not self.assignment.is_stopped and self.spec.worker.is_enabled

    @property
    def is_strict(self) -> bool:
        """Return whether at most one copy may run in the whole cluster."""
        return self.spec.worker.guarantee is Guarantee.STRICT

    def needs_other_process_than(self, other: Desired) -> bool:
        """Return whether a process started for `other` does not serve this order: also one that nobody guards yet."""
        mine, its = self.assignment, other.assignment
        if self.is_strict and not other.is_strict:
            return True
        return (mine.spec_hash, mine.generation) != (its.spec_hash, its.generation) or mine.ports != its.ports


@dataclass(frozen=True, slots=True)
class Process:
    """Who a process is: a number alone is not an identity. `start_time` is in clock ticks since boot.

    `is_enrolled`: it was put into a cgroup before it had a child, so that cgroup holds all of its tree.
    `is_foreign`: somebody else started it, so nothing but this one process is ours to signal.
    """

    pid: int
    start_time: int
    boot_id: str
    run: str = ""
    started_at: float = 0.0
    is_enrolled: bool = False
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a rule of the agent ends a process that runs.

    `is_final`: it is not started again. `is_kill`: no stop signal and no grace. `cause` (`health`, `limits`) and
    `severity` choose the rule of restart.
    """

    text: str
    cause: str = restart.HEALTH
    is_final: bool = False
    is_kill: bool = False
    severity: str = ""


NOT_STARTED = Health(is_ready=False)
"""Of an instance with no process yet."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One instance on this host. `order` is what the latest start was made for.

    `is_alive`: its first process is there. `is_tree_empty`: proven that none of its processes is there.
    `failures`: ends in a row, for the back-off; `ends_s` and `breaker` are what its breaker goes by.
    `has_finished`: it ended by itself and is not to start again.
    """

    instance: InstanceId
    state: State = State.REGISTERED
    order: Desired | None = None
    process: Process | None = None
    is_alive: bool = False
    is_tree_empty: bool = True
    is_killing: bool = False
    started_s: float = 0.0
    failures: int = 0
    restarts: int = 0
    next_start_s: float = 0.0
    stop_deadline_s: float | None = None
    has_finished: bool = False
    health: Health = NOT_STARTED
    last_exit: LastExit | None = None
    reason: str = ""
    changed_at: float = 0.0
    busy_ports: tuple[int, ...] = ()
    fault: Fault | None = None
    ends_s: tuple[float, ...] = ()
    breaker: BreakerPhase = BreakerPhase.CLOSED
    hooks: HookPhase = hook_rules.IDLE
    next_run: NextRun | None = None

    @property
    def history(self) -> restart.History:
        """Return what the rules of restart look back on."""
        return restart.History(self.failures, self.ends_s, self.breaker)


def restarts_of(observed: Observed, order: Desired) -> int:
    """Return the count of automatic starts that a start for `order` makes: another process begins anew."""
    if observed.order is not None and order.needs_other_process_than(observed.order):
        return 0
    if order.spec.worker.unmanaged is not None:
        return observed.restarts + (1 if observed.last_exit is not None else 0)  # looks in vain are no restarts
    return observed.restarts + (1 if observed.failures else 0)


def settled(observed: Observed, event: Event, at: float, reason: str = "") -> Observed:
    """Return the instance after an event that needs nothing but the table."""
    has_finished = observed.has_finished and event is not Event.STOP_REQUESTED
    failures = 0 if event in (Event.START_REQUESTED, Event.STOP_REQUESTED, Event.RESTART_REQUESTED) else None
    if event is Event.START_REQUESTED and not observed.health.is_alive:
        failures = None  # a restart that its own health asked for: the back-off goes on
    return replace(
        observed,
        state=advance(observed.state, event),
        has_finished=False if event is Event.START_REQUESTED else has_finished,
        failures=observed.failures if failures is None else failures,
        ends_s=observed.ends_s if failures is None else (),
        breaker=observed.breaker if failures is None else BreakerPhase.CLOSED,
        next_start_s=observed.next_start_s if failures is None else 0.0,
        reason=reason,
        changed_at=at,
    )


def renewed(observed: Observed, order: Desired) -> Observed:
    """Return the instance held to a newer order; a stop forgets that it had finished by itself."""
    hooks = observed.hooks
    if observed.is_alive and hooks.owes_post_stop != (order.spec.worker.hooks.post_stop is not None):
        hooks = replace(hooks, owes_post_stop=not hooks.owes_post_stop)
    return replace(observed, order=order, has_finished=observed.has_finished and order.wants_process, hooks=hooks)


def spawned(observed: Observed, order: Desired, process: Process, now_s: float, at: float) -> Observed:
    """Return the instance after a start; with no startup probe it is running at once."""
    health = health_rules.begin(order.spec.worker.health)
    state = advance(observed.state, Event.SPAWNED)
    if health.is_started:
        state = advance(state, Event.STARTED)
    return replace(
        observed,
        state=state,
        order=order,
        process=process,
        is_alive=True,
        is_tree_empty=False,
        is_killing=False,
        started_s=now_s,
        restarts=restarts_of(observed, order),
        busy_ports=(),
        next_start_s=0.0,
        stop_deadline_s=None,
        has_finished=False,
        health=health,
        fault=None,
        hooks=hook_rules.after_start(order.spec.worker.hooks),
        breaker=BreakerPhase.CLOSED if observed.breaker is BreakerPhase.CLOSED else BreakerPhase.HALF_OPEN,
        reason=health.reason,
        changed_at=at,
    )


def spawn_failed(
    observed: Observed,
    order: Desired,
    reason: str,
    now_s: float,
    at: float,
    jitter: float,
    busy_ports: tuple[int, ...] = (),
) -> Observed:
    """Return the instance after a start that could not be made: it waits and tries again, for ever."""
    failures = observed.failures + 1
    wait_s = restart.backoff_s(order.spec.worker.restart, failures + 1, jitter)
    return replace(
        observed,
        state=advance(observed.state, Event.SPAWN_FAILED),
        order=order,
        process=None,
        hooks=hook_rules.after_end(observed.hooks),
        failures=failures,
        next_start_s=now_s + wait_s,
        reason=f"{reason}; next try in {wait_s:.1f} s",
        changed_at=at,
        busy_ports=busy_ports,
    )


def found(observed: Observed) -> Observed:
    """Return the instance whose unmanaged process was found: it need not wait for the next look."""
    return replace(observed, next_start_s=0.0)


def released(observed: Observed, event: Event, reason: str, at: float) -> Observed:
    """Return the instance whose unmanaged process is left as it is, and looked after no more."""
    state = advance(advance(observed.state, event), Event.TREE_EMPTY)
    return replace(
        observed, state=state, process=None, is_alive=False, is_tree_empty=True, reason=reason, changed_at=at
    )


def adopted(observed: Observed, process: Process, now_s: float, at: float) -> Observed:
    """Return the instance whose process was found running by a new agent."""
    ran_s = max(0.0, at - process.started_at) if process.started_at else 0.0
    return replace(
        observed,
        state=advance(observed.state, Event.FOUND_RUNNING),
        process=process,
        is_alive=True,
        is_tree_empty=False,
        started_s=now_s - ran_s,
        hooks=hook_rules.after_adoption(observed.order.spec.worker.hooks) if observed.order else hook_rules.IDLE,
        changed_at=at,
    )


def exited(observed: Observed, last_exit: LastExit, now_s: float, jitter: float, fenced: str = "") -> Observed:
    """Return the instance after the end of its first process; its policy decides what comes next.

    `fenced`: the fence ended it, for this reason; that is no failure, and it runs again when it may.
    """
    ended = replace(
        observed,
        is_alive=False,
        last_exit=last_exit,
        changed_at=last_exit.at,
        hooks=hook_rules.after_end(observed.hooks),
    )
    if observed.state is State.STOPPING or observed.order is None or observed.state not in ALIVE:
        return ended
    if fenced:
        state = advance(observed.state, Event.EXITED_RETRY)
        return replace(ended, state=state, last_exit=replace(last_exit, reason=fenced), next_start_s=0.0, reason=fenced)
    spec = observed.order.spec.worker.restart
    end = restart.end_of(last_exit, spec, now_s - observed.started_s, now_s)
    found = restart.decide(spec, end, observed.history, jitter)
    text = "; ".join(part for part in (describe_exit(last_exit), found.why) if part)
    changed = _decided(ended, found, now_s)
    if found.event is Event.EXITED_RETRY:
        reason = f"{text}; starts again in {found.wait_s:.1f} s" if found.wait_s else f"{text}; starts again"
        return replace(changed, state=advance(observed.state, found.event), reason=reason)
    return replace(changed, state=advance(observed.state, found.event), has_finished=True, reason=text)


def _decided(observed: Observed, found: restart.Verdict, now_s: float) -> Observed:
    """Return the instance with what the rules of restart say of its next start."""
    return replace(
        observed,
        failures=found.history.failures,
        ends_s=found.history.ends_s,
        breaker=found.history.breaker,
        next_start_s=now_s + found.wait_s,
    )


def stop_sent(observed: Observed, event: Event, deadline_s: float, now_s: float, jitter: float, at: float) -> Observed:
    """Return the instance after the stop signal; an unhealthy one waits its back-off before the next start."""
    changed = replace(
        observed, state=advance(observed.state, event), stop_deadline_s=deadline_s, changed_at=at, is_killing=False
    )
    changed = replace(changed, hooks=hook_rules.after_end(observed.hooks))
    if event is Event.RESTART_REQUESTED and not observed.health.is_alive and observed.order is not None:
        fault = observed.fault or Fault(observed.health.reason)
        end = restart.End(fault.cause, now_s - observed.started_s, now_s, severity=fault.severity)
        found = restart.decide(observed.order.spec.worker.restart, end, observed.history, jitter)
        reason = "; ".join(part for part in (observed.health.reason, found.why) if part)
        has_finished = fault.is_final or found.event is Event.EXITED_FAILED
        return replace(_decided(changed, found, now_s), has_finished=has_finished, reason=reason)
    reason = "is being restarted" if event is Event.RESTART_REQUESTED else "is being stopped"
    return replace(changed, reason=reason)


def killing(observed: Observed) -> Observed:
    """Return the instance while its tree is being killed: nothing else is done with it meanwhile."""
    return replace(observed, is_killing=True, hooks=hook_rules.after_end(observed.hooks))


def tree_empty(observed: Observed, at: float) -> Observed:
    """Return the instance after its last process has gone."""
    hooks = hook_rules.after_end(observed.hooks)
    empty = replace(observed, is_tree_empty=True, is_killing=False, is_alive=False, hooks=hooks)
    if observed.state is not State.STOPPING:
        return empty
    reason = observed.reason if observed.has_finished else ""
    event = end_of_stop(observed)
    return replace(empty, state=advance(observed.state, event), stop_deadline_s=None, reason=reason, changed_at=at)


def end_of_stop(observed: Observed) -> Event:
    """Return what it means that a stopping instance is empty: it failed if a rule ended it for good."""
    return Event.EXITED_FAILED if observed.has_finished else Event.TREE_EMPTY


def is_in_grace(observed: Observed, now_s: float) -> bool:
    """Return whether its process is so young that failing probes and exceeded limits are passed over."""
    grace_s = observed.order.spec.worker.restart.grace_s if observed.order is not None else 0.0
    return now_s - observed.started_s < grace_s


def stable(observed: Observed) -> Observed:
    """Return the instance whose trial start has lasted: its breaker is closed."""
    return replace(observed, breaker=BreakerPhase.CLOSED, failures=0, ends_s=())


def faulted(observed: Observed, fault: Fault, now_s: float) -> Observed:
    """Return the instance whose process is to be ended (the same object if there is none, or it is ended already)."""
    if not observed.is_alive or observed.state is State.STOPPING or observed.fault is not None:
        return observed
    if fault.cause == restart.LIMITS and not fault.is_kill and is_in_grace(observed, now_s):
        return observed
    health = replace(observed.health, is_alive=False, reason=fault.text)
    return replace(observed, health=health, fault=fault, reason=fault.text)


def probed(observed: Observed, kind: ProbeKind, outcome: Outcome, now_s: float, at: float) -> Observed:
    """Return the instance after one check (the same object if it changed nothing that is reported)."""
    if observed.order is None or not observed.is_alive or observed.state is State.STOPPING:
        return observed
    if kind is ProbeKind.LIVENESS and not outcome.is_passed and is_in_grace(observed, now_s):
        return observed
    health = health_rules.observe(observed.order.spec.worker.health, observed.health, kind, outcome, now_s)
    state: State = observed.state
    if health.is_started and state is State.STARTING:
        state = advance(state, Event.STARTED)
    is_same = state is observed.state and health.is_ready == observed.health.is_ready
    changed_at = observed.changed_at if is_same else at
    return replace(observed, state=state, health=health, reason=health.reason, changed_at=changed_at)


def is_ready(observed: Observed) -> bool:
    """Return whether the instance takes work."""
    return observed.state is State.RUNNING and observed.is_alive and observed.health.is_ready


def held(observed: Observed, why: str, at: float) -> Observed:
    """Return the instance whose start has to wait for something outside of this host."""
    return replace(observed, reason=why, changed_at=at)


def describe_exit(last_exit: LastExit) -> str:
    """Return the sentence about how a process ended."""
    if last_exit.signal is not None:
        return last_exit.reason or f"was ended by {last_exit.signal}"
    if last_exit.code is not None:
        return f"ended with code {last_exit.code}"
    return last_exit.reason or "ended while nobody could see its exit code"
