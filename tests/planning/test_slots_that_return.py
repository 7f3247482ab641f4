"""Rules that the simulation found to be missing: what a returned node is known to run, and one action a slot."""

from __future__ import annotations

from hsu_cluster.planning.draft import Draft
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.slots import Desired
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.spec import Guarantee
from hsu_core.model.view import DropAssignment
from tests.support.builders import make_assignment, make_node, make_revision, make_status, make_view, make_worker, slot

NODES = tuple(make_node(name) for name in "abc")
NOW_S = 1000.0


def test_what_a_node_ran_before_it_was_lost_does_not_let_a_strict_slot_leave_it_when_it_is_back() -> None:
    revision = make_revision(1, make_worker(guarantee=Guarantee.STRICT))
    held = make_assignment(slot("web", 0), "a")
    view = make_view(
        revision,
        nodes=NODES,
        assignments=[held],
        statuses=[make_status(held, State.UNKNOWN)],
        node_intents=[NodeIntent("a", is_draining=True)],
    )
    plan = reconcile(view, NOW_S)
    assert plan.actions == ()
    assert [reason.code for reason in plan.waiting] == ["strict.unseen"]


def test_a_strict_slot_that_nobody_wants_leaves_a_lost_node_and_its_status_stays() -> None:
    revision = make_revision(1, make_worker(replicas=0, guarantee=Guarantee.STRICT))
    held = make_assignment(slot("web", 0), "a")
    lost = (make_node("a", state=NodeState.LOST), *NODES[1:])
    view = make_view(revision, nodes=lost, assignments=[held], statuses=[make_status(held, State.UNKNOWN)])
    assert [type(action) for action in reconcile(view, NOW_S).actions] == [DropAssignment]


def test_a_slot_that_is_placed_and_dropped_in_one_pass_is_dropped() -> None:
    held = make_assignment(slot("web", 0), "a")
    view = make_view(make_revision(1, make_worker()), nodes=NODES, assignments=[held])
    draft = Draft(view, NOW_S, None)
    draft.put(held.instance, "b", Desired(1, held.spec_hash, 0, False), (), "its node is lost")
    draft.drop(held, "back to the stable revision")
    assert [type(action) for action in draft.plan().actions] == [DropAssignment]
