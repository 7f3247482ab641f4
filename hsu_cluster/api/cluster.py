"""The cluster itself: health of this master, who leads, metrics, the API's own description, agents' sessions."""

from __future__ import annotations

from importlib import metadata

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from hsu_cluster.api.calls import Answer, Call
from hsu_cluster.api.documents import master_document
from hsu_cluster.api.reading import NODES_ONLY
from hsu_cluster.client.documents import ClusterDocument, HealthDocument
from hsu_cluster.planning.failover import mass_loss
from hsu_cluster.planning.restore import holding
from hsu_core.model.errors import StoreUnavailable
from hsu_core.model.records import ClusterRecord, MasterAdvert
from hsu_core.store.base import range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode

VERSION = metadata.version("hsu-cluster")

NAMES_SHOWN = 5
"""Nodes named in one sentence."""

READY_TIMEOUT_S = 2.0
"""A store slower than this cannot serve people; a load balancer then asks another master."""


async def healthz(_: Call) -> Answer:
    """Say that the process answers."""
    document: HealthDocument = {"status": "ok"}
    return Answer(document)


async def readyz(call: Call) -> Answer:
    """Say whether this master can serve: its store answers."""
    try:
        await call.services.store.range(keys.CLUSTER, limit=1, timeout_s=READY_TIMEOUT_S)
    except Exception as error:
        raise StoreUnavailable(
            "serve", f"the store did not answer within {READY_TIMEOUT_S:g} s", "ask another master"
        ) from error
    document: HealthDocument = {"status": "ready"}
    return Answer(document)


async def get_cluster(call: Call) -> Answer:
    """Return leader, term, masters, store and revision."""
    store = call.services.store
    masters = await range_all(store, keys.MASTERS)
    leader = await store.range(keys.LEADER, limit=1, revision=masters.revision)
    identity = await store.range(keys.CLUSTER, limit=1, revision=masters.revision)
    record = decode(ClusterRecord, identity.entries[0].value) if identity.entries else ClusterRecord("")
    status = await store.status()
    document: ClusterDocument = {
        "leader": master_document(decode(MasterAdvert, leader.entries[0].value)) if leader.entries else None,
        "term": max(call.services.leader.term, leader.entries[0].create_revision if leader.entries else 0),
        "masters": [master_document(decode(MasterAdvert, entry.value)) for entry in masters.entries],
        "revision": masters.revision,
        "store": {"backend": status.backend, "version": status.version, "warnings": list(status.warnings)},
        "incarnation": record.incarnation,
        "version": VERSION,
        "alarms": await _alarms(call, record),
    }
    return Answer(document)


async def _alarms(call: Call, record: ClusterRecord) -> list[str]:
    """Return what a person has to look at: a restore to be accepted, nodes lost together."""
    view = (await call.services.reader.read(NODES_ONLY)).view
    lost = mass_loss(view.nodes, call.services.clock(), view.times.ttl_s)
    names = ", ".join(sorted(lost.nodes)[:NAMES_SHOWN]) + (", ..." if len(lost.nodes) > NAMES_SHOWN else "")
    why = f"{lost.text}; what ran on {names} is not placed elsewhere: restore the network or remove dead nodes"
    held = holding(view.nodes, record.accepted)
    accept = "`hsu-cluster doctor accept-restore` shows what would happen, and accepts it"
    found = [f"nothing is planned or ordered: {record.held}; {accept}"] if record.held else []
    if held and not record.held:
        found.append(f"{', '.join(held[:NAMES_SHOWN])}: the workers there belong to another cluster; {accept}")
    return found + ([why] if lost.nodes else [])


async def get_openapi(call: Call) -> web.StreamResponse:
    """Return the OpenAPI document of these routes."""
    return web.Response(body=call.services.openapi, content_type="application/json")


async def get_metrics(call: Call) -> web.StreamResponse:
    """Return the metrics of this master in Prometheus' text form."""
    return web.Response(body=call.services.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def serve_session(call: Call) -> web.StreamResponse:
    """Take the WebSocket of an agent."""
    call.is_streaming = True
    return await call.services.leader.serve_session(call.request)
