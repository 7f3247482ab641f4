"""The arithmetic of an analysis: what a value means, when a metric and a run are over, what is due when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_cluster.planning.analysis import (
    ERROR_RETRY_S,
    due,
    failed_run,
    filled,
    judge,
    judged,
    kept_measurements,
    measurement,
    unanswered,
    with_measurement,
)
from hsu_cluster.planning.diff import diff_specs
from hsu_cluster.planning.figures import figure
from hsu_core.model.analysis import (
    FIGURES,
    METRICS_LIMIT,
    OVER,
    AnalysisRun,
    AnalysisSpec,
    BuiltinFigure,
    ExecQuery,
    Measurement,
    MetricSpec,
    PrometheusQuery,
    Verdict,
    WebQuery,
)
from hsu_core.model.assignment import InstanceStatus, LastExit
from hsu_core.model.lifecycle import State
from hsu_core.model.limits import LimitsSpec, MemoryLimits
from hsu_core.wire.codec import decode, encode
from tests.support.builders import SHOP, make_assignment, make_revision, make_status, make_view, make_worker, slot

S, F, E, IN, R, P = (
    Verdict.SUCCESSFUL, Verdict.FAILED, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.RUNNING, Verdict.PENDING
)  # fmt: skip
LETTERS = {"s": S, "f": F, "e": E, "i": IN}
START = 1000.0


def metric(name: str = "m", **fields: Any) -> MetricSpec:
    fields = {"success_condition": "result < 1", "interval_s": 5.0, **fields}
    return MetricSpec(name, BuiltinFigure("restarts"), **fields)


def new_run(**fields: Any) -> AnalysisRun:
    return AnalysisRun(SHOP, "3-0-web-step2-errors", "errors", "web", 3, 2, START, **fields)


def after(spec: AnalysisSpec, run: AnalysisRun, letters: str, name: str = "m") -> AnalysisRun:
    """Return the run after these measurements, one a second."""
    for second, letter in enumerate(letters, 1):
        run = with_measurement(spec, run, name, Measurement(START + second, LETTERS[letter], letter))
    return run


@pytest.mark.parametrize(
    ("success", "failure", "value", "verdict"),
    [
        ("result < 1", "", 0, S),
        ("result < 1", "", 1, F),
        ("", "result > 5", 6, F),
        ("", "result > 5", 5, S),
        ("result < 1", "result > 5", 0, S),
        ("result < 1", "result > 5", 6, F),
        ("result < 1", "result > 5", 3, IN),
        ("result < 9", "result > 5", 6, F),
        ("result[0] < 1", "", [], E),
        ("result < 1", "", "text", E),
    ],
)
def test_a_value_means_what_its_conditions_say(success: str, failure: str, value: Any, verdict: Verdict) -> None:
    found, text = judge(metric(success_condition=success, failure_condition=failure), value)
    assert found is verdict
    assert bool(text) == (verdict is E)


@pytest.mark.parametrize(
    ("letters", "fields", "verdict"),
    [
        ("", {}, P),
        ("s", {"count": 1}, S),
        ("ss", {"count": 3}, R),
        ("sss", {"count": 3}, S),
        ("f", {"count": 3}, F),
        ("sf", {"count": 3, "failure_limit": 1}, R),
        ("sfs", {"count": 3, "failure_limit": 1}, S),
        ("sfsf", {"count": 5, "failure_limit": 1}, F),
        ("i", {"count": 3}, IN),
        ("isi", {"count": 3, "inconclusive_limit": 1}, IN),
        ("iss", {"count": 3, "inconclusive_limit": 1}, S),
        ("eeee", {"count": 1}, R),
        ("eeeee", {"count": 1}, E),
        ("eeeesee", {"count": 2}, R),
        ("eeees", {"count": 1}, S),
        ("e", {"count": 1, "consecutive_error_limit": 0}, E),
    ],
)
def test_a_metric_is_over_when_a_limit_is_exceeded_or_its_count_is_reached(
    letters: str, fields: dict[str, Any], verdict: Verdict
) -> None:
    spec = AnalysisSpec("errors", (metric(**fields),))
    run = after(spec, judged(spec, new_run(), START), letters)
    assert run.metrics[0].verdict is run.verdict is verdict
    assert (run.finished_at is not None) == (verdict in (S, F, E, IN))
    assert bool(due(spec, run)) == (run.finished_at is None)


def test_the_reason_of_a_failure_says_how_often_and_what_was_found() -> None:
    spec = AnalysisSpec("errors", (metric(count=3, failure_limit=1),))
    run = after(spec, new_run(), "ff")
    assert run.text == "metric m: 2 measurements were failed, more than 1 (last: f)"


def test_the_run_is_as_bad_as_its_worst_metric() -> None:
    spec = AnalysisSpec("errors", (metric("a", count=2), metric("b"), metric("c", is_dry_run=True)))
    run = after(spec, new_run(), "s", "a")
    assert run.verdict is P  # b was not measured yet
    run = after(spec, run, "s", "b")
    assert (run.verdict, run.finished_at) == (R, None)
    run = after(spec, run, "f", "a")
    assert (run.verdict, run.finished_at) == (F, START + 1)
    assert [each.verdict for each in run.metrics] == [F, S, S]
    assert run.metric("c").text == "the run was over before it was measured"
    assert with_measurement(spec, run, "b", Measurement(START + 9, F)).verdict is F


def test_dry_runs_never_count_and_are_kept() -> None:
    spec = AnalysisSpec("errors", (metric("real"), metric("dry", is_dry_run=True)))
    run = after(spec, new_run(), "f", "dry")
    assert run.verdict is P
    run = after(spec, run, "s", "real")
    assert (run.verdict, run.metric("dry").verdict, run.metric("dry").failed) == (S, F, 1)
    alone = AnalysisSpec("errors", (metric("dry", is_dry_run=True, count=2),))
    assert after(alone, new_run(), "").verdict is P
    assert after(alone, new_run(), "f", "dry").verdict is S


def test_an_ended_run_was_successful_unless_a_limit_is_exceeded() -> None:
    spec = AnalysisSpec("errors", (metric(count=5, failure_limit=2),))
    assert judged(spec, new_run(is_ended=True), START).verdict is S
    run = judged(spec, replace(after(spec, new_run(), "sff"), is_ended=True), START + 9)
    assert (run.verdict, run.text, run.finished_at) == (S, "metric m: ended by the rollout", START + 9)
    assert judged(spec, replace(after(spec, new_run(), "fff"), is_ended=True), START + 9).verdict is F


def test_a_background_run_goes_on_until_it_is_ended_and_takes_one_answer_before() -> None:
    spec = AnalysisSpec("errors", (metric(count=0, initial_delay_s=600.0),))
    run = new_run(is_background=True)
    assert after(spec, run, "s" * 50).verdict is R
    assert after(spec, replace(run, is_background=False), "s").verdict is S  # inline: one
    assert after(AnalysisSpec("errors", (metric(count=0, interval_s=0.0),)), run, "s").verdict is S  # at once again?
    assert due(spec, run) == {"m": START + 600}
    ended = replace(run, is_ended=True)
    assert judged(spec, ended, START + 5).verdict is P
    assert due(spec, ended) == {"m": START}
    assert after(spec, ended, "e").verdict is R
    assert after(spec, ended, "es").verdict is S
    assert after(spec, ended, "f").verdict is F
    assert after(spec, ended, "eeeee").verdict is E


def test_a_metric_is_due_after_its_delay_its_interval_or_a_missing_answer() -> None:
    spec = AnalysisSpec("errors", (metric("a", count=3, initial_delay_s=30.0), metric("b", count=3)))
    run = new_run()
    assert due(spec, run) == {"a": START + 30, "b": START}
    run = after(spec, run, "s", "b")
    assert due(spec, run) == {"a": START + 30, "b": START + 6}
    run = after(spec, run, "e", "a")
    assert due(spec, run) == {"a": START + 1 + ERROR_RETRY_S, "b": START + 6}
    assert due(spec, failed_run(run, "why", START)) == {}


def test_a_record_keeps_the_newest_and_counts_all() -> None:
    spec = AnalysisSpec("errors", (metric(count=0, failure_limit=1000),))
    run = after(spec, new_run(is_background=True), "sf" * 200)
    known = run.metric("m")
    assert len(known.measurements) == 100
    assert known.measurements[-1].at == START + 400
    assert (known.successful, known.failed, known.answered) == (200, 200, 400)


@pytest.mark.parametrize("count", [1, 2, 7, METRICS_LIMIT])
def test_the_largest_record_is_below_100_kb(count: int) -> None:
    metrics = tuple(metric("n" * 60 + f"{number:04d}", count=0, failure_limit=10**6) for number in range(count))
    spec = AnalysisSpec("e" * 64, metrics)
    run = new_run(is_background=True)
    long = metric(success_condition="result." + "f" * 80)
    for each in metrics:
        for second in range(kept_measurements(count) + 3):
            taken = measurement(long, {"ж" * 300: 1}, "ж" * 500, START + second)
            assert taken.verdict is E
            run = with_measurement(spec, run, each.name, replace(taken, verdict=F))
    payload = encode(run)
    assert len(payload) < 100_000
    assert decode(AnalysisRun, payload) == run
    assert len(run.metrics[0].measurements) == kept_measurements(count)


def test_a_query_is_filled_with_the_names_of_its_rollout_and_nothing_else() -> None:
    run = new_run()
    query = PrometheusQuery("http://p:9090", 'sum(rate(e{app="{app}",rev="{revision}",x=~"{worker}|{node}"}[1m]))')
    found = filled(query, run)
    assert isinstance(found, PrometheusQuery)
    assert found.query == 'sum(rate(e{app="shop",rev="3",x=~"web|{node}"}[1m]))'
    assert filled(WebQuery("http://h/{namespace}/{stable}"), run) == WebQuery("http://h/default/2")
    assert filled(ExecQuery(("check", "{worker}={revision}")), run) == ExecQuery(("check", "web=3"))
    assert filled(BuiltinFigure("ready"), run) == BuiltinFigure("ready")


def test_a_measurement_without_an_answer_says_why() -> None:
    assert unanswered("x" * 900, 5.0) == Measurement(5.0, E, "", "x" * 197 + "...")


# Figures


def _figures(statuses: list[InstanceStatus] | None = None) -> dict[str, float | None]:
    worker = make_worker(replicas=4, limits=LimitsSpec(memory=MemoryLimits(max_rss_bytes=1000)))
    view = make_view(make_revision(2, worker), make_revision(3, worker), assignments=ORDERS, statuses=statuses)
    return {name: figure(name, view, new_run())[0] for name in FIGURES}


ORDERS = [
    make_assignment(slot("web", 0), "a", revision=2),
    make_assignment(slot("web", 1), "a", revision=2),
    make_assignment(slot("web", 2), "a", revision=3),
    make_assignment(slot("web", 3), "b", revision=3),
    make_assignment(slot("db", 0), "b", revision=3),
]


def test_figures_of_a_set_that_is_well() -> None:
    found = _figures()
    assert found == {
        **dict.fromkeys(FIGURES, 0),
        "instances": 2,
        "ready": 2,
        "ready_ratio": 1.0,
    }


def test_figures_of_the_new_set_and_how_it_compares_with_the_stable_one() -> None:
    ended = LastExit(1, at=5.0, cpu_s=2.5, max_rss_bytes=800)
    old = LastExit(None, "SIGTERM", cpu_s=99.0, max_rss_bytes=9999)  # of the process that was replaced
    found = _figures(
        [
            replace(make_status(ORDERS[0], restarts=1), last_exit=ended),
            make_status(ORDERS[1]),
            replace(make_status(ORDERS[2], State.RESTARTING, restarts=3), last_exit=ended, breaker="open"),
            replace(make_status(ORDERS[3]), last_exit=old),
            make_status(ORDERS[4], restarts=50),
        ]
    )
    assert found == {
        "instances": 2,
        "ready": 1,
        "not_ready": 1,
        "ready_ratio": 0.5,
        "restarts": 3,
        "restarts_per_instance": 1.5,
        "restarts_above_stable": 1.0,
        "exit_failures": 1,
        "failed": 0,
        "open_breakers": 1,
        "exit_max_rss_bytes": 800.0,
        "exit_max_rss_to_limit": 0.8,
        "exit_cpu_s": 2.5,
    }


def test_a_status_of_an_earlier_order_says_nothing_of_the_new_set() -> None:
    found = _figures([make_status(ORDERS[2], epoch=4, restarts=9), make_status(ORDERS[3], epoch=4, restarts=9)])
    assert (found["restarts"], found["ready"], found["not_ready"]) == (0, 0, 2)


def test_figures_that_there_are_not_say_why() -> None:
    worker = make_worker()
    alone = make_view(make_revision(3, worker), assignments=[ORDERS[2]])
    assert figure("restarts_above_stable", alone, new_run())[1].startswith("worker web has no instance of another")
    assert figure("exit_max_rss_to_limit", alone, new_run())[1] == "worker web has no limits.memory.max_rss"
    empty = make_view(make_revision(3, worker))
    assert figure("ready", empty, new_run()) == (None, "worker web has no instance of revision 3")


# What a deploy would change


def test_a_change_of_an_analysis_is_told_before_a_deploy() -> None:
    def spec(*metrics: MetricSpec) -> Any:
        return replace(make_revision(1, make_worker()).spec, analyses=(AnalysisSpec("errors", metrics),))

    before = spec(metric(count=3))
    after = spec(replace(metric(count=5), query=WebQuery("http://h/")))
    changes = {change.path: (change.before, change.after) for change in diff_specs(before, after)}
    assert changes == {
        "analyses.errors.m.count": ("3", "5"),
        "analyses.errors.m.query.figure": ("restarts", None),
        "analyses.errors.m.query.kind": ("BuiltinFigure", "WebQuery"),
        "analyses.errors.m.query.timeout_s": (None, "10.0"),
        "analyses.errors.m.query.url": (None, "http://h/"),
    }
    assert diff_specs(before, before) == ()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "dry"]), st.sampled_from("sfei"), st.booleans()), max_size=60),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_whatever_is_measured_counters_add_up_and_what_is_over_stays_over(
    measured: list[tuple[str, str, bool]], is_background: bool, count: int, limit: int
) -> None:
    limits = {"failure_limit": limit, "inconclusive_limit": limit, "consecutive_error_limit": limit}
    names = ("a", "b", "dry")
    spec = AnalysisSpec("errors", tuple(metric(n, count=count, is_dry_run=n == "dry", **limits) for n in names))
    run = judged(spec, new_run(is_background=is_background), START)
    for second, (name, letter, is_ended) in enumerate(measured, 1):
        if name not in due(spec, run):
            continue
        before = run.metric(name)
        run = with_measurement(spec, run, name, Measurement(START + second, LETTERS[letter], letter))
        run = judged(spec, replace(run, is_ended=run.is_ended or is_ended), START + second)
        known = run.metric(name)
        assert known.answered + known.errors == before.answered + before.errors + 1
        assert (run.finished_at is None) == (run.verdict not in OVER)
        assert (run.finished_at is not None) <= (not due(spec, run))
        real = [each for each in run.metrics if not each.is_dry_run]
        exceeded = [each for each in real if each.failed > limit]
        assert (run.verdict is F) == bool(exceeded)
        if run.verdict is S and is_background:
            assert all(each.answered for each in real)
    assert judged(spec, run, START + 999) == run
