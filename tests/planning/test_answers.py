"""What people get told: health, forecasts, differences; and failover, access and the verbs."""

from __future__ import annotations

import pytest

from hsu_cluster.planning.access import Permission, Role, is_allowed
from hsu_cluster.planning.diff import diff_specs
from hsu_cluster.planning.explain import WorkerAction, plan_deploy
from hsu_cluster.planning.health import AppHealth, Phase, health_of
from hsu_cluster.planning.intents import deploy, restart, scale, start, stop
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.assignment import AppRecord, WorkerIntent
from hsu_core.model.errors import Conflict, InvalidInput, NotFound
from hsu_core.model.ids import TargetName
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import FileSpec, RestartPolicy, RestartSpec
from hsu_core.model.view import ClusterView
from tests.support.builders import (
    SHOP,
    make_assignment,
    make_node,
    make_revision,
    make_status,
    make_view,
    make_worker,
    slot,
)

NODES = (make_node("a"), make_node("b"))
HELD = [make_assignment(slot("web", number), "ab"[number]) for number in range(2)]
REVISION = make_revision(1, make_worker(replicas=2))
SPEC = make_revision(1, make_worker("web", 3), make_worker("db", 1)).spec
RECORD = AppRecord(SHOP, 1)


def _health(view: ClusterView) -> AppHealth:
    return health_of(view, SHOP, reconcile(view, 0.0).unplaced, 0.0)


# --- health --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "options", "phase", "reason"),
    [
        (State.RUNNING, {}, Phase.HEALTHY, "AllAvailable"),
        (State.STARTING, {}, Phase.PROGRESSING, "Starting"),
        (State.RUNNING, {"is_ready": False, "restarts": 2}, Phase.PROGRESSING, "Starting"),
        (State.RESTARTING, {"restarts": 3}, Phase.DEGRADED, "CrashLooping"),
        (State.RUNNING, {"restarts": 30}, Phase.HEALTHY, "AllAvailable"),
        (State.FAILED, {"exit_code": 1}, Phase.DEGRADED, "InstanceFailed"),
        (State.FAILED, {"epoch": 4}, Phase.PROGRESSING, "Starting"),
        (State.STOPPED, {"exit_code": 0}, Phase.HEALTHY, "AllAvailable"),
        (State.STOPPED, {"exit_code": 3}, Phase.PROGRESSING, "Starting"),
    ],
)
def test_phase_of_an_app_follows_its_worst_instance(
    state: State, options: dict[str, int], phase: Phase, reason: str
) -> None:
    statuses = [make_status(HELD[0]), make_status(HELD[1], state, **options)]  # type: ignore[arg-type]
    health = _health(make_view(REVISION, nodes=NODES, assignments=HELD, statuses=statuses))
    assert (health.phase, health.reason) == (phase, reason)


def test_an_always_restarted_worker_that_ended_is_not_healthy() -> None:
    spec = make_worker(replicas=1, restart=RestartSpec(policy=RestartPolicy.ALWAYS))
    ended = [make_status(HELD[0], State.STOPPED, exit_code=0)]
    health = _health(make_view(make_revision(1, spec), nodes=NODES, assignments=HELD[:1], statuses=ended))
    assert health.phase is Phase.PROGRESSING


def test_an_instance_without_a_node_degrades_its_app_with_the_reason() -> None:
    health = _health(make_view(make_revision(1, make_worker(cpu=9000)), nodes=NODES))
    assert (health.phase, health.reason) == (Phase.DEGRADED, "Unschedulable")
    assert health.text == "cannot place shop/web.0: 2 of 2 nodes lack 9 of free cpu (most free: a, 4)"
    assert health.workers[0].unplaced_reason == "2 of 2 nodes lack 9 of free cpu (most free: a, 4)"


def test_an_app_stopped_on_request_is_stopped() -> None:
    held = [make_assignment(one.instance, one.node, is_stopped=True) for one in HELD]
    view = make_view(REVISION, nodes=NODES, assignments=held, intents={"web": WorkerIntent(is_stopped=True)})
    assert _health(view).phase is Phase.STOPPED


