"""Canaries and blue-green over a small cluster that runs, and rollbacks that do not get there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsu_cluster.planning.intents import deploy, scale
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.rollout_begin import begin, revision_state
from hsu_cluster.planning.rollout_intents import abort, pause, promote, promote_full, resume, retry
from hsu_core.model.analysis import Verdict
from hsu_core.model.errors import Conflict
from hsu_core.model.rollout import RolloutPhase, Stage
from hsu_core.model.rollout_spec import Analyse, Approve, Pause, SetCanaryScale, SetWeight
from hsu_core.model.view import PutAssignment
from tests.planning.shop import Shop, is_over, judge, waits_for, web
from tests.support.builders import SHOP

# --- canary --------------------------------------------------------------------------------------

STEPS = (SetWeight(25), Pause(), SetWeight(50), Pause(5.0), Approve("the numbers are good"))


def test_a_canary_without_a_router_shifts_instances_and_waits_where_it_should() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=STEPS))
    shop.until(waits_for("a person"))
    assert shop.revisions() == {1: 3, 2: 1}
    assert shop.rollout.phase is RolloutPhase.PAUSED
    shop.ask(promote)
    before = shop.cluster.apps[SHOP]
    shop.ask(promote)  # asked twice at the same place: once
    assert shop.cluster.apps[SHOP] == before
    shop.until(waits_for("a pause of 5 s"))
    assert shop.revisions() == {1: 2, 2: 2}
    with_pause_s = shop.cluster.now_s
    shop.until(waits_for("approval: the numbers are good"))
    assert shop.cluster.now_s - with_pause_s >= 5
    shop.ask(promote)
    shop.until(is_over)
    assert (shop.revisions(), shop.slots()) == ({2: 4}, [0, 1, 2, 3])


def test_a_promotion_that_nothing_waits_for_is_refused() -> None:
    shop = Shop(web())
    with pytest.raises(Conflict, match="it is over"):
        shop.ask(promote)
    shop.deploy(web(4, "canary", steps=STEPS))
    with pytest.raises(Conflict, match="nothing of it waits"):
        shop.ask(promote)


def test_promote_full_skips_steps_and_keeps_the_floor() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=STEPS))
    shop.step()
    shop.ask(promote_full)
    while not shop.rollout.is_over:
        shop.step()
        assert shop.cluster.ready_count("web") >= 4
    assert shop.revisions() == {2: 4}


def test_abort_beats_a_promotion_and_retry_begins_at_the_first_step() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=STEPS))
    shop.until(waits_for("a person"))
    shop.ask(promote)
    shop.ask(abort)
    with pytest.raises(Conflict, match="retry"):
        shop.ask(promote)
    rollout = shop.until(is_over)
    assert (rollout.reason, shop.revisions()) == ("Aborted", {1: 4})
    shop.ask(retry)
    rollout = shop.until(waits_for("a person"))
    assert (rollout.attempt, rollout.workers[0].step, shop.revisions()) == (1, 1, {1: 3, 2: 1})


def test_a_pause_stops_the_rollout_and_its_deadline() -> None:
    shop = Shop(web())
    shop.deploy(web(progress_deadline_s=10.0))
    shop.step()
    shop.ask(pause)
    shop.step()
    held = shop.revisions()
    for _ in range(30):
        shop.step()
    assert (shop.rollout.phase, shop.revisions()) == (RolloutPhase.PAUSED, held)
    shop.ask(resume)
    shop.until(is_over)
    assert (shop.rollout.phase, shop.revisions()) == (RolloutPhase.HEALTHY, {2: 4})


def test_scaling_a_paused_rollout_is_proportional() -> None:
    shop = Shop(web(4))
    shop.deploy(web(4))
    shop.until(lambda _: shop.revisions().get(2, 0) == 3)
    shop.ask(pause)
    for _ in range(6):
        shop.step()
    old, new = shop.revisions().get(1, 0), shop.revisions().get(2, 0)
    spec = shop.cluster.revisions[SHOP, 2].spec
    shop.cluster.apps[SHOP] = scale(shop.cluster.apps[SHOP], spec, "web", 8)
    for _ in range(6):
        shop.step()
    after = shop.revisions()
    assert sum(after.values()) >= 8
    assert after.get(1, 0) >= old
    assert after.get(2, 0) > new


def test_a_newer_deploy_takes_over_and_the_stable_revision_stays_the_proven_one() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=STEPS))
    shop.until(waits_for("a person"))
    shop.deploy(web(4, "canary", steps=STEPS))
    rollout = shop.until(waits_for("a person"))
    assert (rollout.stable, rollout.revision, shop.revisions()) == (1, 3, {1: 3, 3: 1})
    shop.ask(abort)
    shop.until(is_over)
    assert shop.revisions() == {1: 4}


def test_going_back_within_the_window_skips_the_steps() -> None:
    shop = Shop(web(4, "canary", steps=STEPS, rollback_window=1))
    shop.deploy(web(4, "canary", steps=STEPS, rollback_window=1))
    shop.step()
    shop.ask(promote_full)
    shop.until(is_over)
    first = shop.cluster.revisions[SHOP, 1]
    shop.number = 3
    shop.cluster.revisions[SHOP, 3] = replace(first, number=3)
    shop.cluster.apps[SHOP] = deploy(shop.cluster.apps[SHOP], shop.cluster.revisions[SHOP, 3])
    rollout = shop.until(is_over)
    assert (rollout.phase, shop.revisions()) == (RolloutPhase.HEALTHY, {3: 4})
    assert "RolloutPaused" not in shop.codes()[-4:]


def test_content_that_never_worked_has_its_steps_even_within_the_window() -> None:
    rule = web(4, "canary", steps=STEPS, rollback_window=3)
    shop = Shop(rule)
    shop.deploy(rule)
    shop.until(waits_for("a person"))
    shop.ask(abort)
    shop.until(is_over)
    shop.deploy(rule)
    shop.step()
    shop.ask(promote_full)
    shop.until(is_over)
    failed = shop.cluster.revisions[SHOP, 2]
    shop.number = 4
    shop.cluster.revisions[SHOP, 4] = replace(failed, number=4)
    shop.cluster.apps[SHOP] = deploy(shop.cluster.apps[SHOP], shop.cluster.revisions[SHOP, 4])
    assert not shop.until(waits_for("a person")).is_over


def test_a_routed_canary_is_whole_before_it_has_taken_over() -> None:
    shop = Shop(web(), is_routed=True)
    shop.deploy(web(4, "canary", steps=(SetCanaryScale(replicas=1), SetWeight(100), Pause(1.0))))
    shop.until(lambda rollout: rollout.workers[0].stage is Stage.SWITCHED or rollout.is_over)
    assert shop.revisions()[2] == 4


def test_a_requested_pause_does_not_eat_the_pause_of_a_step() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=(SetWeight(25), Pause(8.0))))
    shop.until(waits_for("a pause of 8 s"))
    shop.ask(pause)
    for _ in range(20):
        shop.step()
    with pytest.raises(Conflict, match="resume"):
        shop.ask(promote)
    shop.ask(resume)
    for _ in range(5):
        shop.step()
    assert waits_for("a pause of 8 s")(shop.rollout)


def test_an_inconclusive_background_analysis_pauses_the_canary() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=(SetWeight(25), Pause(5.0)), analysis=("errors",)))
    shop.until(waits_for("a pause"))
    judge(shop, "background", Verdict.INCONCLUSIVE)
    for _ in range(20):
        shop.step()
    assert "is inconclusive" in shop.rollout.text
    assert shop.revisions() == {1: 3, 2: 1}


def test_a_routed_canary_has_slots_of_its_own_and_its_weight_follows_its_instances() -> None:
    shop = Shop(web(), is_routed=True)
    steps = (SetCanaryScale(replicas=2), SetWeight(25), Pause())
    shop.deploy(web(4, "canary", steps=steps))
    while not waits_for("a person")(shop.rollout):
        shop.step()
        part = shop.rollout.workers[0]
        if part.traffic:
            assert shop.cluster.ready_count("web") >= 6
    assert (shop.revisions(), shop.slots()) == ({1: 4, 2: 2}, [0, 1, 2, 3, 100, 101])
    shop.ask(promote)
    rollout = shop.until(is_over)
    assert (rollout.phase, shop.revisions()) == (RolloutPhase.HEALTHY, {1: 4, 2: 4})
    shop.until(lambda rollout: rollout.workers[0].stage is Stage.DONE)
    shop.step()
    assert (shop.revisions(), shop.slots()) == ({2: 4}, [100, 101, 102, 103])


def test_an_aborted_routed_canary_loses_its_weight_at_once_and_its_instances_later() -> None:
    shop = Shop(web(), is_routed=True)
    shop.deploy(web(4, "canary", steps=(SetWeight(50), Pause()), abort_scale_down_delay_s=10.0))
    shop.until(waits_for("a person"))
    shop.ask(abort)
    shop.until(is_over)
    assert dict(shop.cluster.routes[SHOP, "web"].weights)["canary"] == 0
    assert shop.revisions() == {1: 4, 2: 2}
    for _ in range(14):
        shop.step()
    assert (shop.revisions(), shop.slots()) == ({1: 4}, [0, 1, 2, 3])


# --- blue-green ----------------------------------------------------------------------------------


def test_blue_green_switches_once_and_keeps_the_old_set_for_a_while() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "blue-green", scale_down_delay_s=8.0))
    shop.until(is_over)
    assert shop.revisions() == {1: 4, 2: 4}
    for _ in range(12):
        shop.step()
    assert (shop.revisions(), shop.slots()) == ({2: 4}, [100, 101, 102, 103])
    shop.deploy(web(4, "blue-green", scale_down_delay_s=0.0))
    shop.until(is_over)
    shop.step()
    assert (shop.revisions(), shop.slots()) == ({3: 4}, [0, 1, 2, 3])


def test_blue_green_waits_for_a_person_with_a_smaller_preview() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "blue-green", is_auto_promoted=False, preview_replicas=1))
    shop.until(waits_for("a person"))
    assert shop.revisions() == {1: 4, 2: 1}
    shop.ask(promote)
    shop.until(is_over)
    assert shop.revisions() == {1: 4, 2: 4}


def test_a_newer_revision_replaces_the_preview_at_once() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "blue-green", is_auto_promoted=False))
    shop.until(waits_for("a person"))
    shop.deploy(web(4, "blue-green", is_auto_promoted=False))
    shop.step()
    assert shop.revisions() == {1: 4, 3: 4}
    assert shop.rollout.stable == 1


@pytest.mark.parametrize(("key", "place"), [("pre_promotion", "pre"), ("post_promotion", "post")])
def test_a_failed_promotion_analysis_leaves_or_returns_the_traffic_to_the_old_set(key: str, place: str) -> None:
    shop = Shop(web(), is_routed=True)
    shop.deploy(web(4, "blue-green", **{key: ("errors",)}))
    shop.until(waits_for("analysis errors"))
    assert shop.revisions() == {1: 4, 2: 4}
    judge(shop, place, Verdict.FAILED)
    rollout = shop.until(is_over)
    assert (rollout.reason, dict(shop.cluster.routes[SHOP, "web"].weights)["canary"]) == ("RolledBack", 0)
    assert "analysis errors of worker web: Failed" in rollout.failed_why


def test_an_inconclusive_analysis_waits_for_a_person() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=(SetWeight(25), Analyse(("errors",)))))
    shop.until(waits_for("analysis errors"))
    judge(shop, "step1", Verdict.INCONCLUSIVE)
    rollout = shop.until(waits_for("is inconclusive"))
    assert rollout.phase is RolloutPhase.PAUSED
    shop.ask(promote)
    assert shop.until(is_over).phase is RolloutPhase.HEALTHY


def test_a_background_analysis_that_fails_turns_the_canary_back() -> None:
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=(SetWeight(25), Pause()), analysis=("errors",)))
    shop.until(waits_for("a person"))
    assert [run.is_background for run in shop.cluster.runs.values()] == [True]
    judge(shop, "background", Verdict.FAILED)
    assert shop.until(is_over).reason == "RolledBack"


# --- a rollback that cannot --------------------------------------------------------------------


def test_a_rollback_that_does_not_get_there_is_never_rolled_back_but_gives_alarm() -> None:
    shop = Shop(web(progress_deadline_s=20.0))
    shop.deploy(web(progress_deadline_s=20.0), is_broken="crashing")
    shop.until(lambda rollout: rollout.is_going_back)
    shop.cluster.broken_hashes.add("s1")  # the stable version fails too now
    rollout = shop.until(lambda rollout: rollout.phase is RolloutPhase.PAUSED)
    assert rollout.reason == "RollbackStuck"
    shop.cluster.broken_hashes.clear()
    assert shop.until(is_over).reason == "RolledBack"


def test_the_rollout_goes_on_from_its_record_after_any_plan_that_was_not_applied() -> None:
    """Another leader has the same records: the plan of the first, applied in part, changes nothing of the end."""
    shop = Shop(web())
    shop.deploy(web(4, "canary", steps=(SetWeight(50), Pause(2.0))))
    for number in range(60):
        if number % 3 == 0:  # a leader that dies after the first write of its plan
            plan = reconcile(shop.cluster.view(), shop.cluster.now_s)
            kept = [action for action in plan.actions if not isinstance(action, PutAssignment)]
            shop.cluster.apply(replace(plan, actions=tuple(kept[:1])))
        shop.step()
        assert shop.cluster.ready_count("web") >= 4
        if shop.rollout.is_over:
            break
    assert (shop.rollout.phase, shop.revisions()) == (RolloutPhase.HEALTHY, {2: 4})
    steps = [text for code, text in shop.cluster.events if code == "RolloutStep"]
    assert len(steps) == len(set(steps)) == 2


def test_a_rollout_that_is_scaled_to_nothing_proves_nothing_until_an_instance_works() -> None:
    shop = Shop(web(2))
    shop.deploy(web(2), is_broken="crashing")
    shop.step()
    record = shop.cluster.apps[SHOP]
    shop.cluster.apps[SHOP] = scale(record, shop.cluster.revisions[SHOP, 2].spec, "web", 0)
    shop.cluster.touch()
    rollout = shop.until(is_over)
    assert rollout.text == (
        "revision 2 is rolled out; it is not proven, as web was scaled to 0 before an instance of it was seen to work"
    )
    assert [revision_state(rollout, number) for number in (1, 2, 3)] == ["proven", "unproven", "rolling-out"]
    assert begin(shop.cluster.view(), replace(shop.cluster.apps[SHOP], revision=2), 0.0).stable == 1
    shop.cluster.crashing_hashes.clear()
    shop.cluster.apps[SHOP] = scale(shop.cluster.apps[SHOP], shop.cluster.revisions[SHOP, 2].spec, "web", 2)
    shop.cluster.touch()
    rollout = shop.until(lambda rollout: not rollout.is_unproven)
    assert [revision_state(rollout, number) for number in (1, 2)] == ["proven", "stable"]


def test_the_state_of_a_revision_that_failed_is_told() -> None:
    shop = Shop(web(2))
    shop.deploy(web(2), is_broken="crashing")
    rollout = shop.until(is_over)
    assert [revision_state(rollout, number) for number in (1, 2)] == ["stable", "failed"]
    shop.deploy(web(2))
    rollout = shop.until(is_over)
    assert [revision_state(rollout, number) for number in (1, 2, 3)] == ["proven", "unproven", "stable"]
    assert revision_state(None, 1) == ""
