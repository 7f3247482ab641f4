"""Whom the agent obeys: replaced leaders, other clusters, trees it does not have."""

from __future__ import annotations

import logging
from collections.abc import Set
from pathlib import Path

import pytest

from hsu_agent.ledger import Ledger
from hsu_agent.orders import Obedience, SessionEnded
from hsu_agent.planning.observed import Desired
from hsu_core.model.ids import InstanceId
from hsu_core.wire import frames
from hsu_core.wire.codec import to_plain
from tests.agent.harness import instance, order


class Supervised:
    """Holds orders and runs nothing."""

    def __init__(self, desired: dict[InstanceId, Desired]) -> None:
        self.desired = desired

    @property
    def has_workers(self) -> bool:
        """Return whether there are orders."""
        return bool(self.desired)

    def put_order(self, order: Desired, spec_key: str) -> None:
        """Hold an order."""
        self.desired[order.assignment.instance] = order

    def drop_order(self, instance: InstanceId) -> None:
        """Hold it no more."""
        self.desired.pop(instance, None)

    def settle_strays(self, named: Set[InstanceId]) -> None:
        """Have none."""


class Agent:
    """What of an agent decides about orders; `restart` ends it and begins with the ledger."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.ledger = Ledger(self._folder)
        self.supervised = Supervised(self.ledger.remembered().orders)
        self.obedience = Obedience(self.supervised, self.ledger)

    def welcome(self, incarnation: str, term: int, *accepted: str) -> None:
        """Begin a session."""
        self.obedience.welcome(frames.Welcome(term, incarnation, 1.0, 3.0, accepted=accepted))

    def obey(
        self, term: int, *epochs: int, is_full: bool = True, revision: int = 1, has_specs: bool = True, slot: int = 0
    ) -> None:
        """Send orders of slots 0, 1, ... with these epochs."""
        made = [order("sleep", "1000", slot=slot + n, epoch=epoch, revision=revision) for n, epoch in enumerate(epochs)]
        specs = {spec.key: to_plain(spec) for _, spec in made} if has_specs else {}
        orders = tuple(frames.Order(assignment, spec.key) for assignment, spec in made)
        self.obedience.obey(frames.Orders(term, 1, is_full, specs, orders))

    def epochs(self) -> dict[int, int]:
        """Return slot and epoch of the orders in force."""
        return {which.slot: found.assignment.epoch for which, found in self.supervised.desired.items()}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """Return an agent that obeys cluster `old` in term 50."""
    made = Agent(tmp_path)
    made.welcome("old", 50)
    made.obey(50, 5000, 5001)
    return made


def test_the_orders_of_another_cluster_are_not_obeyed_while_there_are_workers(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in ((), (12,), (9000, 9001)):
        agent.welcome("new", 3)
        agent.obey(3, *epochs)
        agent.obey(3, *epochs, is_full=False)
    assert agent.epochs() == {0: 5000, 1: 5001}
    assert (agent.ledger.incarnation, agent.ledger.term) == ("old", 50)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert "cluster new is not obeyed" in told[0]
    assert "belong to cluster old" in told[0]
    assert "doctor accept-restore" in told[0]
    agent.welcome("old", 51)
    agent.obey(51)
    assert agent.epochs() == {}


def test_another_cluster_is_obeyed_once_that_is_accepted_and_the_former_one_is_not_any_more(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.welcome("new", 3, "older", "old")
    agent.obey(3, 12)
    assert agent.epochs() == {0: 12}
    assert (agent.ledger.incarnation, agent.ledger.term) == ("new", 3)
    assert "new instead of old" in caplog.text
    agent.welcome("old", 99)
    agent.obey(99, 9999)
    assert agent.epochs() == {0: 12}
    agent.welcome("new", 4)
    agent.obey(4)
    assert agent.epochs() == {}


def test_an_agent_without_workers_obeys_any_cluster(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.welcome("old", 50)
    agent.obey(50)
    agent.welcome("new", 3)
    agent.obey(3, 12)
    assert agent.epochs() == {0: 12}


def test_a_store_that_is_not_as_far_as_it_was_is_refused_also_after_a_restart(agent: Agent) -> None:
    agent.obedience.hear_of(700)
    agent.welcome("old", 51)
    with pytest.raises(SessionEnded, match="revision 1, although 700"):
        agent.obey(51)
    agent.ledger.close()
    agent.restart()
    assert agent.epochs() == {0: 5000, 1: 5001}
    assert agent.ledger.revision >= 1
    agent.obedience.welcome(frames.Welcome(1, "new", 1.0, 3.0, accepted=("old",)))
    agent.obey(1, 12)
    assert agent.ledger.revision == 1, "of another incarnation the count begins anew"


def test_what_a_foreign_cluster_says_of_its_revision_is_not_counted(agent: Agent) -> None:
    agent.welcome("new", 3)
    agent.obedience.hear_of(10**9)
    assert agent.ledger.revision == 1


@pytest.mark.parametrize("is_restarted", [True, False])
def test_another_cluster_is_obeyed_although_the_first_session_ended_before_its_orders(
    agent: Agent, is_restarted: bool
) -> None:
    agent.welcome("new", 3, "old")
    agent.obey(3, 7, is_full=False)
    assert agent.epochs() == {0: 5000, 1: 5001}
    if is_restarted:
        agent.ledger.close()
        agent.restart()
    assert agent.ledger.incarnation == "old"
    agent.welcome("new", 3, "old")
    agent.obey(3, 12)
    assert agent.epochs() == {0: 12}
    agent.obey(3, 11, is_full=False)
    assert agent.epochs() == {0: 12}
    agent.obey(3, 40, is_full=False)
    assert agent.epochs() == {0: 40}


def test_a_replaced_leader_is_refused(agent: Agent) -> None:
    with pytest.raises(SessionEnded, match="term 49 is older than 50"):
        agent.welcome("old", 49)
    agent.welcome("old", 60)
    with pytest.raises(SessionEnded, match="orders of term 59"):
        agent.obey(59, 6000)
    agent.ledger.close()
    agent.restart()
    assert agent.ledger.term == 60


def test_an_order_without_its_specification_leaves_the_instance_as_it_is(agent: Agent) -> None:
    agent.welcome("old", 51)
    agent.obey(51, 6000, 6001, revision=2, has_specs=False)
    assert agent.epochs() == {0: 5000, 1: 5001}
    agent.obey(51, 6002, revision=2, is_full=False)
    assert agent.epochs() == {0: 6002, 1: 5001}


def test_a_known_specification_is_not_sent_again_but_that_of_another_cluster_counts_for_nothing(agent: Agent) -> None:
    agent.welcome("old", 51)
    agent.obey(51, 6000, 6001, has_specs=False)
    assert agent.epochs() == {0: 6000, 1: 6001}
    agent.welcome("new", 1, "old")
    agent.obey(1, 3, 4, has_specs=False)
    assert agent.epochs() == {0: 6000, 1: 6001}


def test_trees_that_no_current_order_names_are_forgotten(agent: Agent) -> None:
    for revision in range(2, 30):
        agent.obey(50, 6000 + revision, 7000 + revision, revision=revision, is_full=False)
    assert set(agent.obedience._specs) == {"default/shop/web@29"}
    agent.obey(50, 8000, revision=30, is_full=False)
    assert set(agent.obedience._specs) == {"default/shop/web@29", "default/shop/web@30"}
    agent.obedience.obey(frames.Orders(50, 1, removed=(instance(slot=0),)))
    assert set(agent.obedience._specs) == {"default/shop/web@29"}
    agent.obey(50, 1, revision=31, slot=1)  # refused as older, but named: the leader counts it as sent
    assert agent.epochs() == {1: 7029}
    assert set(agent.obedience._specs) == {"default/shop/web@31"}
