"""What every backend refuses, and how a compare is decided: pure, shared, the same words everywhere.

The limits are etcd's, checked before anything is sent, so that a program which works on one
backend works on the others. Neighbours: `mvcc` applies what was found valid here, `etcd` sends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hsu_core.model.errors import InvalidInput, TooLarge
from hsu_core.store.base import (
    TXN_LIMIT_BYTES,
    TXN_OPERATIONS_LIMIT,
    VALUE_LIMIT_BYTES,
    Compare,
    Delete,
    Entry,
    Get,
    Operation,
    Put,
    Relation,
    Target,
)

KEY_LIMIT_BYTES = 4096
"""Longest key: names of ours stay far below; it bounds an index and an error text."""

LAST_CODE_POINT = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
"""Code points that UTF-8 cannot hold."""

_RELATIONS: Mapping[Relation, Callable[[Any, Any], bool]] = {
    Relation.EQUAL: lambda stored, given: bool(stored == given),
    Relation.NOT_EQUAL: lambda stored, given: bool(stored != given),
    Relation.LESS: lambda stored, given: bool(stored < given),
    Relation.GREATER: lambda stored, given: bool(stored > given),
}

_NUMBERS: Mapping[Target, Callable[[Entry], int]] = {
    Target.VERSION: lambda entry: entry.version,
    Target.CREATE: lambda entry: entry.create_revision,
    Target.MOD: lambda entry: entry.mod_revision,
}


def prefix_end(prefix: str) -> str | None:
    """Return the first key after all keys that begin with `prefix`, None if there is no such bound.

    Text sorts by code point, which is also the byte order of UTF-8.
    """
    for index in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[index]) + 1
        if following in SURROGATES:
            following = SURROGATES.stop
        if following <= LAST_CODE_POINT:
            return prefix[:index] + chr(following)
    return None


def does_hold(compare: Compare, entry: Entry | None) -> bool:
    """Return whether the condition is true of the key as it stands (`entry`, None: absent)."""
    if compare.target is Target.VALUE:
        return entry is not None and _RELATIONS[compare.relation](entry.value, compare.operand)
    number = 0 if entry is None else _NUMBERS[compare.target](entry)
    return _RELATIONS[compare.relation](number, compare.operand)


def check_key(key: str) -> None:
    """Raise InvalidInput unless `key` is text of 1 to KEY_LIMIT_BYTES bytes without NUL."""
    check_prefix(key)
    if not key:
        raise InvalidInput("use a key of the store", "it is empty", "give it at least one character")


def check_prefix(prefix: str) -> None:
    """Raise InvalidInput unless `prefix` may begin a key; the empty one begins all of them."""
    try:
        length_bytes = len(prefix.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"use the key {prefix!a}", "it is not valid text", "use UTF-8 without surrogates") from error
    if length_bytes > KEY_LIMIT_BYTES:
        raise InvalidInput(
            f"use the key {prefix[:40]!a}...",
            f"it has {length_bytes} bytes, the limit is {KEY_LIMIT_BYTES}",
            "use a shorter name",
        )
    if "\0" in prefix:
        raise InvalidInput(f"use the key {prefix!a}", "it contains a NUL character", "leave it out")


def check_ttl(ttl_s: float) -> None:
    """Raise InvalidInput unless a lease may have this time to live."""
    if not 0 < ttl_s <= 9_000_000_000:
        raise InvalidInput("grant a lease", f"its TTL is {ttl_s:g} s", "use more than 0 seconds")


def check_range(prefix: str, start_key: str | None, limit: int, revision: int | None) -> None:
    """Raise InvalidInput for a range that no backend can answer."""
    check_prefix(prefix)
    if start_key is not None and not start_key.startswith(prefix):
        raise InvalidInput(
            f"list {prefix!a} from {start_key!a}",
            "the start is outside of the prefix",
            "use the `next_key` of a page",
        )
    if limit < 1:
        raise InvalidInput(f"list {prefix!a}", f"the page limit is {limit}", "use at least 1")
    if revision is not None and revision < 1:
        raise InvalidInput(f"list {prefix!a}", f"revision {revision} never existed", "use one that was returned")


def check_revision_exists(what: str, revision: int, present: int) -> None:
    """Raise InvalidInput if `revision` lies in the future."""
    if revision > present:
        raise InvalidInput(
            what, f"revision {revision} is in the future, the store is at {present}", "use one that was returned"
        )


def check_txn(compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]) -> None:
    """Raise InvalidInput or TooLarge for a transaction that some backend would refuse."""
    for name, length in (("compares", len(compares)), ("operations", max(len(success), len(failure)))):
        if length > TXN_OPERATIONS_LIMIT:
            raise InvalidInput(
                "run the transaction",
                f"it has {length} {name}, the limit is {TXN_OPERATIONS_LIMIT}",
                "split it into several",
            )
    for compare in compares:
        check_key(compare.key)
        if isinstance(compare.operand, bytes) is not (compare.target is Target.VALUE):
            raise InvalidInput(
                f"compare {compare.target.value} of {compare.key!a}",
                f"the operand is of type {type(compare.operand).__name__}",
                "use bytes for a value and int for a number",
            )
    for branch in (success, failure):
        _check_branch(branch)
    length_bytes = sum(_operation_bytes(operation) for branch in (success, failure) for operation in branch)
    length_bytes += sum(_compare_bytes(compare) for compare in compares)
    if length_bytes > TXN_LIMIT_BYTES:
        raise TooLarge(
            "run the transaction",
            f"it has {length_bytes} bytes, the limit is {TXN_LIMIT_BYTES}",
            "split it into several",
        )


def _check_branch(branch: Sequence[Operation]) -> None:
    written: set[str] = set()
    prefixes: list[str] = []
    for operation in branch:
        if isinstance(operation, Delete) and operation.is_prefix:
            check_prefix(operation.key)
            prefixes.append(operation.key)
            continue
        check_key(operation.key)
        if isinstance(operation, Put) and len(operation.value) > VALUE_LIMIT_BYTES:
            raise TooLarge(
                f"store {operation.key!a}",
                f"its value has {len(operation.value)} bytes, the limit is {VALUE_LIMIT_BYTES}",
                "store something smaller or split it",
            )
        if isinstance(operation, Get):
            continue
        if operation.key in written:
            raise _written_twice(operation.key)
        written.add(operation.key)
    for index, prefix in enumerate(prefixes):
        clash = next((key for key in sorted(written) if key.startswith(prefix)), None)
        clash = clash or next((p for p in prefixes[:index] if p.startswith(prefix) or prefix.startswith(p)), None)
        if clash is not None:
            raise _written_twice(clash)


def _written_twice(key: str) -> InvalidInput:
    return InvalidInput("run the transaction", f"{key!a} is written twice in one branch", "write each key once")


def _operation_bytes(operation: Operation) -> int:
    return len(operation.key.encode()) + (len(operation.value) if isinstance(operation, Put) else 0)


def _compare_bytes(compare: Compare) -> int:
    operand_bytes = len(compare.operand) if isinstance(compare.operand, bytes) else 8
    return len(compare.key.encode()) + operand_bytes
