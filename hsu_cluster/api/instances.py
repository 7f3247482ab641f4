"""Instances: lists, logs and signals. The last two need the node's session, which only the leader has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import web

from hsu_cluster.api.apps import namespace_and_app
from hsu_cluster.api.calls import Answer, Call, PageRequest, list_document, no_such_app, page_request
from hsu_cluster.api.documents import instance_document
from hsu_cluster.api.peers import unreachable_leader
from hsu_cluster.api.reading import Scope
from hsu_cluster.api.writing import event, event_put
from hsu_cluster.client.documents import InstanceDocument, RemovedDocument, SignalBody
from hsu_core.model.assignment import Assignment
from hsu_core.model.errors import Conflict, InvalidInput, NotFound, StoreError
from hsu_core.model.ids import InstanceId
from hsu_core.model.log_query import LogQuery
from hsu_core.store.base import range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode
from hsu_core.wire.frames import Chunk

TAIL_DEFAULT = 100
TAIL_LIMIT = 100_000
"""Most lines asked for at once; an agent's segments hold some hundred thousand."""

SEND_TIMEOUT_S = 30.0
"""A reader of logs that takes nothing for so long is dropped: its chunks would pile up on the node's session."""

SIGNAL = re.compile(r"SIG[A-Z][A-Z0-9]{1,15}", re.ASCII)

STREAM_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""A log holds what a worker wrote: no browser may take it for a page."""


async def list_instances(call: Call) -> Answer:
    """Return the instances of all apps, of a namespace, or of one app."""
    namespace, app = namespace_and_app(call)
    return await _list(call, Scope(namespace, app), page_request(call))


async def list_app_instances(call: Call) -> Answer:
    """Return the instances of the app in the path (also while they are stopped after its removal)."""
    app = call.app
    answer = await _list(call, Scope(app.namespace, app.app), page_request(call))
    if not answer.document["items"] and await call.services.store.get(keys.app(app)) is None:
        raise no_such_app(app)
    return answer


async def _list(call: Call, scope: Scope, page: PageRequest) -> Answer:
    reader = call.services.reader
    reading = await reader.read(scope, revision=page.revision)
    unplaced = await reader.unplaced(reading)

    def build(instance: InstanceId) -> InstanceDocument:
        return instance_document(reading, instance, unplaced)

    return Answer(list_document(reading.index.order, _name, page, reading.revision, build))


def _name(instance: InstanceId) -> tuple[str, ...]:
    return instance.namespace, instance.app, instance.worker, f"{instance.slot:05d}"


async def _node_of(call: Call, instance: InstanceId) -> str:
    """Return the node that has (or had last) the instance. Raises NotFound, or Conflict when it has none."""
    store = call.services.store
    entry = await store.get(keys.assignment(instance))
    if entry is not None:
        return decode(Assignment, entry.value).node
    statuses = await range_all(store, keys.status(instance, ""))
    if statuses.entries:
        return keys.parts(statuses.entries[-1].key)[-1]
    if await store.get(keys.app(instance.app_id)) is None:
        raise no_such_app(instance.app_id)
    reading = await call.services.reader.read(Scope(instance.namespace, instance.app))
    if instance in reading.index.order:
        raise Conflict(
            f"reach {instance}", "it has no node yet", f"see `hsu-cluster describe {instance.app}`",
            code="conflict.not-placed",
        )  # fmt: skip
    raise NotFound(f"find instance {instance}", f"app {instance.app_id} has none of this name", "see `get instances`")


async def read_logs(call: Call) -> web.StreamResponse:
    """Stream the log of an instance as text."""
    instance = call.instance
    since_at, until_at = call.query_time("since"), call.query_time("until")
    tail = call.query_number("tail", TAIL_DEFAULT if since_at is None else TAIL_LIMIT, 0, TAIL_LIMIT)
    query = LogQuery(tail, call.query_flag("follow"), since_at, until_at, call.query_flag("timestamps"))
    if query.is_followed and until_at is not None:
        raise InvalidInput(
            f"read logs of {instance}", "`follow` has no end and `until` has one", "leave one of them out",
            code="input.query",
        )  # fmt: skip
    node = await _node_of(call, instance)
    leader = call.services.leader
    with call.services.endless():
        if not leader.is_leading:
            return await _pass_on_stream(call)
        return await _stream_logs(call, leader.logs(instance, node, query))


async def _stream_logs(call: Call, opened: AbstractAsyncContextManager[AsyncIterator[Chunk]]) -> web.StreamResponse:
    async with opened as chunks:
        response = _stream(200, "text/plain")
        response.charset = "utf-8"
        await call.begin(response)
        async for chunk in chunks:
            await _send(response, chunk.payload)
        await response.write_eof()
        return response


async def _pass_on_stream(call: Call) -> web.StreamResponse:
    leader = call.services.leader.leader
    async with call.services.peers.forward(call.request, leader) as answer:
        response = _stream(answer.status, answer.content_type)
        response.charset = answer.charset
        await call.begin(response)
        try:
            async for part in answer.content.iter_any():
                await _send(response, part)
        except aiohttp.ClientError as error:
            assert leader is not None  # forward() found one
            raise unreachable_leader(leader, error) from error
        await response.write_eof()
        return response


def _stream(status: int, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=STREAM_HEADERS)
    response.content_type = content_type
    return response


async def _send(response: web.StreamResponse, payload: bytes) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await response.write(payload)


async def signal(call: Call) -> web.StreamResponse | Answer:
    """Send a signal to an instance's process group."""
    instance = call.instance
    body = await call.read_body(SignalBody)
    name = body["signal"]
    if SIGNAL.fullmatch(name) is None:
        raise InvalidInput(
            f"send signal {name[:40]!r}", "", "write its name, as SIGHUP or SIGUSR1", code="input.signal"
        )
    node = await _node_of(call, instance)
    leader = call.services.leader
    if not leader.is_leading:
        async with call.services.peers.forward(call.request, leader.leader, await call.request.read()) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)
    await leader.signal(instance, node, name)
    revision = await _note_signal(call, instance, node, name)
    document: RemovedDocument = {"subject": str(instance), "done": True, "revision": revision}
    return Answer(document)


async def _note_signal(call: Call, instance: InstanceId, node: str, name: str) -> int:
    """Record that a signal was sent; return the revision, 0 if it could not be recorded (it was sent anyway)."""
    text = f"{name} was sent to {instance} on {node}"
    made = event(call, "Signalled", str(instance), text, namespace=instance.namespace, app=instance.app, node=node)
    try:
        answer = await call.services.store.txn([], [event_put(made)])
    except StoreError:
        return 0
    return answer.revision
