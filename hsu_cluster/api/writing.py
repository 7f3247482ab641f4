"""Writes of the API: one transaction each, with compares, the event, and the record of the idempotency key.

A change is computed from what was read, and committed only if that has not changed meanwhile; otherwise it
is computed again. So two administrators at once lose nothing, and a refused request moves no revision.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hsu_cluster.api.calls import Call
from hsu_core.model.errors import Conflict, StaleRevision
from hsu_core.model.records import EventRecord
from hsu_core.store.base import Compare, Entry, Get, Operation, Put, Target
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode

TRIES = 16
"""How often a change is computed again when others write the same object: they must all win once before that."""


_COUNT = itertools.count()


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """A request that was applied: the revision of this record is the one that it was applied at."""

    fingerprint: str
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """What to commit if every compare still holds. Without operations there is nothing to do."""

    compares: Sequence[Compare] = ()
    operations: Sequence[Operation] = ()
    event: EventRecord | None = None


class Idempotency:
    """The Idempotency-Key of one request, tied to the caller and to the request's content."""

    def __init__(self, call: Call, body: bytes) -> None:
        request = call.request
        self.fingerprint = hashlib.sha256(
            json.dumps([request.method, request.path_qs, request.headers.get("If-Match")]).encode() + body
        ).hexdigest()
        name = call.idempotency_key
        self.key = None
        if name is not None:
            self.key = keys.IDEMPOTENCY + hashlib.sha256(f"{call.principal.id}\n{name}".encode()).hexdigest()[:40]

    def done_at(self, entry: Entry | None) -> int | None:
        """Return the revision at which the request was applied, None if it was not. Raises Conflict."""
        if entry is None:
            return None
        if decode(IdempotencyRecord, entry.value).fingerprint != self.fingerprint:
            raise Conflict(
                "take the request", "its Idempotency-Key was used for another one", "send a new key",
                code="conflict.idempotency-key",
            )  # fmt: skip
        return entry.mod_revision


async def commit(call: Call, body: bytes, compute: Callable[[], Awaitable[Change]]) -> int | None:
    """Commit what `compute` returns; return the revision it is in the store at, None if nothing was to be done.

    It is computed again when the store moved on. An earlier request with the same idempotency key counts as
    this one: its revision is returned. `compute` reads what it needs and raises for a request that cannot be;
    then nothing is written. Raises Conflict, StoreError.
    """
    services = call.services
    once = Idempotency(call, body)
    if once.key is not None:
        done = once.done_at(await services.store.get(once.key))
        if done is not None:
            return done
    for _ in range(TRIES):
        change = await compute()
        if not change.operations:
            return None
        now_s = services.clock()
        compares, operations = list(change.compares), list(change.operations)
        if change.event is not None:
            operations.append(event_put(change.event))
        reads: list[Operation] = []
        if once.key is not None:
            compares.append(Compare(once.key, Target.VERSION, 0))
            operations.append(Put(once.key, encode(IdempotencyRecord(once.fingerprint, now_s))))
            reads.append(Get(once.key))
        answer = await services.store.txn(compares, operations, reads)
        if answer.succeeded:
            return answer.revision
        found = answer.answers[0] if reads else None
        done = once.done_at(found if isinstance(found, Entry) else None)
        if done is not None:
            return done
    raise Conflict(
        "write the change", f"others changed the same object {TRIES} times meanwhile", "send the request again",
        code="conflict.contended",
    )  # fmt: skip


def check_if_match(call: Call, what: str, entry: Entry | None) -> None:
    """Raise StaleRevision if the object is not at the revision of the If-Match header (0: absent)."""
    asked = call.if_match
    present = entry.mod_revision if entry is not None else 0
    if asked is None or asked == present:
        return
    if not present:
        why = f"it is asked for at revision {asked}, and does not exist"
    elif not asked:
        why = f"it is asked to be new, and exists (revision {present})"
    else:
        why = f"it is asked for at revision {asked}, and is at {present} now"
    raise StaleRevision(f"change {what}", why, "read it again, and decide anew")


def unchanged(entry: Entry | None, key: str) -> Compare:
    """Return the condition that a key is still as it was read (None: absent)."""
    return Compare(key, Target.MOD, entry.mod_revision if entry is not None else 0)


def event_put(record: EventRecord) -> Put:
    """Return the operation that records an event, after the earlier ones of this process in the same millisecond."""
    sequence = f"{next(_COUNT):08x}{secrets.token_hex(3)}"
    return Put(keys.event(record.at, sequence), encode(record))


def event(call: Call, code: str, subject: str, text: str, **where: str) -> EventRecord:
    """Return the event of a change; `where` may have namespace, app and node."""
    return EventRecord(call.services.clock(), code, subject, text, actor=call.principal.id, **where)
