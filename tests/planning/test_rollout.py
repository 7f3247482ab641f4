"""Rollouts over a small cluster that runs: each strategy well, badly, interrupted."""

from __future__ import annotations

from dataclasses import replace

from hsu_cluster.planning.intents import restart, start, stop
from hsu_cluster.planning.rollout_intents import abort
from hsu_core.model.ids import TargetName
from hsu_core.model.rollout import RolloutPhase
from hsu_core.model.rollout_spec import Pause, SetWeight
from hsu_core.model.spec import Guarantee
from tests.planning.shop import Shop, is_over, web
from tests.support.builders import SHOP, make_worker, slot


def test_a_rolling_update_surges_replaces_in_place_and_keeps_its_slots() -> None:
    shop = Shop(web())
    shop.deploy(web())
    seen = set()
    for _ in range(60):
        shop.step()
        seen.add(len(shop.slots()))
        assert shop.cluster.ready_count("web") >= 4
        if shop.rollout.is_over:
            break
    assert (max(seen), shop.slots(), shop.revisions()) == (5, [0, 1, 2, 3], {2: 4})
    assert shop.rollout.phase is RolloutPhase.HEALTHY


def test_the_first_deploy_has_no_steps_and_nothing_to_go_back_to() -> None:
    shop = Shop(web(3, "canary", steps=(SetWeight(10), Pause())))
    assert (shop.rollout.stable, shop.rollout.phase, shop.revisions()) == (0, RolloutPhase.HEALTHY, {1: 3})


def test_what_needs_no_restart_is_changed_in_place_at_once() -> None:
    shop = Shop(web())
    shop.deploy(web(6), hashes={"web": "s1"})
    shop.until(is_over)
    assert shop.revisions() == {2: 6}
    assert shop.rollout.workers[0].strategy == "in-place"


def test_a_version_that_crashes_is_rolled_back_by_its_early_ends() -> None:
    shop = Shop(web())
    shop.deploy(web(), is_broken="crashing")
    for _ in range(40):
        shop.step()
        assert shop.cluster.ready_count("web") >= 4
        if shop.rollout.is_over:
            break
    assert (shop.rollout.phase, shop.rollout.reason) == (RolloutPhase.DEGRADED, "RolledBack")
    assert "early ends of new instances of web" in shop.rollout.failed_why
    assert (shop.revisions(), shop.slots()) == ({1: 4}, [0, 1, 2, 3])
    assert shop.codes() == ["RolloutStarted", "RollbackStarted", "RolledBack"]


def test_a_version_that_never_gets_ready_is_rolled_back_at_the_deadline() -> None:
    shop = Shop(web())
    shop.deploy(web(progress_deadline_s=20.0), is_broken="broken")
    started_s = shop.cluster.now_s
    rollout = shop.until(is_over)
    assert rollout.reason == "RolledBack"
    assert "no progress for 20 s (progress_deadline)" in rollout.failed_why
    assert 20 <= (rollout.failed_at or 0) - started_s <= 26
    assert shop.revisions() == {1: 4}


def test_with_rollback_off_a_failed_rollout_stops_and_waits() -> None:
    shop = Shop(web())
    shop.deploy(web(is_auto_rollback=False), is_broken="crashing")
    rollout = shop.until(lambda rollout: rollout.phase is RolloutPhase.PAUSED)
    assert "auto_rollback is off" in rollout.text
    assert shop.cluster.ready_count("web") >= 4
    before = shop.cluster.view().rollouts
    for _ in range(10):
        shop.step()
    assert shop.cluster.view().rollouts == before, "it is written once, and stays failed"
    shop.ask(abort)
    assert shop.until(is_over).reason == "Aborted"


def test_a_revision_that_was_stopped_before_it_worked_is_not_promoted() -> None:
    shop = Shop(web())
    shop.deploy(web(), is_broken="broken")
    shop.step()
    spec = shop.cluster.revisions[SHOP, 2].spec
    shop.cluster.apps[SHOP] = stop(shop.cluster.apps[SHOP], spec, TargetName("shop"))
    for _ in range(20):
        shop.step()
    assert not shop.rollout.is_over
    assert "stopped on request" in shop.rollout.text
    shop.cluster.apps[SHOP] = start(shop.cluster.apps[SHOP], spec, TargetName("shop"))
    shop.cluster.broken_hashes.clear()
    assert shop.until(is_over).phase is RolloutPhase.HEALTHY


def test_a_worker_that_is_disabled_stays_until_the_outcome_is_decided() -> None:
    shop = Shop(web(2), make_worker("log"))
    off = make_worker("log", is_enabled=False)
    shop.deploy(web(2, progress_deadline_s=10.0), off, hashes={"log": "s1"})
    shop.cluster.broken_hashes.add("s2")
    shop.step()
    assert shop.revisions("log") == {1: 1}
    assert shop.until(is_over).reason == "RolledBack"
    assert shop.revisions("log") == {1: 1}
    shop.deploy(web(2), off)
    shop.until(is_over)
    shop.step()
    assert shop.revisions("log") == {}


def test_a_worker_that_waits_for_another_has_no_deadline_yet() -> None:
    first = make_worker("db", min_healthy_s=20.0)
    second = replace(web(1, progress_deadline_s=5.0), depends_on=("db",))
    shop = Shop(first, second)
    shop.deploy(first, second)
    assert shop.until(is_over).phase is RolloutPhase.HEALTHY


