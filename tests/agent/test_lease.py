"""The rules of the lease: what may be started when. Times are plain numbers."""

from __future__ import annotations

import pytest

from hsu_agent.planning.lease import FENCED, NO_LEASE, NOT_CONFIRMED, Lease
from hsu_core.model import fencing
from tests.agent.harness import instance

WEB = instance()


def begun() -> Lease:
    """Return a lease in a session since 100 s that gives 6 s, whose leader has named web in epoch 7."""
    lease = Lease()
    lease.begin_session(6.0, 100.0)
    lease.name([(WEB, 7)])
    return lease


def test_nothing_is_started_before_a_beat_was_acknowledged() -> None:
    lease = begun()
    assert lease.hold(WEB, 7, 100.0) == NO_LEASE
    assert lease.acknowledged(100.5, 103.0)
    assert lease.hold(WEB, 7, 103.0) == ""


def test_the_lease_counts_from_when_the_beat_was_sent() -> None:
    lease = begun()
    lease.acknowledged(100.5, 106.0)
    assert not lease.is_over(106.4)
    assert lease.is_over(106.5)
    assert not lease.acknowledged(100.4, 106.6), "an answer that comes after its lease prolongs nothing"
    assert lease.hold(WEB, 7, 106.6) == FENCED


def test_an_older_beat_does_not_shorten_it_and_one_of_another_session_counts_for_nothing() -> None:
    lease = begun()
    lease.acknowledged(102.0, 102.1)
    lease.acknowledged(101.0, 102.2)
    assert lease.until_s == 108.0
    assert not lease.acknowledged(99.0, 102.3)
    assert not lease.acknowledged(200.0, 102.3), "nor one from the future"
    assert lease.until_s == 108.0


def test_an_order_of_before_the_lease_ran_out_waits_until_a_session_names_it() -> None:
    lease = begun()
    lease.acknowledged(100.5, 100.6)
    lease.begin_session(6.0, 110.0)
    lease.acknowledged(110.1, 110.2)
    assert lease.hold(WEB, 7, 110.3) == NOT_CONFIRMED
    lease.name([(WEB, 8)])
    assert lease.hold(WEB, 7, 110.3) == NOT_CONFIRMED
    assert lease.hold(WEB, 8, 110.3) == ""


def test_a_new_session_within_the_lease_leaves_its_orders_in_force() -> None:
    lease = begun()
    lease.acknowledged(100.5, 100.6)
    lease.begin_session(6.0, 103.0)
    assert lease.hold(WEB, 7, 103.1) == ""
    lease.acknowledged(103.2, 103.3)
    assert lease.hold(WEB, 7, 107.0) == ""


def test_orders_named_before_the_first_acknowledgement_count_and_those_of_a_dead_session_do_not() -> None:
    lease = begun()
    lease.begin_session(6.0, 101.0)
    lease.acknowledged(101.1, 101.2)
    assert lease.hold(WEB, 7, 101.3) == NOT_CONFIRMED, "named by a session that never gave a lease"


@pytest.mark.parametrize(("beat_s", "ttl_s"), [(2.0, 8.0), (3.0, 9.0), (0.5, 2.0), (1.0, 4.0), (5.0, 11.0)])
def test_the_shortest_ttl_is_just_long_enough(beat_s: float, ttl_s: float) -> None:
    assert fencing.shortest_ttl_s(beat_s) == pytest.approx(ttl_s)
    parts_s = beat_s + 2 * fencing.call_timeout_s(ttl_s) + fencing.kill_budget_s(ttl_s) + fencing.margin_s(ttl_s)
    assert parts_s == pytest.approx(ttl_s)
    assert fencing.lease_s(ttl_s) == pytest.approx(beat_s + 2 * fencing.call_timeout_s(ttl_s))
