"""`/v1/watch`: a WebSocket that says when something changed.

    client                                server
      | {"token": "hsu_..."} ---------->  |  unless the request had an Authorization header
      | <------- {"revision": 41, "kinds": [], "apps": []}     the watch stands: read now
      | <------- {"revision": 44, "kinds": ["instances"], "apps": ["default/shop"]}
      | <------- a problem document, then the close                       refused, or revoked meanwhile

A browser cannot set headers on a WebSocket, hence the first message; and its Origin must be this master.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import WSCloseCode, WSMsgType, web
from yarl import URL

from hsu_cluster.api.auth import NOBODY, Principal, bearer
from hsu_cluster.api.calls import Call
from hsu_cluster.api.notices import ALL_KINDS, Subscription
from hsu_cluster.api.outage import may_be_stale
from hsu_cluster.api.problem import forbidden_host, problem_document
from hsu_cluster.planning.access import Permission, is_allowed
from hsu_core.model.errors import Forbidden, HsuError, InvalidInput, Unauthorized
from hsu_core.wire import keys

FIRST_MESSAGE_TIMEOUT_S = 5.0
"""Nobody needs longer to send a token; an unauthenticated connection is held no longer."""

MESSAGE_LIMIT_BYTES = 4096
"""Clients send a token and nothing else."""

PING_S = 20.0
"""Below the usual minute after which routers forget a silent connection."""

SEND_TIMEOUT_S = 10.0
"""A watcher that takes nothing for so long is disconnected."""

RECHECK_S = 4.0
"""How often a silent watch asks whether its token still exists (promised: revoked within 5 s)."""


async def watch(call: Call) -> web.StreamResponse:
    """Push change notices until the client or the server ends."""
    request = call.request
    _check_origin(call)
    namespace, app = call.query_name("namespace"), call.query_name("app")
    kinds = frozenset(part for part in (call.query("kinds") or "").split(",") if part)
    if not kinds <= ALL_KINDS:
        raise InvalidInput(
            "use query parameter kinds", f"{', '.join(sorted(kinds - ALL_KINDS))[:80]} is not known",
            f"known are {', '.join(sorted(ALL_KINDS))}", code="input.query",
        )  # fmt: skip
    socket = web.WebSocketResponse(heartbeat=PING_S, max_msg_size=MESSAGE_LIMIT_BYTES, timeout=1.0)
    if not socket.can_prepare(request).ok:
        raise InvalidInput("watch", "the request is not a WebSocket handshake", "connect with ws:// or wss://")
    await call.begin(socket)
    try:
        principal = call.principal if call.principal != NOBODY else await _first_message(call, socket)
        with call.services.notices.subscribe(kinds, namespace, app) as subscription:
            with may_be_stale():
                page = await call.services.store.range(keys.CLUSTER, limit=1)
            await _send(socket, {"revision": page.revision, "kinds": [], "apps": []})
            await _push(call, socket, subscription, principal)
    except HsuError as error:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _send(socket, problem_document(error))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.code.encode())
    except (ConnectionError, TimeoutError):
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, drain=False)
    return socket


def _check_origin(call: Call) -> None:
    """Raise Forbidden when a page of another site opened the connection."""
    origin = call.request.headers.get("Origin")
    if origin is None:
        return
    try:
        url = URL(origin)
    except ValueError:
        url = URL()
    if url.authority != call.request.host or (call.services.hosts and url.host not in call.services.hosts):
        raise forbidden_host(origin)


async def _first_message(call: Call, socket: web.WebSocketResponse) -> Principal:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
            message = await socket.receive()
        token = json.loads(message.data)["token"] if message.type is WSMsgType.TEXT else None
        header = f"Bearer {token}" if isinstance(token, str) else None
    except (TimeoutError, ValueError, TypeError, KeyError, RecursionError):
        raise Unauthorized(
            "watch", "the first message did not bring a token", 'send {"token": "hsu_..."} first'
        ) from None
    principal = await call.services.tokens.identify(bearer(header))
    if not is_allowed(principal.role, Permission.READ):
        raise Forbidden("watch", f"role {principal.role} may not read", "use a token of another role")
    return principal


async def _push(call: Call, socket: web.WebSocketResponse, subscription: Subscription, principal: Principal) -> None:
    """Send notices until the socket closes, the server stops or the token is gone."""

    async def read() -> None:
        async for _ in socket:
            pass  # pings and the close are handled below us; a client has nothing more to say

    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(), name="watch reader")
        reading.add_done_callback(lambda _: subscription.close())
        try:
            await _tell(call, socket, subscription, principal)
        except (HsuError, ConnectionError, TimeoutError) as error:
            failure = error  # raised below, out of the group, which would wrap it
        reading.cancel()
    if failure is not None:
        raise failure
    await socket.close(code=WSCloseCode.GOING_AWAY)


async def _tell(call: Call, socket: web.WebSocketResponse, subscription: Subscription, principal: Principal) -> None:
    while not subscription.is_closed:
        notice = await subscription.next(RECHECK_S)
        if not await call.services.tokens.is_valid(principal):
            raise Unauthorized("go on watching", "the token was revoked", "connect with another one")
        if notice is not None and not subscription.is_closed:
            await _send(socket, notice)


async def _send(socket: web.WebSocketResponse, document: object) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await socket.send_str(json.dumps(document))