def test_an_app_in_a_wave_is_progressing_and_counts_what_is_updated() -> None:
    view = make_view(
        REVISION,
        make_revision(2, make_worker(replicas=2), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=[HELD[0], make_assignment(slot("web", 1), "b", revision=2, spec_hash="s2")],
    )
    health = _health(view)
    assert (health.phase, health.reason) == (Phase.PROGRESSING, "Updating")
    assert (health.workers[0].updated, health.workers[0].ready, health.workers[0].replicas) == (1, 2, 2)


# --- forecast ------------------------------------------------------------------------------------


def test_a_first_deploy_creates_and_shows_where_and_what_does_not_fit() -> None:
    plan = plan_deploy(make_view(nodes=NODES), make_revision(1, make_worker(replicas=3, cpu=3000)))
    assert plan.has_changes
    assert plan.current_revision is None
    (change,) = plan.workers
    assert (change.action, change.added, change.unplaced) == (WorkerAction.CREATE, 2, 1)
    assert sorted(plan.placements.values()) == ["a", "b"]
    assert list(plan.unplaced.values()) == ["2 of 2 nodes lack 3 of free cpu (most free: a, 1)"]


def test_the_same_content_changes_nothing() -> None:
    view = make_view(REVISION, nodes=NODES, assignments=HELD)
    plan = plan_deploy(view, REVISION)
    assert not plan.has_changes
    assert [change.action for change in plan.workers] == [WorkerAction.NONE]


def test_a_forecast_tells_restarts_from_updates_in_place_and_removals() -> None:
    view = make_view(
        make_revision(1, make_worker("web", 2), make_worker("log"), make_worker("old")),
        nodes=NODES,
        assignments=[*HELD, make_assignment(slot("log", 0), "a"), make_assignment(slot("old", 0), "a")],
    )
    new = make_revision(2, make_worker("web", 2), make_worker("log", 2), make_worker("new"), hashes={"web": "s2"})
    changes = {change.worker: change for change in plan_deploy(view, new).workers}
    assert {name: change.action for name, change in changes.items()} == {
        "web": WorkerAction.RESTART,
        "log": WorkerAction.UPDATE,
        "new": WorkerAction.CREATE,
        "old": WorkerAction.REMOVE,
    }
    assert (changes["web"].restarted, changes["log"].added, changes["old"].removed) == (2, 1, 1)


def test_differences_are_named_by_field_and_hide_file_contents() -> None:
    before = make_revision(1, make_worker(replicas=2, ports={"http": 80}, files=(FileSpec("a.toml", "secret"),)))
    after = make_revision(2, make_worker(replicas=3, ports={"http": 0}, files=(FileSpec("a.toml", "secret2"),)))
    changes = {change.path: (change.before, change.after) for change in diff_specs(before.spec, after.spec)}
    assert changes == {
        "workers.web.files.a.toml": ("6 bytes, crc32 5ca2e8e5", "7 bytes, crc32 cae90a12"),
        "workers.web.ports.http": ("80", "dynamic"),
        "workers.web.replicas": ("2", "3"),
    }


# --- access --------------------------------------------------------------------------------------


def test_the_access_table_denies_whatever_it_does_not_name() -> None:
    granted = {
        (role, permission)
        for role in (*Role, None, "stranger")
        for permission in (*Permission, "other")
        if is_allowed(role, permission)
    }
    assert granted == {
        *((role, Permission.PUBLIC) for role in (*Role, None, "stranger")),
        (Role.ADMIN, Permission.READ),
        (Role.ADMIN, Permission.WRITE),
        (Role.ADMIN, Permission.ADMIN),
        (Role.NODE, Permission.NODE),
    }


# --- verbs ---------------------------------------------------------------------------------------


def test_a_deploy_takes_back_a_scale_only_where_the_file_states_replicas_and_keeps_stops() -> None:
    record = AppRecord(
        SHOP, 1, (("db", WorkerIntent(replicas=4)), ("gone", WorkerIntent()), ("web", WorkerIntent(5, is_stopped=True)))
    )
    revision = make_revision(2, make_worker("web"), make_worker("db"))
    after = deploy(record, revision, ["web"])
    assert after.revision == 2
    assert after.intents == (("db", WorkerIntent(replicas=4)), ("web", WorkerIntent(is_stopped=True)))


def test_scale_forgets_stops_of_slots_that_go() -> None:
    record = stop(RECORD, SPEC, TargetName("shop", "web", 2))
    assert scale(record, SPEC, "web", 2).intent("web") == WorkerIntent(replicas=2)


def test_one_slot_of_a_stopped_worker_starts_alone() -> None:
    record = stop(RECORD, SPEC, TargetName("shop", "web"))
    assert start(record, SPEC, TargetName("shop", "web", 1)).intent("web") == WorkerIntent(stopped_slots=(0, 2))
    assert start(record, SPEC, TargetName("shop")).intents == ()


def test_restart_raises_the_generation_of_the_app_a_worker_or_a_slot() -> None:
    assert restart(RECORD, SPEC, TargetName("shop")).intent("db").generation(0) == 1
    one = restart(RECORD, SPEC, TargetName("shop", "web", 1)).intent("web")
    assert [one.generation(number) for number in range(3)] == [0, 1, 0]


def test_restart_of_what_is_stopped_is_refused() -> None:
    record = stop(RECORD, SPEC, TargetName("shop", "web"))
    with pytest.raises(Conflict, match="start it with `hsu-cluster start shop/web`"):
        restart(record, SPEC, TargetName("shop", "web"))


def test_unknown_targets_name_what_there_is() -> None:
    with pytest.raises(NotFound, match="revision 1 has worker web \\(a typing error\\?\\)"):
        stop(RECORD, SPEC, TargetName("shop", "wbe"))
    with pytest.raises(NotFound, match="worker web has 3 instances, numbered 0 to 2"):
        restart(RECORD, SPEC, TargetName("shop", "web", 3))
    with pytest.raises(InvalidInput, match="0 to 10000"):
        scale(RECORD, SPEC, "web", 10_001)