def test_a_strict_worker_never_gets_a_second_set() -> None:
    worker = replace(web(1, "blue-green"), guarantee=Guarantee.STRICT)
    shop = Shop(worker)
    shop.deploy(worker)
    for _ in range(20):
        shop.step()
        assert len(shop.slots()) == 1
    assert (shop.rollout.phase, shop.revisions()) == (RolloutPhase.HEALTHY, {2: 1})


def test_a_restart_keeps_a_floor_that_was_asked_for() -> None:
    shop = Shop(web(2))
    spec = shop.cluster.revisions[SHOP, 1].spec
    shop.cluster.apps[SHOP] = restart(shop.cluster.apps[SHOP], spec, TargetName("shop", "web"))
    for _ in range(40):
        shop.step()
        assert shop.cluster.ready_count("web") >= 2
    assert shop.slots() == [0, 1]
    assert {assignment.generation for assignment in shop.cluster.assignments.values()} == {1}


def test_a_new_worker_that_fails_takes_the_whole_app_back() -> None:
    shop = Shop(web(), make_worker("log"))
    shop.deploy(web(), make_worker("log"), make_worker("new"), hashes={"web": "s1", "log": "s1"}, is_broken="crashing")
    shop.cluster.crashing_hashes -= {"s1"}
    assert shop.until(is_over).reason == "RolledBack"
    assert (shop.revisions("new"), shop.revisions("log")) == ({}, {1: 1})


def test_workers_roll_in_the_order_of_their_dependencies_and_go_back_together() -> None:
    shop = Shop(make_worker("db"), web(2))
    rule = make_worker("db"), replace(web(2), depends_on=("db",))
    shop.deploy(*rule, is_broken="crashing")
    shop.cluster.crashing_hashes = set()
    shop.step()
    assert (shop.revisions("db"), shop.revisions("web")) == ({2: 1}, {1: 2})
    shop.until(is_over)
    assert (shop.revisions("db"), shop.revisions("web")) == ({2: 1}, {2: 2})
    shop.deploy(*rule, hashes={"db": "d3", "web": "bad"})
    shop.cluster.crashing_hashes = {"bad"}
    assert shop.until(is_over).reason == "RolledBack"
    assert (shop.revisions("db"), shop.revisions("web")) == ({2: 1}, {2: 2})


def test_a_worker_that_the_new_revision_lacks_stays_until_the_outcome_is_decided() -> None:
    shop = Shop(web(), make_worker("old"))
    shop.deploy(web())
    shop.step()
    assert shop.revisions("old") == {1: 1}
    shop.until(is_over)
    shop.step()
    assert shop.revisions("old") == {}


def test_a_worker_that_holds_what_its_successor_needs_goes_at_once() -> None:
    shop = Shop(make_worker("old", ports={"http": 80}), nodes=1)
    shop.deploy(make_worker("new", ports={"http": 80}))
    shop.until(is_over)
    assert (shop.revisions("old"), shop.revisions("new")) == ({}, {2: 1})


def test_recreate_stops_all_before_any_starts() -> None:
    shop = Shop(web(3, "recreate"))
    shop.deploy(web(3, "recreate"))
    for _ in range(40):
        shop.step()
        hashes = {p.order.spec_hash for p in shop.cluster.processes.values() if p.state in ("running", "starting")}
        assert len(hashes) <= 1
        if shop.rollout.is_over:
            break
    assert shop.revisions() == {2: 3}


def test_where_nothing_can_be_started_beside_it_an_instance_is_replaced_in_place() -> None:
    worker = replace(web(1), ports=make_worker(ports={"http": 80}).ports)
    percent = replace(worker, rollout=replace(worker.rollout, max_unavailable=25, is_max_unavailable_percent=True))
    shop = Shop(percent, nodes=1)
    shop.deploy(percent)
    shop.until(is_over)
    assert shop.revisions() == {2: 1}


def test_a_floor_that_was_asked_for_is_kept_even_if_nothing_fits_beside() -> None:
    worker = replace(web(1), ports=make_worker(ports={"http": 80}).ports)
    shop = Shop(worker, nodes=1)
    shop.deploy(worker)
    shop.step()
    assert "room: 1 of 1 instances beside those that run have no place" in shop.rollout.text
    for _ in range(20):
        shop.step()
        assert shop.cluster.ready_count("web") == 1
    assert (shop.revisions(), shop.rollout.reason) == ({1: 1}, "RolledBack")
    assert shop.cluster.epochs[slot("web", 0)] == shop.cluster.assignments[slot("web", 0)].epoch


def test_a_second_set_that_has_no_place_is_never_begun() -> None:
    shop = Shop(make_worker("web", 3, cpu=2500, ports=("http",)), nodes=1)
    shop.deploy(make_worker("web", 3, cpu=2500, ports=("http",), strategy="blue-green"))
    for _ in range(20):
        shop.step()
        assert shop.revisions() == {1: 3} or shop.rollout.is_over
    assert shop.rollout.reason == "RolledBack"
    assert "3 of 3 instances beside those that run have no place" in shop.rollout.failed_why


def test_a_strict_worker_never_gets_a_second_instance_beside_it() -> None:
    worker = replace(web(1), guarantee=Guarantee.STRICT)
    shop = Shop(worker)
    shop.deploy(worker)
    for _ in range(20):
        shop.step()
        assert len(shop.slots()) == 1
    assert shop.rollout.phase is RolloutPhase.HEALTHY
