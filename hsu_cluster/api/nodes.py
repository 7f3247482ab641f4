"""Nodes: lists, and what people ask of them. Their records are the leader's; the API writes intents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hsu_cluster.api.calls import Answer, Call, list_document, page_request
from hsu_cluster.api.documents import LeaderWord, node_document
from hsu_cluster.api.problem import conflict
from hsu_cluster.api.reading import NODES_ONLY
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.documents import EmptyBody, NodeDocument, RemovedDocument
from hsu_cluster.planning.intents import suggestion
from hsu_cluster.planning.node_table import NodeTable
from hsu_core.model.errors import Compacted, NotFound
from hsu_core.model.node import NodeIntent, NodeRecord, NodeState, Usage
from hsu_core.store.base import Delete, Operation, Put, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode


async def list_nodes(call: Call) -> Answer:
    """Return all nodes with what their assignments reserve."""
    page = page_request(call)
    reading = await call.services.reader.read(NODES_ONLY, revision=page.revision)
    usage = await _usage(call)
    word, now_s = _word(call), call.services.clock()
    items = [node_document(reading, node, usage, word, now_s) for _, node in sorted(reading.view.nodes.items())]
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
    return node_document(reading, node, await _usage(call), _word(call), call.services.clock())


def _word(call: Call) -> LeaderWord:
    leader = call.services.leader
    return LeaderWord(leader.last_seen(), leader.suspects())


async def _usage(call: Call) -> Mapping[str, Usage]:
    overview = await call.services.reader.overview()
    return NodeTable.from_view(overview.view).usage()


async def _no_such_node(call: Call, name: str) -> NotFound:
    page = await range_all(call.services.store, keys.NODES)
    known = [keys.parts(entry.key)[1] for entry in page.entries]
    return NotFound(
        f"find node {name}", f"the cluster has {suggestion(name, known, 'node')}", "see `hsu-cluster node list`"
    )


async def cordon(call: Call) -> Answer:
    """Place nothing more on a node."""
    return await _edit(call, "NodeCordoned", "takes no new instances", is_cordoned=True, is_draining=None)


async def drain(call: Call) -> Answer:
    """Place nothing more on a node and move its instances off."""
    return await _edit(call, "NodeDrained", "is to be emptied", is_cordoned=True, is_draining=True)


async def uncordon(call: Call) -> Answer:
    """Take a node back after cordon or drain."""
    return await _edit(call, "NodeUncordoned", "takes instances again", is_cordoned=False, is_draining=False)


async def _edit(call: Call, code: str, what: str, *, is_cordoned: bool, is_draining: bool | None) -> Answer:
    name = call.node
    await call.read_body(EmptyBody)

    async def compute() -> Change:
        store = call.services.store
        node = await store.get(keys.node(name))
        if node is None:
            raise await _no_such_node(call, name)
        entry = await store.get(keys.node_intent(name))
        newest = entry if entry is not None and entry.mod_revision > node.mod_revision else node
        check_if_match(call, f"node {name}", newest)
        before = decode(NodeIntent, entry.value) if entry is not None else NodeIntent(name)
        after = replace(
            before,
            is_cordoned=is_cordoned,
            is_draining=before.is_draining if is_draining is None else is_draining,
        )
        if after == before:
            return Change()
        payload = encode(after, over=entry.value if entry is not None else None)
        made = event(call, code, name, f"node {name} {what}", node=name)
        return Change([unchanged(entry, keys.node_intent(name))], [Put(keys.node_intent(name), payload)], made)

    committed = await commit(call, b"", compute)
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
