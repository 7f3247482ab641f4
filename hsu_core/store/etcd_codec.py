"""The words of etcd's JSON gateway: our values to request bodies and answers back; pure.

The gateway writes 64-bit integers as text and leaves out every field that is zero, false or empty.
Bytes travel in base64. Field names are those of the protocol buffers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsu_core.store.base import Compare, Delete, Entry, Event, Get, Operation, Put, Relation, Target, TxnResult
from hsu_core.store.rules import prefix_end

Json = dict[str, Any]

_RELATIONS: Mapping[Relation, str] = {
    Relation.EQUAL: "EQUAL",
    Relation.NOT_EQUAL: "NOT_EQUAL",
    Relation.LESS: "LESS",
    Relation.GREATER: "GREATER",
}

_TARGETS: Mapping[Target, tuple[str, str]] = {
    Target.VALUE: ("VALUE", "value"),
    Target.VERSION: ("VERSION", "version"),
    Target.CREATE: ("CREATE", "create_revision"),
    Target.MOD: ("MOD", "mod_revision"),
}

ALL_KEYS_END = "\0"
"""As the end of a range: no end."""


@dataclass(frozen=True, slots=True)
class Header:
    """Who answered, and how far that member was."""

    cluster_id: str
    member_id: str
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """One message of a watch stream."""

    header: Header
    events: tuple[Event, ...]
    is_created: bool
    is_canceled: bool
    cancel_reason: str
    compact_revision: int
    is_fragment: bool


def encode(raw: bytes | str) -> str:
    """Return base64 text of bytes or of UTF-8 text."""
    return base64.b64encode(raw.encode() if isinstance(raw, str) else raw).decode("ascii")


def header_from(answer: Json) -> Header:
    """Return the header of an answer; absent numbers are 0."""
    header = answer.get("header", {})
    return Header(
        str(header.get("cluster_id", "")),
        str(header.get("member_id", "")),
        int(header.get("revision", 0)),
        int(header.get("raft_term", 0)),
    )


def range_to(prefix: str, start_key: str | None, limit: int, revision: int | None) -> Json:
    """Return the body of a range over a prefix."""
    body: Json = {
        "key": encode(start_key or prefix or "\0"),
        "range_end": encode(prefix_end(prefix) or ALL_KEYS_END),
        "limit": str(limit),
    }
    if revision is not None:
        body["revision"] = str(revision)
    return body


def watch_to(prefix: str, start_revision: int) -> Json:
    """Return the body that creates a watch on a prefix."""
    return {
        "create_request": {
            "key": encode(prefix or "\0"),
            "range_end": encode(prefix_end(prefix) or ALL_KEYS_END),
            "start_revision": str(start_revision),
            "progress_notify": True,
            "fragment": True,
        }
    }


def put_to(put: Put) -> Json:
    """Return the body of a put."""
    return {"key": encode(put.key), "value": encode(put.value), "lease": str(put.lease)}


def delete_to(delete: Delete) -> Json:
    """Return the body of a deletion."""
    if not delete.is_prefix:
        return {"key": encode(delete.key)}
    end = prefix_end(delete.key) or ALL_KEYS_END
    return {"key": encode(delete.key or "\0"), "range_end": encode(end)}


def txn_to(compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]) -> Json:
    """Return the body of a transaction."""
    return {
        "compare": [_compare_to(compare) for compare in compares],
        "success": [_operation_to(operation) for operation in success],
        "failure": [_operation_to(operation) for operation in failure],
    }


def entry_from(kv: Json) -> Entry:
    """Return the entry of a key-value object."""
    return Entry(
        base64.b64decode(kv["key"]).decode("utf-8", "surrogateescape"),
        base64.b64decode(kv.get("value", "")),
        int(kv.get("create_revision", 0)),
        int(kv.get("mod_revision", 0)),
        int(kv.get("version", 0)),
        int(kv.get("lease", 0)),
    )


def entries_from(answer: Json) -> tuple[Entry, ...]:
    """Return the entries of the answer to a range."""
    return tuple(entry_from(kv) for kv in answer.get("kvs", ()))


def txn_from(answer: Json, success: Sequence[Operation], failure: Sequence[Operation]) -> TxnResult:
    """Return the result of a transaction; `success` and `failure` are the branches that were sent."""
    has_succeeded = bool(answer.get("succeeded", False))
    branch = success if has_succeeded else failure
    answers = tuple(
        _answer_from(operation, response)
        for operation, response in zip(branch, answer.get("responses", ()), strict=True)
    )
    return TxnResult(has_succeeded, header_from(answer).revision, answers)


def watch_from(result: Json) -> WatchMessage:
    """Return one message of a watch."""
    return WatchMessage(
        header_from(result),
        tuple(_event_from(event) for event in result.get("events", ())),
        bool(result.get("created", False)),
        bool(result.get("canceled", False)),
        str(result.get("cancel_reason", "")),
        int(result.get("compact_revision", 0)),
        bool(result.get("fragment", False)),
    )


def _event_from(event: Json) -> Event:
    entry = entry_from(event["kv"])
    if event.get("type", "PUT") == "DELETE":
        return Event(Entry(entry.key, b"", 0, entry.mod_revision, 0), is_delete=True)
    return Event(entry)


def _compare_to(compare: Compare) -> Json:
    target, field = _TARGETS[compare.target]
    operand = encode(compare.operand) if isinstance(compare.operand, bytes) else str(compare.operand)
    return {
        "key": encode(compare.key),
        "target": target,
        "result": _RELATIONS[compare.relation],
        field: operand,
    }


def _operation_to(operation: Operation) -> Json:
    match operation:
        case Put():
            return {"request_put": put_to(operation)}
        case Delete():
            return {"request_delete_range": delete_to(operation)}
        case Get(key):
            return {"request_range": {"key": encode(key)}}


def _answer_from(operation: Operation, response: Json) -> Entry | int | None:
    match operation:
        case Put():
            return None
        case Delete():
            return int(response.get("response_delete_range", {}).get("deleted", 0))
        case Get():
            entries = entries_from(response.get("response_range", {}))
            return entries[0] if entries else None
