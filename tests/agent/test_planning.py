"""The agent's decisions: examples, and properties over generated histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_agent.planning import health as health_rules
from hsu_agent.planning import observed as changes
from hsu_agent.planning import reconcile, reported, restart
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.observed import Desired, Fault, Observed, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.lifecycle import Event, State
from hsu_core.model.restarts import BreakerPhase, BreakerSpec, RetryRule
from hsu_core.model.spec import HealthSpec, Probe, ProcessCheck, RestartPolicy, RestartSpec
from tests.agent.harness import instance, order

WEB = instance()
PROCESS = Process(100, 1, "boot", "run-1")


def desired(**fields: object) -> Desired:
    """Return an order."""
    spec_fields = {name: fields.pop(name) for name in ("restart", "health", "stop") if name in fields}
    assignment, spec = order("sleep", "1", **spec_fields)  # type: ignore[arg-type]
    return Desired(replace(assignment, **fields), spec)  # type: ignore[arg-type]


def running(wanted: Desired | None = None, **fields: object) -> Observed:
    """Return an instance with a process."""
    started = changes.spawned(Observed(WEB), wanted or desired(), PROCESS, 0.0, 0.0)
    return replace(started, **fields)  # type: ignore[arg-type]


def actions(wanted: Desired | None, observed: Observed | None, now_s: float = 0.0) -> tuple[reconcile.Action, ...]:
    """Return the planned actions."""
    return reconcile.plan_instance(WEB, wanted, observed, now_s).actions


def decided(spec: RestartSpec, last_exit: LastExit, failures: int = 0) -> restart.Verdict:
    """Return what an end after one second means."""
    return restart.decide(spec, restart.end_of(last_exit, spec, 1.0, 1.0), restart.History(failures), 0.5)


# -- back-off and policies ------------------------------------------------------------------------


def test_the_first_restart_is_at_once_and_later_ones_double_to_the_ceiling() -> None:
    spec = RestartSpec(base_s=0.5, factor=2.0, ceiling_s=3.0)
    assert [restart.backoff_s(spec, failures, 0.5) for failures in (1, 2, 3, 4, 5, 500)] == [0, 0.5, 1, 2, 3, 3]


@given(failures=st.integers(2, 10_000), jitter=st.floats(0, 1), base_s=st.floats(0.01, 100))
def test_a_wait_is_within_the_jitter_of_its_rule(failures: int, jitter: float, base_s: float) -> None:
    spec = RestartSpec(base_s=base_s)
    wait_s = restart.backoff_s(spec, failures, jitter)
    assert 0.8 * min(base_s, 60.0) <= wait_s * 1.000001 <= 1.2 * 60.0 * 1.00001


@pytest.mark.parametrize(
    ("policy", "code", "event"),
    [
        (RestartPolicy.NEVER, 0, Event.EXITED_DONE),
        (RestartPolicy.NEVER, 1, Event.EXITED_FAILED),
        (RestartPolicy.ON_FAILURE, 0, Event.EXITED_DONE),
        (RestartPolicy.ON_FAILURE, 1, Event.EXITED_RETRY),
        (RestartPolicy.ALWAYS, 0, Event.EXITED_RETRY),
        (RestartPolicy.ALWAYS, 1, Event.EXITED_RETRY),
        (RestartPolicy.UNLESS_STOPPED, 0, Event.EXITED_RETRY),
    ],
)
def test_a_policy_decides_what_an_end_means(policy: RestartPolicy, code: int, event: Event) -> None:
    assert decided(RestartSpec(policy), LastExit(code)).event is event


def test_an_unknown_exit_code_counts_as_a_failure() -> None:
    assert decided(RestartSpec(RestartPolicy.ON_FAILURE), LastExit()).event is Event.EXITED_RETRY


def test_retries_run_out_and_the_reason_says_so() -> None:
    wanted = desired(restart=RestartSpec(RestartPolicy.ALWAYS, max_retries=2))
    ended = changes.exited(running(wanted, failures=2), LastExit(1), 1.0, 0.5)
    assert ended.state is State.FAILED
    assert ended.reason == "ended with code 1; gave up after 2 restarts in a row (restart.max_retries)"
    assert actions(wanted, replace(ended, is_tree_empty=True)) == ()


def test_running_long_enough_forgets_earlier_ends() -> None:
    wanted = desired(restart=RestartSpec(RestartPolicy.ALWAYS, reset_after_s=30.0))
    ended = changes.exited(running(wanted, failures=7), LastExit(1), 31.0, 0.5)
    assert (ended.failures, ended.next_start_s) == (1, 31.0)


# -- plans ----------------------------------------------------------------------------------------


def test_a_new_order_is_registered_then_started() -> None:
    wanted = desired()
    assert actions(wanted, None) == (reconcile.Register(WEB),)
    assert actions(wanted, Observed(WEB)) == (reconcile.Spawn(WEB, wanted),)


def test_a_stopped_order_is_never_started() -> None:
    assert actions(desired(is_stopped=True), Observed(WEB)) == (reconcile.Settle(WEB, Event.STOP_REQUESTED),)


def test_no_order_stops_then_forgets() -> None:
    (stop,) = actions(None, running())
    assert isinstance(stop, reconcile.SignalStop)
    assert (stop.event, stop.signal) == (Event.STOP_REQUESTED, "SIGTERM")
    assert actions(None, Observed(WEB, State.STOPPED)) == (reconcile.Forget(WEB),)


@pytest.mark.parametrize("field", [{"spec_hash": "other"}, {"generation": 1}, {"ports": (("http", 1),)}])
def test_an_order_that_needs_another_process_restarts(field: dict[str, object]) -> None:
    (stop,) = actions(desired(**field), running())
    assert isinstance(stop, reconcile.SignalStop)
    assert stop.event is Event.RESTART_REQUESTED


def test_a_new_epoch_or_revision_alone_is_only_kept_in_mind() -> None:
    newer = desired(epoch=9, revision=4)
    assert actions(newer, running()) == (reconcile.Renew(WEB, newer),)
    assert actions(newer, changes.renewed(running(), newer)) == ()


def test_a_stopping_instance_is_killed_after_its_grace_and_not_before() -> None:
    stopping = changes.stop_sent(running(), Event.STOP_REQUESTED, 5.0, 0.0, 0.5, 0.0)
    step = reconcile.plan_instance(WEB, None, stopping, 4.9)
    assert (step.actions, step.wake_at_s) == ((), 5.0)
    assert actions(None, stopping, 5.0) == (reconcile.KillTree(WEB),)
    assert actions(None, changes.killing(stopping), 6.0) == ()


def test_what_is_left_of_a_tree_is_killed_as_soon_as_its_first_process_has_ended() -> None:
    stopping = changes.stop_sent(running(), Event.STOP_REQUESTED, 5.0, 0.0, 0.5, 0.0)
    ended = changes.exited(stopping, LastExit(0), 1.0, 0.5)
    assert actions(None, ended, 1.0) == (reconcile.KillTree(WEB),)


def test_a_crashed_instance_waits_for_an_empty_tree_then_for_its_back_off() -> None:
    wanted = desired()
    ended = changes.exited(running(wanted, failures=1), LastExit(1), 1.0, 0.5)
    assert actions(wanted, ended, 100.0) == (reconcile.KillTree(WEB),)
    empty = changes.tree_empty(ended, 1.0)
    assert reconcile.plan_instance(WEB, wanted, empty, 1.0).wake_at_s == empty.next_start_s
    assert actions(wanted, empty, empty.next_start_s) == (reconcile.Spawn(WEB, wanted),)


def test_a_finished_worker_starts_again_for_a_new_generation_or_after_a_stop_and_start() -> None:
    wanted = desired(restart=RestartSpec(RestartPolicy.NEVER))
    ended = changes.tree_empty(changes.exited(running(wanted), LastExit(0), 1.0, 0.5), 1.0)
    assert ended.state is State.STOPPED
    assert actions(wanted, ended) == ()
    again = Desired(replace(wanted.assignment, generation=1), wanted.spec)
    assert actions(again, ended) == (reconcile.Settle(WEB, Event.START_REQUESTED),)
    stopped = Desired(replace(wanted.assignment, is_stopped=True), wanted.spec)
    (renew,) = actions(stopped, ended)
    assert isinstance(renew, reconcile.Renew)
    assert actions(wanted, changes.renewed(ended, stopped)) == (reconcile.Settle(WEB, Event.START_REQUESTED),)


def test_a_failed_start_is_tried_again_for_ever() -> None:
    wanted = desired(restart=RestartSpec(RestartPolicy.NEVER, max_retries=1))
    observed, now_s = Observed(WEB), 0.0
    for _ in range(50):
        assert actions(wanted, observed, now_s) == (reconcile.Spawn(WEB, wanted),)
        observed = changes.spawn_failed(observed, wanted, "cannot start x", now_s, now_s, 0.5)
        assert now_s < observed.next_start_s <= now_s + 60 * 1.2
        now_s = observed.next_start_s


def test_exit_codes_have_the_meaning_that_the_worker_gives_them() -> None:
    spec = RestartSpec(RestartPolicy.ON_FAILURE, success_codes=(3,), final_codes=(78,))
    assert decided(spec, LastExit(3)).event is Event.EXITED_DONE
    assert decided(spec, LastExit(78)).event is Event.EXITED_FAILED
    assert decided(spec, LastExit(1)).event is Event.EXITED_RETRY
    assert decided(spec, LastExit(signal="SIGKILL")).event is Event.EXITED_RETRY


BREAKER = RestartSpec(RestartPolicy.ALWAYS, base_s=1.0, factor=1.0, breaker=BreakerSpec(2, 60.0, 100.0))


def crash(observed: Observed, now_s: float) -> Observed:
    """Return the instance ended with code 1, its tree empty."""
    return changes.tree_empty(changes.exited(observed, LastExit(1), now_s, 0.5), now_s)


def test_a_breaker_opens_lets_one_start_through_on_trial_and_closes_when_that_lasts() -> None:
    wanted = desired(restart=BREAKER)
    observed = running(wanted)
    for now_s in (1.0, 2.0):
        observed = changes.spawned(crash(observed, now_s), wanted, PROCESS, now_s, 0.0)
    opened = crash(observed, 3.0)
    assert (opened.breaker, opened.next_start_s) == (BreakerPhase.OPEN, 103.0)
    assert "3 ends within 60 s: the breaker is open" in opened.reason
    assert actions(wanted, opened, 102.0) == ()
    assert actions(wanted, opened, 103.0) == (reconcile.Spawn(WEB, wanted),)
    trial = changes.spawned(opened, wanted, PROCESS, 103.0, 0.0)
    assert reported.status_of(trial, wanted, "n").breaker == "half-open"
    again = crash(trial, 104.0)
    assert (again.breaker, again.next_start_s) == (BreakerPhase.OPEN, 204.0)
    trial = changes.spawned(again, wanted, PROCESS, 204.0, 0.0)
    assert actions(wanted, trial, 233.9) == ()
    assert actions(wanted, trial, 234.0) == (reconcile.CloseBreaker(WEB),)
    assert reported.status_of(changes.stable(trial), wanted, "n").breaker == ""


def test_ends_outside_of_the_window_do_not_open_the_breaker() -> None:
    wanted = desired(restart=replace(BREAKER, reset_after_s=1000.0))
    observed = running(wanted)
    for now_s in (0.0, 50.0, 100.0, 150.0, 200.0):
        observed = crash(changes.spawned(observed, wanted, PROCESS, now_s, 0.0) if now_s else observed, now_s)
        assert observed.breaker is BreakerPhase.CLOSED


def test_a_person_who_restarts_it_resets_the_breaker() -> None:
    wanted = desired(restart=BREAKER)
    observed = replace(running(wanted), state=State.RESTARTING, breaker=BreakerPhase.OPEN, failures=3, is_alive=False)
    reset = changes.settled(observed, Event.RESTART_REQUESTED, 0.0)
    assert (reset.breaker, reset.failures, reset.next_start_s) == (BreakerPhase.CLOSED, 0, 0.0)


def test_each_cause_has_its_rule_and_severity_stretches_it() -> None:
    rule = RetryRule(10.0, 2.0, 4)
    spec = RestartSpec(limits=rule, severities=(("emergency", 2.0),), base_s=1.0, ceiling_s=100.0)

    def wait_s(cause: str, severity: str = "") -> float:
        end = restart.End(cause, 1.0, 1.0, severity=severity)
        return restart.decide(spec, end, restart.History(1), 0.5).wait_s

    assert (wait_s(restart.EXIT), wait_s(restart.HEALTH), wait_s(restart.LIMITS)) == (1.0, 1.0, 10.0)
    assert wait_s(restart.LIMITS, "emergency") == 20.0


def test_a_policy_of_never_holds_for_health_too() -> None:
    wanted = desired(restart=RestartSpec(RestartPolicy.NEVER))
    faulted = changes.faulted(running(wanted), Fault("too old"), 1.0)
    (stop,) = actions(wanted, faulted)
    assert isinstance(stop, reconcile.SignalStop)
    sent = changes.stop_sent(faulted, stop.event, 5.0, 1.0, 0.5, 1.0)
    ended = changes.tree_empty(changes.exited(sent, LastExit(signal="SIGTERM"), 2.0, 0.5), 2.0)
    assert (ended.state, ended.reason) == (State.FAILED, "too old")
    assert actions(wanted, ended) == ()


def test_in_its_grace_a_young_process_is_not_ended_by_liveness_or_limits() -> None:
    probe = Probe(ProcessCheck(), failure_threshold=1)
    wanted = desired(restart=RestartSpec(grace_s=10.0), health=HealthSpec(liveness=probe))
    young = running(wanted)
    assert changes.faulted(young, Fault("big", restart.LIMITS), 9.0) is young
    assert changes.faulted(young, Fault("big", restart.LIMITS), 10.0).fault is not None
    assert changes.probed(young, ProbeKind.LIVENESS, Outcome(False), 9.0, 0.0) is young
    assert not changes.probed(young, ProbeKind.LIVENESS, Outcome(False), 10.0, 0.0).health.is_alive


# -- health ---------------------------------------------------------------------------------------

PROBE = Probe(ProcessCheck(), period_s=10.0, failure_threshold=3, success_threshold=2)
GOOD, BAD = Outcome(True, "fine"), Outcome(False, "refused")


def test_startup_gates_the_other_probes() -> None:
    spec = HealthSpec(PROBE, PROBE, PROBE)
    health = health_rules.begin(spec)
    assert health_rules.active(spec, health) == (ProbeKind.STARTUP,)
    health = health_rules.observe(spec, health, ProbeKind.STARTUP, GOOD, 0.0)
    assert health_rules.active(spec, health) == (ProbeKind.READINESS, ProbeKind.LIVENESS)
    assert not health.is_ready


def test_fast_failures_before_the_first_success_do_not_shorten_the_time_given() -> None:
    spec = HealthSpec(startup=PROBE)
    health = health_rules.begin(spec)
    for tenth_s in range(0, 180):
        health = health_rules.observe(spec, health, ProbeKind.STARTUP, BAD, tenth_s / 10)
    assert health.is_alive
    health = health_rules.observe(spec, health, ProbeKind.STARTUP, BAD, 20.0)
    assert not health.is_alive
    assert health.reason == "startup probe failed 3 times in a row: refused"


def test_readiness_needs_its_successes_and_its_failures_in_a_row() -> None:
    spec = HealthSpec(readiness=PROBE)
    health = health_rules.begin(spec)
    seen = []
    for index, outcome in enumerate([GOOD, BAD, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD]):
        health = health_rules.observe(spec, health, ProbeKind.READINESS, outcome, index * 10.0)
        seen.append(health.is_ready)
    assert seen == [False, False, False, True, True, True, True, True, True, False]
    assert health.is_alive


def test_an_unhealthy_worker_is_restarted_with_a_growing_wait() -> None:
    wanted = desired(health=HealthSpec(liveness=PROBE), restart=RestartSpec(RestartPolicy.ALWAYS))
    observed = running(wanted, failures=1)
    for index in range(3):
        observed = changes.probed(observed, ProbeKind.LIVENESS, BAD, index * 10.0, 0.0)
    (stop,) = actions(wanted, observed, 20.0)
    assert isinstance(stop, reconcile.SignalStop)
    observed = changes.stop_sent(observed, stop.event, 25.0, 20.0, 0.5, 0.0)
    observed = changes.tree_empty(changes.exited(observed, LastExit(0), 21.0, 0.5), 0.0)
    assert actions(wanted, observed, 21.0) == (reconcile.Settle(WEB, Event.START_REQUESTED),)
    observed = changes.settled(observed, Event.START_REQUESTED, 0.0)
    assert observed.failures == 2
    assert observed.next_start_s == 20.5


# -- properties -----------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("want"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("unwant"), st.just(0), st.just(False)),
    st.tuples(st.just("exit"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("probe"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("empty"), st.just(0), st.just(False)),
    st.tuples(st.just("time"), st.integers(1, 100), st.booleans()),
    st.tuples(st.just("spawns_fail"), st.just(0), st.booleans()),
)
POLICIES = st.sampled_from(list(RestartPolicy))


class Sandbox:
    """A host in the imagination: applies plans, keeps what is really there, and watches the rules."""

    def __init__(self, policy: RestartPolicy, max_retries: int | None) -> None:
        self.health = HealthSpec(PROBE, PROBE, PROBE)
        self.restart = RestartSpec(policy, max_retries=max_retries)
        self.wanted: Desired | None = None
        self.observed: Observed | None = None
        self.now_s = 0.0
        self.has_main = False
        self.has_children = False
        self.do_spawns_fail = False
        self.epoch = 0

    def settle(self) -> None:
        """Plan and apply until there is nothing to do; a plan must not go in circles."""
        for _ in range(20):
            step = reconcile.plan_instance(WEB, self.wanted, self.observed, self.now_s)
            if not step.actions:
                return
            for action in step.actions:
                self.apply(action)
        raise AssertionError(f"the plan goes on: {self.observed}")

    def apply(self, action: reconcile.Action) -> None:
        """Do what the shell does."""
        observed = self.observed
        if isinstance(action, reconcile.Register):
            self.observed = Observed(WEB)
            return
        assert observed is not None
        if isinstance(action, reconcile.Spawn):
            assert not self.has_main, "two first processes in one slot"
            assert not self.has_children, "started before the old tree was empty"
            assert self.wanted is not None
            assert self.wanted.wants_process
            if self.do_spawns_fail:
                self.observed = changes.spawn_failed(observed, action.order, "no", self.now_s, 0.0, 0.5)
            else:
                self.observed = changes.spawned(observed, action.order, PROCESS, self.now_s, 0.0)
                self.has_main = self.has_children = True
        elif isinstance(action, reconcile.SignalStop):
            deadline_s = self.now_s + action.grace_s
            self.observed = changes.stop_sent(observed, action.event, deadline_s, self.now_s, 0.5, 0.0)
        elif isinstance(action, reconcile.KillTree):
            self.observed = changes.killing(observed)
        elif isinstance(action, reconcile.Settle):
            self.observed = changes.settled(observed, action.event, 0.0)
        elif isinstance(action, reconcile.CloseBreaker):
            self.observed = changes.stable(observed)
        elif isinstance(action, reconcile.Renew):
            self.observed = changes.renewed(observed, action.order)
        else:
            assert not self.has_main
            assert not self.has_children, "forgotten with processes"
            self.observed = None

    def happen(self, kind: str, number: int, flag: bool) -> None:
        """Let an event happen."""
        if kind == "want":
            self.epoch += 1
            base = desired(restart=self.restart, health=self.health)
            fields = {"generation": number, "is_stopped": flag, "epoch": self.epoch}
            self.wanted = Desired(replace(base.assignment, **fields), base.spec)  # type: ignore[arg-type]
        elif kind == "unwant":
            self.wanted = None
        elif kind == "exit" and self.has_main and self.observed is not None:
            self.has_main = False
            last_exit = LastExit(number) if flag else LastExit(signal="SIGKILL")
            self.observed = changes.exited(self.observed, last_exit, self.now_s, 0.5)
        elif kind == "probe" and self.observed is not None:
            outcome = GOOD if flag else BAD
            self.observed = changes.probed(self.observed, list(ProbeKind)[number], outcome, self.now_s, 0.0)
        elif kind == "empty" and self.observed is not None and self.observed.is_killing:
            if self.has_main:
                self.happen("exit", 0, False)
            self.has_children = False
            self.observed = changes.tree_empty(self.observed, 0.0)
        elif kind == "time":
            self.now_s += number
        elif kind == "spawns_fail":
            self.do_spawns_fail = flag
        self.settle()


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=60), POLICIES, st.one_of(st.none(), st.integers(0, 3)))
def test_any_history_keeps_the_rules_and_reaches_what_is_wanted(
    history: list[tuple[str, int, bool]], policy: RestartPolicy, max_retries: int | None
) -> None:
    sandbox = Sandbox(policy, max_retries)
    for kind, number, flag in history:
        sandbox.happen(kind, number, flag)
    sandbox.happen("spawns_fail", 0, False)
    sandbox.happen("want", 9, False)
    for _ in range(6):  # faults are over: every kill succeeds, every wait passes
        sandbox.happen("time", 100, True)
        sandbox.happen("empty", 0, False)
    assert sandbox.observed is not None
    assert sandbox.observed.order == sandbox.wanted
    gave_up = sandbox.observed.has_finished and max_retries is not None
    assert sandbox.observed.is_alive or gave_up or sandbox.observed.state in (State.STARTING, State.RUNNING)
    sandbox.happen("unwant", 0, False)
    for _ in range(3):
        sandbox.happen("time", 100, True)
        sandbox.happen("empty", 0, False)
    assert sandbox.observed is None


@given(st.integers(0, 5))
def test_the_same_view_gives_the_same_plan_in_one_order(count: int) -> None:
    orders = {instance(slot=slot): desired() for slot in range(count)}
    observed = {instance(slot=slot): Observed(instance(slot=slot)) for slot in range(1, count + 1)}
    first = reconcile.reconcile(orders, observed, 0.0)
    backwards = reconcile.reconcile(dict(reversed(orders.items())), dict(reversed(observed.items())), 0.0)
    assert first == backwards
    assert [action.instance for action in first] == sorted(action.instance for action in first)


@pytest.mark.parametrize("state", [State.REGISTERED, State.FAILED, State.STOPPED, State.RESTARTING])
def test_a_status_tells_of_processes_until_the_tree_is_proven_empty(state: State) -> None:
    held = Observed(WEB, state=state, is_tree_empty=False)
    assert reported.status_of(held, desired(), "node-1").has_processes
    assert not reported.status_of(changes.tree_empty(held, 1.0), desired(), "node-1").has_processes
    assert reported.status_of(running(), desired(), "node-1").has_processes
