"""Pure parts: prefixes, endpoints, the meaning of errors, the cursor of a watch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_core.model.errors import (
    Compacted,
    Forbidden,
    HsuError,
    InvalidInput,
    LeaseLost,
    NotSupported,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)
from hsu_core.store.base import Entry, Event, Resync, WatchBatch
from hsu_core.store.etcd import version_warnings
from hsu_core.store.etcd_codec import Header, WatchMessage, watch_from
from hsu_core.store.etcd_endpoints import COOL_DOWN_LIMIT_S, COOL_DOWN_S, AnswerGuard, Endpoints
from hsu_core.store.etcd_errors import GatewayError, Unanswered, parse_error, translate
from hsu_core.store.etcd_watch import WatchCursor
from hsu_core.store.rules import check_key, prefix_end

A, B, C = "http://a:2379", "http://b:2379", "http://c:2379"


@given(prefix=st.text(max_size=4), key=st.text(max_size=6))
def test_prefix_end_separates_keys_like_startswith(prefix: str, key: str) -> None:
    end = prefix_end(prefix)
    assert (prefix <= key and (end is None or key < end)) == key.startswith(prefix)
    assert (key.encode() < (end or "").encode()) == (key < (end or ""))


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 4097])
def test_a_key_no_backend_could_hold_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        check_key(key)


@pytest.mark.parametrize("urls", [[], ["etcd-1:2379"], ["ftp://a:1"], ["http://a:2379/v3"]])
def test_endpoints_that_are_no_urls_are_refused(urls: list[str]) -> None:
    with pytest.raises(InvalidInput):
        Endpoints(urls)


def test_a_failed_endpoint_is_asked_last_until_it_has_cooled_down() -> None:
    endpoints = Endpoints([A, B, C + "/"])
    assert endpoints.order(0.0) == [A, B, C]
    endpoints.fail(A, 0.0)
    assert endpoints.order(0.1) == [B, C, A]
    endpoints.fail(B, 0.1)
    assert endpoints.order(0.2) == [C, A, B]
    assert endpoints.order(COOL_DOWN_S + 1.0)[0] == C
    endpoints.succeed(A)
    assert endpoints.order(0.3) == [A, C, B]


def test_cool_down_doubles_up_to_its_limit_and_a_burst_counts_once() -> None:
    endpoints = Endpoints([A, B])
    for _ in range(50):
        endpoints.fail(A, 0.0)
    assert not endpoints.is_cooling(A, COOL_DOWN_S)
    now_s = 0.0
    for _ in range(20):
        now_s += 1000.0
        endpoints.fail(A, now_s)
    assert endpoints.is_cooling(A, now_s + COOL_DOWN_LIMIT_S - 0.1)
    assert not endpoints.is_cooling(A, now_s + COOL_DOWN_LIMIT_S)


def test_answers_of_another_cluster_are_refused() -> None:
    guard = AnswerGuard()
    guard.check("read", Header("1", "m", 5, 2), guard.mark(), A)
    with pytest.raises(StoreError, match="belongs to etcd cluster 2") as caught:
        guard.check("read", Header("2", "m", 9, 2), guard.mark(), B)
    assert caught.value.code == "store.cluster-changed"


@pytest.mark.parametrize("header", [Header("1", "m", 4, 2), Header("1", "m", 5, 1)])
def test_answers_that_go_back_in_time_are_refused(header: Header) -> None:
    guard = AnswerGuard()
    mark_before_any_answer = guard.mark()
    guard.check("read", Header("1", "m", 5, 2), guard.mark(), A)
    with pytest.raises(StoreError) as caught:
        guard.check("read", header, guard.mark(), B)
    assert caught.value.code == "store.stale-answer"
    guard.check("read", header, mark_before_any_answer, B)
    guard.check("a local read", header, None, B)
    assert guard.revision == 5


@pytest.mark.parametrize(
    ("status", "body", "is_write", "wanted"),
    [
        (404, b'{"error":"etcdserver: requested lease not found","code":5}', True, LeaseLost),
        (400, b'{"error":"etcdserver: mvcc: required revision has been compacted","code":11}', False, Compacted),
        (400, b'{"error":"etcdserver: mvcc: required revision is a future revision","code":11}', False, InvalidInput),
        (403, b'{"error":"etcdserver: permission denied","code":7}', True, Forbidden),
        (401, b'{"error":"etcdserver: invalid auth token","code":16}', True, Unauthorized),
        (400, b'{"error":"etcdserver: user name is empty","code":3}', True, Unauthorized),
        (
            400,
            b'{"error":"etcdserver: authentication failed, invalid user ID or password","code":3}',
            True,
            Unauthorized,
        ),
        (400, b'{"error":"etcdserver: request is too large","code":3}', True, TooLarge),
        (429, b'{"error":"trying to send message larger than max (3 vs. 2)","code":8}', True, TooLarge),
        (429, b'{"error":"etcdserver: mvcc: database space exceeded","code":8}', True, StoreUnavailable),
        (429, b'{"error":"etcdserver: too many requests","code":8}', True, StoreUnavailable),
        (400, b'{"error":"etcdserver: duplicate key given in txn request","code":3}', True, InvalidInput),
        (503, b'{"error":"etcdserver: no leader","code":14}', True, StoreUnavailable),
        (503, b'{"error":"etcdserver: request timed out","code":14}', True, OutcomeUnknown),
        (503, b'{"error":"etcdserver: request timed out","code":14}', False, StoreUnavailable),
        (408, b'{"error":"context deadline exceeded","code":2}', True, OutcomeUnknown),
        (408, b'{"error":"context deadline exceeded","code":2}', False, StoreUnavailable),
        (200, b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}', False, StoreUnavailable),
        (200, b'{"error":{"code":14,"message":"etcdserver: no leader","details":[]}}', False, StoreUnavailable),
        (404, b"404 page not found\n", False, NotSupported),
        (400, b"CommonName of client sending a request against gateway will be ignored", False, Unauthorized),
        (502, b"Bad Gateway", False, StoreUnavailable),
        (502, b"Bad Gateway", True, OutcomeUnknown),
    ],
)
def test_an_error_answer_becomes_an_error_of_the_protocol(
    status: int, body: bytes, is_write: bool, wanted: type[HsuError]
) -> None:
    error = translate("do it", parse_error(status, body), is_write=is_write)
    assert type(error) is wanted, error
    assert error.why
    assert error.fix


def test_an_unanswered_write_is_unknown_only_if_it_was_sent() -> None:
    assert isinstance(translate("x", Unanswered("timeout", is_sent=True), is_write=True), OutcomeUnknown)
    assert isinstance(translate("x", Unanswered("refused", is_sent=False), is_write=True), StoreUnavailable)
    assert isinstance(translate("x", Unanswered("timeout", is_sent=True), is_write=False), StoreUnavailable)


def test_not_a_primary_lessor_is_for_another_member() -> None:
    assert GatewayError(500, 2, "etcdserver: not a primary lessor").is_for_another


def message(
    *revisions: int,
    header: int = 100,
    is_fragment: bool = False,
    is_created: bool = False,
    is_canceled: bool = False,
    compact_revision: int = 0,
) -> WatchMessage:
    """Return a watch message with one event per revision given."""
    events = tuple(Event(Entry(f"k{revision}", b"", 1, revision, 1)) for revision in revisions)
    return WatchMessage(Header("1", "m", header, 2), events, is_created, is_canceled, "", compact_revision, is_fragment)


def revisions_of(item: WatchBatch | Resync | None) -> list[int]:
    """Return the revisions of a batch."""
    assert isinstance(item, WatchBatch)
    return [event.entry.mod_revision for event in item.events]


def test_cursor_resumes_after_the_last_event_not_after_the_header() -> None:
    cursor = WatchCursor(after_revision=10)
    assert cursor.take(message(is_created=True)) is None
    assert cursor.reconnect() == 11
    assert revisions_of(cursor.take(message(11, 12))) == [11, 12]
    assert cursor.reconnect() == 13


def test_cursor_drops_what_was_delivered_already() -> None:
    cursor = WatchCursor(after_revision=12)
    assert cursor.take(message(11, 12)) is None
    assert revisions_of(cursor.take(message(12, 13))) == [13]


def test_cursor_joins_fragments_and_forgets_half_a_message_on_reconnect() -> None:
    cursor = WatchCursor(after_revision=0)
    assert cursor.take(message(1, 2, is_fragment=True)) is None
    assert revisions_of(cursor.take(message(2, 3))) == [1, 2, 2, 3]
    assert cursor.take(message(4, is_fragment=True)) is None
    assert cursor.reconnect() == 4
    assert revisions_of(cursor.take(message(4))) == [4]


def test_cursor_moves_on_with_progress_but_never_back() -> None:
    cursor = WatchCursor(after_revision=10)
    assert cursor.take(message(header=20)) == WatchBatch(20, ())
    assert cursor.reconnect() == 21
    assert cursor.take(message(header=15)) is None
    assert cursor.reconnect() == 21


def test_cursor_reports_a_compaction() -> None:
    assert WatchCursor(3).take(message(is_canceled=True, compact_revision=9)) == Resync(9)


def test_watch_message_without_zero_fields_is_understood() -> None:
    parsed = watch_from({"header": {"cluster_id": "7"}, "events": [{"kv": {"key": "YQ==", "mod_revision": "3"}}]})
    assert parsed.events == (Event(Entry("a", b"", 0, 3, 0)),)
    assert not parsed.is_canceled
    deletion = watch_from({"events": [{"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "4"}}]})
    assert deletion.events[0].is_delete


@pytest.mark.parametrize(
    ("version", "count"),
    [("3.4.23", 1), ("3.4.38", 0), ("3.5.16", 1), ("3.5.23", 0), ("3.6.4", 1), ("3.7.1", 0), ("3.3.25", 1), ("?", 1)],
)
def test_versions_with_known_defects_get_a_warning(version: str, count: int) -> None:
    assert len(version_warnings(version)) == count
