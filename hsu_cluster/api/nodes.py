"""Nodes: lists, and what people ask of them. Their records are the leader's; the API writes intents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from hsu_cluster.api.calls import JSON_TYPE, Answer, Call, list_document, page_request
from hsu_cluster.api.node_documents import LeaderWord, drain_plan_document, node_document
from hsu_cluster.api.problem import conflict
from hsu_cluster.api.reading import NODES_ONLY
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.documents import EmptyBody, NodeDocument, RemovedDocument
from hsu_cluster.client.node_documents import DrainBody
from hsu_cluster.planning.drain import DrainProgress, drain_progress, plan_drain
from hsu_cluster.planning.intents import suggestion
from hsu_cluster.planning.node_table import NodeTable
from hsu_core.model.errors import Compacted, InvalidInput, NotFound
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState, Usage
from hsu_core.store.base import Delete, Operation, Put, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode

DEADLINE_LIMIT_S = 30 * 86400.0
"""Longest deadline of a drain: 30 days."""


async def list_nodes(call: Call) -> Answer:
    """Return all nodes with what their assignments reserve, and how far their drains are."""
    page = page_request(call)
    reading = await call.services.reader.read(NODES_ONLY, revision=page.revision)
    usage, drains = await _sums(call)
    word, now_s = _word(call), call.services.clock()
    items = [node_document(reading, node, usage, word, drains, now_s) for _, node in sorted(reading.view.nodes.items())]
    return Answer(list_document(items, lambda item: (item["name"],), page, reading.revision))


async def get_node(call: Call) -> Answer:
    """Return one node."""
    return Answer(await _read_node(call, call.node))


async def _read_node(call: Call, name: str, revision: int | None = None) -> NodeDocument:
    reader = call.services.reader
    try:
        reading = await reader.read(NODES_ONLY, revision=revision)
    except Compacted:
        reading = await reader.read(NODES_ONLY)
    node = reading.view.nodes.get(name)
    if node is None:
        raise await _no_such_node(call, name)
    usage, drains = await _sums(call)
    return node_document(reading, node, usage, _word(call), drains, call.services.clock())


def _word(call: Call) -> LeaderWord:
    leader = call.services.leader
    return LeaderWord(leader.last_seen(), leader.suspects())


async def _sums(call: Call) -> tuple[Mapping[str, Usage], Mapping[str, DrainProgress]]:
    """Return what is reserved on each node, and what is left on those that drain."""
    overview = await call.services.reader.overview()
    view, now_s = overview.view, call.services.clock()
    usage = NodeTable.from_view(view).usage()
    if not any(intent.is_draining for intent in view.node_intents.values()):
        return usage, {}
    if overview.drains is None:  # the reasons cost a pass of the planner: worked out once for each reading
        overview.drains = await asyncio.to_thread(drain_progress, view, now_s)
    return usage, overview.drains


async def get_drain_plan(call: Call) -> Answer:
    """Return what a drain of a node would do, without doing it."""
    overview = await call.services.reader.overview()
    if call.node not in overview.view.nodes:
        raise await _no_such_node(call, call.node)
    is_forced = call.query_flag("force")
    now_s = call.services.clock()
    plan = await asyncio.to_thread(plan_drain, overview.view, call.node, now_s, is_forced=is_forced)
    return Answer(drain_plan_document(call.node, plan, overview.revision))


async def _no_such_node(call: Call, name: str) -> NotFound:
    page = await range_all(call.services.store, keys.NODES)
    known = [keys.parts(entry.key)[1] for entry in page.entries]
    return NotFound(
        f"find node {name}", f"the cluster has {suggestion(name, known, 'node')}", "see `hsu-cluster node list`"
    )


async def cordon(call: Call) -> Answer:
    """Place nothing more on a node."""
    await call.read_body(EmptyBody)
    return await _edit(
        call, "NodeCordoned", lambda _: "takes no new instances", lambda intent: replace(intent, is_cordoned=True)
    )


async def drain(call: Call) -> Answer:
    """Place nothing more on a node and move its instances off; or stop moving them."""
    body = await call.read_body(DrainBody)
    deadline_s, is_forced = body.get("deadline"), body.get("force", False)
    if body.get("cancel"):
        if deadline_s is not None or is_forced:
            raise InvalidInput(
                f"drain {call.node}", "cancel is given with a deadline or force", "give one of them", code="input.drain"
            )
        return await _edit(call, "NodeDrainCancelled", lambda _: "keeps what it has", _not_draining)
    if deadline_s is not None and not 0 < deadline_s <= DEADLINE_LIMIT_S:
        raise InvalidInput(
            f"drain {call.node}", f"its deadline is {deadline_s:g} s", "give more than 0 and at most 30 days",
            code="input.drain",
        )  # fmt: skip
    deadline_at = None if deadline_s is None else call.services.clock() + deadline_s

    def edit(intent: NodeIntent) -> NodeIntent:
        """Return the intent to drain; an earlier deadline or force stays unless another is given."""
        kept = intent.drain_deadline_at if intent.is_draining else None
        return replace(
            intent,
            is_cordoned=True,
            is_draining=True,
            drain_deadline_at=kept if deadline_at is None else deadline_at,
            is_drain_forced=is_forced or (intent.is_draining and intent.is_drain_forced),
        )

    return await _edit(call, "NodeDrained", _drain_text, edit)


def _drain_text(intent: NodeIntent) -> str:
    if intent.is_drain_forced:
        return "is to be emptied by force"
    return "is to be emptied" + (" by its deadline" if intent.drain_deadline_at is not None else "")


def _not_draining(intent: NodeIntent) -> NodeIntent:
    return replace(intent, is_draining=False, drain_deadline_at=None, is_drain_forced=False)


async def uncordon(call: Call) -> Answer:
    """Take a node back after cordon or drain."""
    await call.read_body(EmptyBody)
    return await _edit(
        call, "NodeUncordoned", lambda _: "takes instances again",
        lambda intent: replace(_not_draining(intent), is_cordoned=False),
    )  # fmt: skip


async def _edit(
    call: Call, code: str, told: Callable[[NodeIntent], str], edit: Callable[[NodeIntent], NodeIntent]
) -> Answer:
    name = call.node
    body = await call.read_text(frozenset({JSON_TYPE}))

    async def compute() -> Change:
        store = call.services.store
        node = await store.get(keys.node(name))
        if node is None:
            raise await _no_such_node(call, name)
        entry = await store.get(keys.node_intent(name))
        newest = entry if entry is not None and entry.mod_revision > node.mod_revision else node
        check_if_match(call, f"node {name}", newest)
        before = decode(NodeIntent, entry.value) if entry is not None else NodeIntent(name)
        after = edit(before)
        if after == before:
            return Change()
        payload = encode(after, over=entry.value if entry is not None else None)
        made = event(call, code, name, f"node {name} {told(after)}", node=name)
        return Change([unchanged(entry, keys.node_intent(name))], [Put(keys.node_intent(name), payload)], made)

    committed = await commit(call, body, compute)
    return Answer(await _read_node(call, name, committed))


async def remove(call: Call) -> Answer:
    """Forget a node that is lost or has left."""
    name = call.node
    await call.read_body(EmptyBody)

    async def compute() -> Change:
        store = call.services.store
        entry = await store.get(keys.node(name))
        check_if_match(call, f"node {name}", entry)
        if entry is None:
            raise await _no_such_node(call, name)
        if decode(NodeRecord, entry.value).state is NodeState.READY:
            raise conflict(
                f"remove node {name}", "it is ready and may run workers",
                f"drain it, stop its agent, then remove it (`hsu-cluster node drain {name}`)", "node.present",
            )  # fmt: skip
        operations: list[Operation] = [Delete(keys.node(name)), Delete(keys.node_intent(name))]
        made = event(call, "NodeRemoved", name, f"node {name} was removed", node=name)
        return Change([unchanged(entry, keys.node(name))], operations, made)

    committed = await commit(call, b"", compute)
    document: RemovedDocument = {"subject": name, "done": True, "revision": committed or 0}
    return Answer(document)
