"""A restored or wiped store: what is held, what accepting it does on each node, and the acceptance itself."""

from __future__ import annotations

from collections.abc import Iterable

from hsu_cluster.api.calls import Answer, Call
from hsu_cluster.api.problem import conflict
from hsu_cluster.api.reading import EVERYTHING, NODES_ONLY
from hsu_cluster.api.writing import Change, commit, event, unchanged
from hsu_cluster.client.documents import EmptyBody
from hsu_cluster.client.restore_documents import NodeForecastDocument, RestoreDocument
from hsu_cluster.planning.restore import NodeForecast, forecast, holding
from hsu_core.model.ids import InstanceId
from hsu_core.model.records import ClusterRecord
from hsu_core.store.base import Entry, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode


async def get_restore(call: Call) -> Answer:
    """Return what is held and what accepting the restore would do."""
    record, _ = await _record(call)
    reading = await call.services.reader.read(EVERYTHING)
    document: RestoreDocument = {
        "incarnation": record.incarnation,
        "former": record.former,
        "held": record.held,
        "accepted": list(record.accepted),
        "nodes": [_node_document(found) for found in forecast(reading.view, record.accepted)],
        "revision": reading.revision,
    }
    return Answer(document)


async def accept(call: Call) -> Answer:
    """Give orders to the nodes that hold their work, and plan again."""
    await call.read_body(EmptyBody)

    async def compute() -> Change:
        record, entry = await _record(call)
        nodes = (await call.services.reader.read(NODES_ONLY)).view.nodes
        others = {nodes[name].held_by for name in holding(nodes, record.accepted)} - {record.incarnation}
        if record.held and record.former:
            others.add(record.former)
        if not record.held and not others:
            raise conflict(
                "accept a restore", "no node holds its work, and the cluster is not held", "there is nothing to do",
                code="conflict.not-held",
            )  # fmt: skip
        accepted = ClusterRecord(
            record.incarnation,
            record.created_at,
            former=record.former,
            accepted=(*record.accepted, *sorted(others)),
            store_id=record.store_id,
        )
        text = f"incarnation {record.incarnation} may order the work of {', '.join(sorted(others)) or 'no other'}"
        return Change(
            [unchanged(entry, keys.CLUSTER)],
            [Put(keys.CLUSTER, encode(accepted))],
            event(call, "RestoreAccepted", "cluster", text),
        )

    await commit(call, b"", compute)
    return await get_restore(call)


async def _record(call: Call) -> tuple[ClusterRecord, Entry | None]:
    entry = await call.services.store.get(keys.CLUSTER)
    return (ClusterRecord("") if entry is None else decode(ClusterRecord, entry.value)), entry


def _node_document(found: NodeForecast) -> NodeForecastDocument:
    return {
        "node": found.node,
        "held_by": found.held_by,
        "keeps": _names(found.keeps),
        "restarts": _names(found.restarts),
        "stops": _names(found.stops),
        "starts": _names(found.starts),
    }


def _names(instances: Iterable[InstanceId]) -> list[str]:
    return [str(instance) for instance in instances]
