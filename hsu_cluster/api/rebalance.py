"""Rebalances: what one would do, how far the last is, and to ask for one. The leader's record says what is done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection

from hsu_cluster.api.calls import JSON_TYPE, Answer, Call
from hsu_cluster.api.problem import conflict
from hsu_cluster.api.reading import NODES_ONLY
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.documents import EmptyBody
from hsu_cluster.client.node_documents import (
    MoveDocument,
    RebalanceBody,
    RebalanceDocument,
    RebalancePlanDocument,
)
from hsu_cluster.planning.balance import choose_moves, node_loads
from hsu_core.model.errors import InvalidInput
from hsu_core.model.rebalance import Move, MoveState, Rebalance, RebalanceIntent
from hsu_core.store.base import Put
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode

MOVES_LIMIT = 10_000
"""Most moves that can be asked for."""

PLANNED_MOVES = 500
"""Most moves of a plan that are worked out: it is made anew with every batch anyway."""


async def get_plan(call: Call) -> Answer:
    """Return what a rebalance would do now, without doing it."""
    asked = call.query("max_moves")
    limit = PLANNED_MOVES
    if asked is not None:
        limit = min(_checked(int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0), limit)
    overview = await call.services.reader.overview()
    view, now_s = overview.view, call.services.clock()
    moves = await asyncio.to_thread(choose_moves, view, now_s, limit)
    loads = await asyncio.to_thread(node_loads, view, moves, now_s)
    document: RebalancePlanDocument = {
        "moves": _moves(moves),
        "nodes": [{"node": name, "before": before, "after": after} for name, (before, after) in loads.items()],
        "revision": overview.revision,
    }
    return Answer(document)


async def get_rebalance(call: Call) -> Answer:
    """Return how far the last rebalance is."""
    reading = await call.services.reader.read(NODES_ONLY)
    held, intent = reading.view.rebalance, reading.view.rebalance_intent
    revision = max(reading.changed.get(keys.REBALANCE_STATE, 0), reading.changed.get(keys.REBALANCE_INTENT, 0))
    return Answer(_document(held, intent, revision))


def _document(held: Rebalance | None, intent: RebalanceIntent | None, revision: int) -> RebalanceDocument:
    is_ahead = intent is not None and not intent.is_cancelled and (held is None or held.id != intent.id)
    if is_ahead and intent is not None:
        text = "waits for the leader to begin"
        return {
            "id": intent.id, "phase": "Requested", "text": text, "automatic": False, "max_moves": intent.max_moves,
            "moved": 0, "skipped": 0, "moves": [], "started_at": None, "ended_at": None, "revision": revision,
        }  # fmt: skip
    if held is None:
        return {
            "id": "", "phase": "Idle", "text": "nobody has asked for a rebalance", "automatic": False, "max_moves": 0,
            "moved": 0, "skipped": 0, "moves": [], "started_at": None, "ended_at": None, "revision": revision,
        }  # fmt: skip
    return {
        "id": held.id,
        "phase": str(held.phase),
        "text": held.text,
        "automatic": held.is_automatic,
        "max_moves": held.max_moves,
        "moved": held.moved + sum(move.state is MoveState.DONE for move in held.moves),
        "skipped": len(held.left_alone) + sum(move.state is MoveState.SKIPPED for move in held.moves),
        "moves": _moves(held.moves),
        "started_at": held.started_at,
        "ended_at": held.ended_at,
        "revision": revision,
    }


def _moves(moves: Collection[Move]) -> list[MoveDocument]:
    return [
        {
            "id": move.instance.short,
            "namespace": move.instance.namespace,
            "source": move.source,
            "target": move.target,
            "reason": move.why,
            "state": str(move.state),
        }
        for move in moves
    ]


def _checked(moves: int) -> int:
    if not 1 <= moves <= MOVES_LIMIT:
        why = f"max_moves is not from 1 to {MOVES_LIMIT}"
        raise InvalidInput("rebalance", why, "give a number in that range", code="input.rebalance")
    return moves


async def begin(call: Call) -> Answer:
    """Ask for a rebalance; the leader begins it."""
    body = await call.read_body(RebalanceBody)
    limit = _checked(body["max_moves"]) if "max_moves" in body else 0
    intent = RebalanceIntent(
        secrets.token_hex(6), limit, requested_at=call.services.clock(), requested_by=call.principal.id
    )

    async def compute() -> Change:
        entry = await call.services.store.get(keys.REBALANCE_INTENT)
        state = await call.services.store.get(keys.REBALANCE_STATE)
        check_if_match(call, "the rebalance", entry)
        before = decode(RebalanceIntent, entry.value) if entry is not None else None
        held = decode(Rebalance, state.value) if state is not None else None
        is_begun = held is not None and before is not None and held.id == before.id
        is_waiting = before is not None and not before.is_cancelled and not is_begun
        if is_waiting or (is_begun and held is not None and held.is_active):
            raise conflict(
                "rebalance", "one is on its way",
                "wait for it (`hsu-cluster node rebalance --wait` shows how far it is), or cancel it",
                "conflict.rebalancing",
            )  # fmt: skip
        made = event(call, "RebalanceRequested", "rebalance", "a rebalance was asked for")
        return Change([unchanged(entry, keys.REBALANCE_INTENT)], [Put(keys.REBALANCE_INTENT, encode(intent))], made)

    await commit(call, await call.read_text(frozenset({JSON_TYPE})), compute)
    return await get_rebalance(call)


async def cancel(call: Call) -> Answer:
    """Begin no other move; what is on its way stays where it is. The automatic one is ended in the same way."""
    await call.read_body(EmptyBody)

    async def compute() -> Change:
        entry = await call.services.store.get(keys.REBALANCE_INTENT)
        state = await call.services.store.get(keys.REBALANCE_STATE)
        check_if_match(call, "the rebalance", entry)
        intent = decode(RebalanceIntent, entry.value) if entry is not None else None
        held = decode(Rebalance, state.value) if state is not None else None
        is_ahead = intent is not None and not intent.is_cancelled and (held is None or held.id != intent.id)
        target = intent.id if is_ahead and intent is not None else held.id if held is not None else ""
        is_over = not is_ahead and (held is None or not held.is_active)
        if is_over or (intent is not None and intent.id == target and intent.is_cancelled):
            return Change()
        after = RebalanceIntent(
            target, is_cancelled=True, requested_at=call.services.clock(), requested_by=call.principal.id
        )
        made = event(call, "RebalanceCancelled", "rebalance", "the rebalance was cancelled")
        return Change([unchanged(entry, keys.REBALANCE_INTENT)], [Put(keys.REBALANCE_INTENT, encode(after))], made)

    await commit(call, b"", compute)
    return await get_rebalance(call)
