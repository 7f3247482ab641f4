"""The codec: every value comes back equal, and a skew of one release loses nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus, LastExit, WorkerIntent
from hsu_core.model.errors import TooLarge
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity
from hsu_core.model.spec import Execution, HealthSpec, HttpCheck, Probe, ProcessCheck, TcpCheck, WorkerSpec
from hsu_core.wire.codec import FRAME_LIMIT_BYTES, SCHEMA, Undecodable, decode, decode_plain, encode, from_plain
from hsu_core.wire.frames import Hello, Order, Orders, Report, decode_frame, encode_frame

names = st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True)
instances = st.builds(InstanceId, names, names, names, st.integers(0, 9999))
ports = st.lists(st.tuples(names, st.integers(1, 65535)), max_size=3).map(tuple)
assignments = st.builds(
    Assignment,
    instances,
    names,
    st.integers(1, 2**53),
    st.integers(1, 1000),
    names,
    st.integers(0, 9),
    ports,
    st.booleans(),
)
exits = st.none() | st.builds(LastExit, st.none() | st.integers(0, 255), st.none() | names, st.floats(0, 1e10), names)
statuses = st.builds(
    InstanceStatus,
    instances,
    names,
    st.integers(1, 2**53),
    st.sampled_from(State),
    last_exit=exits,
    pid=st.none() | st.integers(1, 2**22),
    ports=ports,
)


@given(assignments)
def test_an_assignment_comes_back_equal(assignment: Assignment) -> None:
    assert decode(Assignment, encode(assignment)) == assignment


@given(st.lists(statuses, max_size=4).map(tuple), st.lists(instances, max_size=3).map(tuple))
def test_a_report_comes_back_equal(told: tuple[InstanceStatus, ...], gone: tuple[InstanceId, ...]) -> None:
    report = Report(told, gone, is_full=True)
    assert decode_frame(encode_frame(report)) == report


@given(st.lists(assignments, max_size=4))
def test_orders_come_back_equal(given_assignments: list[Assignment]) -> None:
    orders = Orders(3, 9, specs={"k": {"x": 1}}, orders=tuple(Order(a, "k") for a in given_assignments))
    assert decode_frame(encode_frame(orders)) == orders


def test_checks_of_different_kinds_stay_apart() -> None:
    health = HealthSpec(Probe(ProcessCheck()), Probe(HttpCheck("http", "/x")), Probe(TcpCheck(80)))
    spec = WorkerSpec("web", Execution("web"), health=health)
    assert decode(WorkerSpec, encode(spec)) == spec


def test_a_field_of_a_newer_release_is_ignored_and_kept_when_written_again() -> None:
    newer = msgpack.packb(
        {"v": SCHEMA, "d": {"id": {"namespace": "default", "app": "shop"}, "revision": 3, "budget": {"per_day": 4}}}
    )
    record = decode(AppRecord, newer)
    assert record == AppRecord(AppId("default", "shop"), 3)
    changed = AppRecord(record.id, 4, intents=(("web", WorkerIntent(replicas=2)),))
    written = encode(changed, over=newer)
    assert decode(AppRecord, written) == changed
    assert decode_plain(written)["budget"] == {"per_day": 4}


def test_a_field_that_an_older_release_did_not_know_has_its_default() -> None:
    older = encode({"node": "a", "capacity": {"cpu_milli": 1, "memory_bytes": 2}})
    assert decode(Hello, older) == Hello("a", Capacity(1, 2))


def test_a_field_set_back_to_its_default_does_not_come_back_from_the_old_bytes() -> None:
    before = encode(AppRecord(AppId("default", "shop"), 3, deployed_by="ann"))
    after = AppRecord(AppId("default", "shop"), 4)
    assert decode(AppRecord, encode(after, over=before)) == after


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa1v\x63", encode([1, 2]), encode({"slot": "x"}), encode(None)],
)
def test_what_cannot_be_read_is_one_kind_of_error(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(InstanceId, payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    )
)
def test_no_tree_raises_anything_else(tree: Any) -> None:
    with contextlib.suppress(Undecodable):
        from_plain(Orders, tree)


def test_a_message_above_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        decode_plain(b"\x00" * (FRAME_LIMIT_BYTES + 1))
