"""The leader's planner, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.assignment import Assignment, WorkerIntent
from hsu_core.model.errors import Bug
from hsu_core.model.ids import AppId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.spec import Guarantee, PlacementSpec, PortSpec
from hsu_core.model.view import ClusterView, DropAssignment, DropStatus, Plan, PutAssignment
from tests.support.builders import (
    make_assignment,
    make_node,
    make_revision,
    make_status,
    make_view,
    make_worker,
    slot,
)

NODES = tuple(make_node(name) for name in "abc")
NOW_S = 1000.0


def _puts(plan: Plan) -> dict[str, Assignment]:
    return {
        action.assignment.instance.short: action.assignment
        for action in plan.actions
        if isinstance(action, PutAssignment)
    }


def _drops(plan: Plan) -> list[str]:
    return [action.instance.short for action in plan.actions if isinstance(action, DropAssignment)]


def _codes(plan: Plan) -> list[str]:
    return [item.code for item in plan.waiting]


def _running(count: int, worker: str = "web", **options: object) -> list[Assignment]:
    return [make_assignment(slot(worker, number), "abc"[number % 3], **options) for number in range(count)]  # type: ignore[arg-type]


def test_missing_slots_are_placed_with_the_epoch_after_the_view() -> None:
    plan = reconcile(make_view(make_revision(1, make_worker(replicas=3)), nodes=NODES), NOW_S)
    assert {order.node for order in _puts(plan).values()} == {"a", "b", "c"}
    assert {order.epoch for order in _puts(plan).values()} == {101}
    assert plan.waiting == ()


def test_a_cluster_that_is_as_asked_needs_nothing() -> None:
    view = make_view(make_revision(1, make_worker(replicas=3)), nodes=NODES, assignments=_running(3))
    assert reconcile(view, NOW_S) == Plan()


def test_scale_down_drops_the_highest_slots() -> None:
    view = make_view(
        make_revision(1, make_worker(replicas=3)),
        nodes=NODES,
        assignments=_running(3),
        intents={"web": WorkerIntent(replicas=1)},
    )
    assert _drops(reconcile(view, NOW_S)) == ["shop/web.1", "shop/web.2"]


def test_a_removed_app_a_removed_worker_and_a_disabled_worker_lose_their_slots() -> None:
    other = AppId("default", "gone")
    view = make_view(
        make_revision(2, make_worker("web"), make_worker("off", is_enabled=False)),
        nodes=NODES,
        assignments=[
            *_running(1, revision=2),
            *_running(1, "off"),
            *_running(1, "old"),
            make_assignment(slot("x", 0, other), "a"),
        ],
    )
    plan = reconcile(view, NOW_S)
    whys = {action.instance.short: action.why for action in plan.actions if isinstance(action, DropAssignment)}
    assert whys == {
        "gone/x.0": "app gone was removed",
        "shop/off.0": "worker off is disabled",
        "shop/old.0": "revision 2 has no worker old",
    }


def test_only_the_apps_asked_for_are_planned() -> None:
    view = make_view(
        make_revision(1, make_worker()), make_revision(1, make_worker(), app=AppId("default", "b")), nodes=NODES
    )
    assert list(_puts(reconcile(view, NOW_S, apps=[AppId("default", "b")]))) == ["b/web.0"]


def test_an_app_whose_revision_is_not_in_the_store_is_left_alone() -> None:
    whole = make_view(make_revision(1, make_worker(replicas=3)), nodes=NODES, assignments=_running(3))
    view = ClusterView(
        whole.revision, whole.apps, {}, whole.assignments, whole.statuses, whole.nodes, whole.node_intents
    )
    plan = reconcile(view, NOW_S)
    assert plan.actions == ()
    assert _codes(plan) == ["revision.missing"]


def test_a_worker_waits_until_what_it_depends_on_is_ready() -> None:
    revision = make_revision(1, make_worker("db"), make_worker("web", depends_on=("db",)))
    db = make_assignment(slot("db", 0), "a")
    starting = make_view(revision, nodes=NODES, assignments=[db], statuses=[make_status(db, State.STARTING)])
    plan = reconcile(starting, NOW_S)
    assert plan.actions == ()
    assert [item.text for item in plan.waiting] == [
        "shop/web waits until worker db has a ready instance: db.0 on a: starting"
    ]
    assert list(_puts(reconcile(make_view(revision, nodes=NODES, assignments=[db]), NOW_S))) == ["shop/web.0"]


def test_a_task_that_ended_well_satisfies_a_dependency() -> None:
    revision = make_revision(1, make_worker("migrate"), make_worker("web", depends_on=("migrate",)))
    done = make_assignment(slot("migrate", 0), "a")
    view = make_view(
        revision, nodes=NODES, assignments=[done], statuses=[make_status(done, State.STOPPED, exit_code=0)]
    )
    assert list(_puts(reconcile(view, NOW_S))) == ["shop/web.0"]


# --- waves ---------------------------------------------------------------------------------------


def test_a_new_revision_replaces_at_most_the_budget_and_says_what_it_waits_for() -> None:
    view = make_view(
        make_revision(1, make_worker(replicas=5)),
        make_revision(2, make_worker(replicas=5, max_unavailable="40%"), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=_running(5),
    )
    plan = reconcile(view, NOW_S)
    assert list(_puts(plan)) == ["shop/web.0", "shop/web.1"]
    assert [item.text for item in plan.waiting] == [
        "3 of 5 instances of shop/web are still to be replaced for revision 2, at least 3 stay available; "
        "waits for 2 being changed now"
    ]


def test_a_replaced_slot_keeps_its_node_and_the_ports_whose_names_remain() -> None:
    view = make_view(
        make_revision(1, make_worker(ports=("http", "old"))),
        make_revision(2, make_worker(ports=("http", "new")), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=[make_assignment(slot("web", 0), "b", ports={"http": 23456, "old": 23457})],
    )
    order = _puts(reconcile(view, NOW_S))["shop/web.0"]
    assert order.node == "b"
    assert dict(order.ports)["http"] == 23456
    assert list(dict(order.ports)) == ["http", "new"]


def test_a_failing_new_revision_stops_the_wave() -> None:
    old = _running(3)
    new = make_assignment(slot("web", 0), "a", epoch=50, revision=2, spec_hash="s2")
    view = make_view(
        make_revision(1, make_worker(replicas=3)),
        make_revision(2, make_worker(replicas=3), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=[new, *old[1:]],
        statuses=[make_status(new, State.RESTARTING, reason="exit code 1"), *(make_status(one) for one in old[1:])],
    )
    plan = reconcile(view, NOW_S)
    assert not _puts(plan)
    assert not _drops(plan)
    assert "waits for web.0 on a: restarting, exit code 1" in plan.waiting[0].text


def test_instances_that_serve_nothing_are_replaced_beside_the_budget() -> None:
    held = _running(4)
    view = make_view(
        make_revision(1, make_worker(replicas=4)),
        make_revision(2, make_worker(replicas=4), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=held,
        statuses=[*(make_status(one) for one in held[:2]), *(make_status(one, State.FAILED) for one in held[2:])],
    )
    assert list(_puts(reconcile(view, NOW_S))) == ["shop/web.2", "shop/web.3"]


def test_a_slot_counts_as_available_only_after_min_healthy() -> None:
    held = [make_assignment(slot("web", 0), "a", revision=2, spec_hash="s2"), *_running(2)[1:]]
    view = make_view(
        make_revision(1, make_worker(replicas=2)),
        make_revision(2, make_worker(replicas=2, min_healthy_s=10), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=held,
        statuses=[make_status(held[0], changed_at=NOW_S - 4), make_status(held[1])],
    )
    plan = reconcile(view, NOW_S)
    assert not _puts(plan)
    assert not _drops(plan)
    assert plan.retry_at_s == NOW_S + 6
    assert list(_puts(reconcile(view, NOW_S + 6))) == ["shop/web.1"]


def test_recreate_replaces_all_at_once() -> None:
    view = make_view(
        make_revision(1, make_worker(replicas=3)),
        make_revision(2, make_worker(replicas=3, strategy="recreate"), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=_running(3),
    )
    assert len(_puts(reconcile(view, NOW_S))) == 3


def test_a_revision_that_changes_nothing_that_runs_is_noted_in_all_slots_at_once() -> None:
    view = make_view(
        make_revision(1, make_worker(replicas=3)),
        make_revision(2, make_worker(replicas=3)),
        nodes=NODES,
        assignments=_running(3),
    )
    puts = _puts(reconcile(view, NOW_S))
    assert [order.node for order in puts.values()] == ["a", "b", "c"]
    assert {order.revision for order in puts.values()} == {2}


def test_a_slot_that_no_longer_fits_its_node_moves_to_another() -> None:
    nodes = (make_node("a", memory_mib=500), make_node("b", memory_mib=2000))
    view = make_view(
        make_revision(1, make_worker(memory_mib=400)),
        make_revision(2, make_worker(memory_mib=800), hashes={"web": "s2"}),
        nodes=nodes,
        assignments=[make_assignment(slot("web", 0), "a")],
    )
    assert _puts(reconcile(view, NOW_S))["shop/web.0"].node == "b"


def test_a_slot_that_fits_nowhere_with_the_new_revision_keeps_running_the_old() -> None:
    view = make_view(
        make_revision(1, make_worker(memory_mib=400)),
        make_revision(2, make_worker(memory_mib=9000), hashes={"web": "s2"}),
        nodes=NODES,
        assignments=[make_assignment(slot("web", 0), "a")],
    )
    plan = reconcile(view, NOW_S)
    assert not _puts(plan)
    assert not _drops(plan)
    assert list(plan.unplaced) == [slot("web", 0)]


def test_stop_and_start_are_immediate_and_a_restart_goes_in_waves() -> None:
    stopped = make_view(
        make_revision(1, make_worker(replicas=3)),
        nodes=NODES,
        assignments=_running(3),
        intents={"web": WorkerIntent(is_stopped=True)},
    )
    assert all(order.is_stopped for order in _puts(reconcile(stopped, NOW_S)).values())
    assert len(_puts(reconcile(stopped, NOW_S))) == 3
    restarted = make_view(
        make_revision(1, make_worker(replicas=3)),
        nodes=NODES,
        assignments=_running(3),
        intents={"web": WorkerIntent(restart_generation=1)},
    )
    assert [order.generation for order in _puts(reconcile(restarted, NOW_S)).values()] == [1]


def test_an_assignment_newer_than_the_view_is_a_bug() -> None:
    view = make_view(make_revision(1, make_worker(replicas=0)), nodes=NODES, assignments=_running(1, epoch=500))
    with pytest.raises(Bug, match="not older than the view's revision"):
        reconcile(view, NOW_S)


# --- nodes ---------------------------------------------------------------------------------------


def _with_states(**states: NodeState) -> list:  # type: ignore[type-arg]
    return [make_node(name, state=state) for name, state in states.items()]


def test_instances_of_a_lost_node_are_placed_elsewhere_at_once() -> None:
    nodes = _with_states(a=NodeState.LOST, b=NodeState.READY)
    view = make_view(make_revision(1, make_worker(replicas=1)), nodes=nodes, assignments=_running(1))
    order = _puts(reconcile(view, NOW_S))["shop/web.0"]
    assert (order.node, order.epoch) == ("b", 101)


@pytest.mark.parametrize("fence", [None, "no cgroups"])
def test_a_strict_instance_of_a_lost_node_that_cannot_fence_waits_until_the_node_is_removed(fence: str | None) -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    nodes = [make_node("a", state=NodeState.LOST, fence=fence), make_node("b")]
    lost = reconcile(make_view(revision, nodes=nodes, assignments=_running(1)), NOW_S)
    assert lost.actions == ()
    assert _codes(lost) == ["strict.unfenced"]
    assert (fence or "its agent is of a release that cannot") in lost.waiting[0].text
    removed = reconcile(make_view(revision, nodes=nodes[1:], assignments=_running(1)), NOW_S)
    assert _puts(removed)["shop/web.0"].node == "b"


def test_a_strict_instance_of_a_lost_node_that_can_fence_moves_once_its_lease_is_surely_over() -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    view = make_view(revision, nodes=_with_states(a=NodeState.LOST, b=NodeState.READY), assignments=_running(1))
    early = reconcile(view, NOW_S, leases={"a": 2.5})
    assert early.actions == ()
    assert (_codes(early), early.retry_at_s) == (["strict.lease"], NOW_S + 2.5)
    order = _puts(reconcile(view, NOW_S))["shop/web.0"]
    assert (order.node, order.epoch) == ("b", 101)


def test_a_strict_slot_without_an_order_is_placed_whatever_a_lost_node_said_of_it_last() -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    old = make_status(make_assignment(slot("web", 0), "a"), State.UNKNOWN)
    view = make_view(revision, nodes=_with_states(a=NodeState.LOST, b=NodeState.READY), statuses=[old])
    early = reconcile(view, NOW_S, leases={"a": 1.0})
    assert (early.actions, _codes(early)) == ((), ["strict.old-copy"])
    assert _puts(reconcile(view, NOW_S))["shop/web.0"].node == "b"
    away = make_view(revision, nodes=_with_states(a=NodeState.LEFT, b=NodeState.READY), statuses=[old])
    assert reconcile(away, NOW_S).actions == ()


def test_the_brake_of_mass_loss_holds_strict_instances_too() -> None:
    states = {name: NodeState.LOST if name in "abc" else NodeState.READY for name in "abcdefghi"}
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    plan = reconcile(make_view(revision, nodes=_with_states(**states), assignments=_running(1)), NOW_S)
    assert (plan.actions, _codes(plan)) == ((), ["failover.brake"])


def test_a_strict_worker_goes_to_no_node_that_cannot_fence_and_is_told_why() -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    nodes = [make_node("a", fence=None), make_node("b", fence="no cgroup v2")]
    plan = reconcile(make_view(revision, nodes=nodes), NOW_S)
    assert plan.actions == ()
    assert plan.unplaced[slot("web", 0)] == (
        "1 of 2 nodes does not match `node.fence == yes` (its agent is of a release that cannot); "
        "1 of 2 nodes does not match `node.fence == yes` (no cgroup v2)"
    )
    nodes.append(make_node("c"))
    assert _puts(reconcile(make_view(revision, nodes=nodes), NOW_S))["shop/web.0"].node == "c"
    plain = make_view(make_revision(1, make_worker()), nodes=nodes[:1])
    assert _puts(reconcile(plain, NOW_S))["shop/web.0"].node == "a"


def test_instances_of_a_node_that_left_stay() -> None:
    nodes = _with_states(a=NodeState.LEFT, b=NodeState.READY)
    view = make_view(make_revision(1, make_worker(replicas=1)), nodes=nodes, assignments=_running(1))
    assert reconcile(view, NOW_S) == Plan()


def test_when_too_many_nodes_are_lost_together_nothing_is_moved_off_them() -> None:
    states = {name: NodeState.LOST if name in "abc" else NodeState.READY for name in "abcdefghi"}
    view = make_view(make_revision(1, make_worker(replicas=3)), nodes=_with_states(**states), assignments=_running(3))
    plan = reconcile(view, NOW_S)
    assert plan.actions == ()
    assert _codes(plan) == ["failover.brake"]
    assert plan.waiting[0].text.startswith("3 of 9 nodes were lost together, more than 30 %")
    states |= dict.fromkeys("jk", NodeState.READY)
    view = make_view(make_revision(1, make_worker(replicas=3)), nodes=_with_states(**states), assignments=_running(3))
    assert len(_puts(reconcile(view, NOW_S))) == 3


def test_a_draining_node_gives_up_one_instance_at_a_time() -> None:
    held = [make_assignment(slot("web", number), "a") for number in range(3)]
    drained = [NodeIntent("a", is_draining=True)]
    revision = make_revision(1, make_worker(replicas=3))
    plan = reconcile(make_view(revision, nodes=NODES, assignments=held, node_intents=drained), NOW_S)
    assert list(_puts(plan)) == ["shop/web.0"]
    assert [item.text for item in plan.waiting] == [
        "2 instances of shop/web are still to leave a, at least 2 stay ready; waits for 1 being changed now"
    ]
    moved = [make_assignment(slot("web", 0), "b", epoch=90), *held[1:]]
    starting = [make_status(moved[0], State.STARTING), *(make_status(one) for one in moved[1:])]
    waiting = make_view(revision, nodes=NODES, assignments=moved, statuses=starting, node_intents=drained)
    assert reconcile(waiting, NOW_S).actions == ()


def test_a_strict_instance_leaves_a_draining_node_before_it_starts_elsewhere() -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    held = make_assignment(slot("web", 0), "a")
    drained = [NodeIntent("a", is_draining=True)]
    first = reconcile(make_view(revision, nodes=NODES, assignments=[held], node_intents=drained), NOW_S)
    assert _drops(first) == ["shop/web.0"]
    stopping = make_view(revision, nodes=NODES, statuses=[make_status(held, State.STOPPING)], node_intents=drained)
    second = reconcile(stopping, NOW_S)
    assert (second.actions, _codes(second)) == ((), ["strict.old-copy"])
    stopped = make_view(revision, nodes=NODES, statuses=[make_status(held, State.STOPPED)], node_intents=drained)
    assert _puts(reconcile(stopped, NOW_S))["shop/web.0"].node == "b"


def test_a_strict_slot_is_not_dropped_before_its_node_has_reported_it() -> None:
    revision = make_revision(1, make_worker(replicas=0, guarantee=Guarantee.STRICT))
    plan = reconcile(make_view(revision, nodes=NODES, assignments=_running(1), statuses=[]), NOW_S)
    assert (plan.actions, _codes(plan)) == ((), ["strict.unseen"])


def test_a_cordoned_node_gets_nothing_new_but_its_instances_are_updated_there() -> None:
    cordoned = [NodeIntent("a", is_cordoned=True)]
    spec = make_worker(replicas=2, placement=PlacementSpec(max_per_node=1))
    view = make_view(
        make_revision(1, spec),
        make_revision(2, spec, hashes={"web": "s2"}),
        nodes=NODES[:2],
        assignments=_running(1),
        node_intents=cordoned,
    )
    puts = _puts(reconcile(view, NOW_S))
    assert puts["shop/web.1"].node == "b"


def test_statuses_that_mean_nothing_any_more_are_forgotten() -> None:
    held = make_assignment(slot("web", 0), "b")
    old = make_assignment(slot("web", 0), "a", epoch=3)
    statuses = [
        make_status(held),
        make_status(old, State.STOPPED),
        make_status(make_assignment(slot("web", 7), "gone")),
        make_status(make_assignment(slot("web", 8), "c"), State.STOPPING),
        make_status(make_assignment(slot("web", 9), "lost"), State.STOPPED),
    ]
    view = make_view(
        make_revision(1, make_worker()),
        nodes=[*NODES, make_node("lost", state=NodeState.LOST)],
        assignments=[held],
        statuses=statuses,
    )
    forgotten = [
        (action.instance.short, action.node)
        for action in reconcile(view, NOW_S).actions
        if isinstance(action, DropStatus)
    ]
    assert forgotten == [("shop/web.0", "a"), ("shop/web.7", "gone")]


def test_a_port_that_a_stopping_process_still_holds_is_not_given_away() -> None:
    stopping = make_status(make_assignment(slot("old", 0), "a", ports={"http": 8080}), State.STOPPING)
    revision = make_revision(1, make_worker(ports={"http": 8080}))
    plan = reconcile(make_view(revision, nodes=NODES[:1], statuses=[stopping]), NOW_S)
    assert plan.unplaced == {slot("web", 0): "1 of 1 nodes has port 8080 in use (a)"}


def test_a_strict_slot_on_a_draining_node_stays_until_its_node_has_reported_it() -> None:
    view = make_view(
        make_revision(1, make_worker(guarantee=Guarantee.STRICT)),
        nodes=NODES,
        assignments=_running(1),
        statuses=[],
        node_intents=[NodeIntent("a", is_draining=True)],
    )
    plan = reconcile(view, NOW_S)
    assert (plan.actions, _codes(plan)) == ((), ["strict.unseen"])


def test_a_larger_reservation_without_a_restart_is_granted_only_where_it_fits() -> None:
    view = make_view(
        make_revision(1, make_worker(replicas=2, memory_mib=400)),
        make_revision(2, make_worker(replicas=2, memory_mib=600)),
        nodes=(make_node("a", memory_mib=1000), make_node("b", memory_mib=1000)),
        assignments=[make_assignment(slot("web", number), "a") for number in range(2)],
    )
    nodes = {name: order.node for name, order in _puts(reconcile(view, NOW_S)).items()}
    assert nodes == {"shop/web.0": "a", "shop/web.1": "b"}


# --- ports of the host ---------------------------------------------------------------------------


def _blocked(port: PortSpec, number: int) -> ClusterView:
    assignment = make_assignment(slot("web", 0), "a", ports={port.name: number})
    status = replace(make_status(assignment), state=State.RESTARTING, is_ready=False, pid=None, busy_ports=(number,))
    revision = make_revision(1, make_worker(replicas=1, ports={port.name: port.number}))
    return make_view(revision, nodes=NODES, assignments=[assignment], statuses=[status])


def test_a_dynamic_port_that_another_program_holds_is_replaced_on_the_same_node() -> None:
    puts = _puts(reconcile(_blocked(PortSpec("http"), 20005), NOW_S))
    assert puts["shop/web.0"].node == "a"
    assert dict(puts["shop/web.0"].ports)["http"] != 20005


def test_dynamic_ports_that_others_hold_are_not_tried_in_turn() -> None:
    tried = [20005]
    for _ in range(5):
        puts = _puts(reconcile(_blocked(PortSpec("http"), tried[-1]), NOW_S))
        tried.append(dict(puts["shop/web.0"].ports)["http"])
    assert len(set(tried)) == len(tried)


def test_a_fixed_port_that_another_program_holds_is_waited_for() -> None:
    assert reconcile(_blocked(PortSpec("http", 8080), 8080), NOW_S).actions == ()
