"""What must hold of every rollout, over generated histories of deploys, verbs and broken versions."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.intents import scale
from hsu_cluster.planning.layout import app_layouts
from hsu_cluster.planning.rollout_intents import abort, pause, promote, promote_full, resume, retry
from hsu_cluster.planning.rollout_math import canary_counts, fenceposts
from hsu_core.model.errors import Conflict
from hsu_core.model.rollout import RolloutPhase, Stage
from hsu_core.model.rollout_spec import Approve, Pause, SetWeight
from hsu_core.model.spec import WorkerSpec
from tests.planning.shop import Shop
from tests.support.builders import SHOP, make_worker

QUICK = settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
VERBS = {
    "promote": promote,
    "full": promote_full,
    "pause": pause,
    "resume": resume,
    "abort": abort,
    "retry": retry,
}
EVENTS = st.lists(
    st.sampled_from(("good", "crashing", "unready", *VERBS, *["act", "report", "plan", "route"] * 2, *["step"] * 12)),
    min_size=40,
    max_size=90,
)
RULES = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(("rolling", "canary", "blue-green")),
        "max_surge": st.integers(0, 2),
        "max_unavailable": st.integers(0, 2),
        "is_max_unavailable_percent": st.just(False),
        "is_auto_promoted": st.booleans(),
        "steps": st.lists(
            st.sampled_from((SetWeight(10), SetWeight(40), SetWeight(75), Pause(2.0), Pause(), Approve())), max_size=4
        ).map(tuple),
        "progress_deadline_s": st.just(30.0),
        "scale_down_delay_s": st.sampled_from((0.0, 5.0)),
        "abort_scale_down_delay_s": st.just(3.0),
    }
)


def _worker(replicas: int, rule: dict[str, Any]) -> WorkerSpec:
    return make_worker("web", replicas, ports=("http",), rollout=rule)


def _happen(shop: Shop, event: str, worker: WorkerSpec) -> None:
    cluster = shop.cluster
    match event:
        case "good":
            shop.deploy(worker)
        case "crashing":
            shop.deploy(worker, is_broken="crashing")
        case "unready":
            shop.deploy(worker, is_broken="broken")
        case "act" | "report":
            for name in cluster.nodes:
                getattr(cluster, event)(name)
            cluster.touch()
        case "plan":
            cluster.plan_and_apply()
        case "step":
            shop.step()
        case verb if verb in VERBS:
            with contextlib.suppress(Conflict):  # it means nothing at this place
                shop.ask(VERBS[verb])


@QUICK
@given(replicas=st.integers(1, 6), rule=RULES, is_routed=st.booleans(), events=EVENTS)
def test_the_floor_holds_and_nothing_exceeds_the_ceiling_at_every_event(
    replicas: int, rule: dict[str, Any], is_routed: bool, events: list[str]
) -> None:
    worker = _worker(replicas, rule)
    shop = Shop(worker, is_routed=is_routed)
    surge, unavailable = fenceposts(worker.rollout, replicas)
    for event in events:
        _happen(shop, event, worker)
        assert shop.cluster.ready_count("web") >= replicas - unavailable, event
        lowest = [slot for slot in shop.slots() if slot < 100]
        highest = [slot for slot in shop.slots() if slot >= 100]
        assert len(lowest) <= replicas + surge
        assert len(highest) <= replicas + surge
        if rule["strategy"] == "rolling":
            assert not highest


@QUICK
@given(replicas=st.integers(1, 8), weight=st.integers(1, 99), surge=st.integers(0, 2), events=EVENTS)
def test_canaries_never_exceed_their_share(replicas: int, weight: int, surge: int, events: list[str]) -> None:
    rule = {"strategy": "canary", "max_surge": surge, "steps": (SetWeight(weight), Pause())}
    worker = _worker(replicas, rule)
    shop = Shop(worker)
    shop.deploy(worker)
    limit, _ = canary_counts(replicas, weight, surge)
    for event in events:
        if event in ("full", "promote", "good", "crashing", "unready"):
            continue
        _happen(shop, event, worker)
        assert shop.revisions().get(2, 0) <= limit
        running = [process for process in shop.cluster.processes.values() if process.is_ready]
        assert sum(process.order.revision == 2 for process in running) <= limit


@QUICK
@given(replicas=st.integers(0, 5), rule=RULES, is_routed=st.booleans(), events=EVENTS, scaled=st.integers(0, 6))
def test_a_cluster_without_faults_reaches_an_end_whatever_was_asked_before(
    replicas: int, rule: dict[str, Any], is_routed: bool, events: list[str], scaled: int
) -> None:
    worker = _worker(replicas, rule)
    shop = Shop(worker, is_routed=is_routed)
    for index, event in enumerate(events):
        _happen(shop, event, worker)
        if index == len(events) // 2:
            record = shop.cluster.apps[SHOP]
            spec = shop.cluster.revisions[SHOP, record.revision].spec
            shop.cluster.apps[SHOP] = scale(record, spec, "web", scaled)
    for verb in ("resume", "full"):
        _happen(shop, verb, worker)
    rollout = shop.until(lambda rollout: rollout.is_over, limit=200)
    for _ in range(20):
        shop.step()
    rollout = shop.rollout
    expected = rollout.stable if rollout.is_going_back else rollout.revision
    assert rollout.phase is (RolloutPhase.DEGRADED if rollout.is_going_back else RolloutPhase.HEALTHY)
    assert all(part.stage is Stage.DONE or not part.has_two_sets for part in rollout.workers)
    view = shop.cluster.view()
    (layout,) = app_layouts(view.apps[SHOP], view.revisions, rollout)
    assert shop.revisions() == ({expected: layout.replicas} if layout.replicas else {})
    assert shop.slots() == list(layout.wanted_slots)


@QUICK
@given(replicas=st.integers(1, 5), rule=RULES, is_routed=st.booleans(), steps=st.integers(0, 30))
def test_an_aborted_rollout_always_returns_to_the_stable_revision(
    replicas: int, rule: dict[str, Any], is_routed: bool, steps: int
) -> None:
    worker = _worker(replicas, rule)
    shop = Shop(worker, is_routed=is_routed)
    shop.deploy(worker)
    for _ in range(steps):
        shop.step()
    if shop.rollout.is_over:
        return  # it was faster
    shop.ask(abort)
    rollout = shop.until(lambda rollout: rollout.is_over)
    for _ in range(10):
        shop.step()
    assert rollout.reason == "Aborted"
    assert shop.revisions() == {1: replicas}
    assert shop.slots() == list(range(replicas))


@QUICK
@given(replicas=st.integers(1, 5), rule=RULES, is_routed=st.booleans(), events=EVENTS)
def test_no_step_is_done_twice_and_every_event_is_in_order(
    replicas: int, rule: dict[str, Any], is_routed: bool, events: list[str]
) -> None:
    worker = _worker(replicas, rule)
    shop = Shop(worker, is_routed=is_routed)
    shop.deploy(worker)
    places: dict[tuple[int, int], int] = {}
    for event in events:
        _happen(shop, event, worker)
        rollout = shop.rollout
        part = rollout.workers[0]
        key = (rollout.revision, rollout.attempt)
        assert part.position >= places.get(key, 0)
        places[key] = part.position
