"""The HTTP server: limits, authentication and problems around the route table.

Every request goes the same way: size of the headers, name of the host, who calls, what that role may do,
query parameters, handler, deadline. Whatever fails on the way becomes a problem document.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from yarl import URL

from hsu_cluster.api.auth import NOBODY, Principal, TokenBook, bearer
from hsu_cluster.api.calls import BODY_LIMIT_BYTES, Answer, Call, Services
from hsu_cluster.api.cluster import VERSION
from hsu_cluster.api.connections import HEADERS_LIMIT_BYTES, OPTIONS, Connection, Connections, LimitedSite
from hsu_cluster.api.metrics import ApiMetrics
from hsu_cluster.api.notices import NoticeHub
from hsu_cluster.api.openapi import openapi_document
from hsu_cluster.api.outage import OutageStore, Staleness, may_be_stale
from hsu_cluster.api.peers import Peers
from hsu_cluster.api.problem import (
    HeadersTooLarge,
    forbidden_host,
    from_bug,
    from_http,
    problem_response,
)
from hsu_cluster.api.reading import Reader
from hsu_cluster.api.routes import ROUTES, Route, check_routes
from hsu_cluster.planning.access import Permission, is_allowed
from hsu_cluster.ports import LeaderPort
from hsu_core.model.errors import Forbidden, HsuError, InvalidInput, InvalidSettings, OutcomeUnknown, StoreUnavailable
from hsu_core.runtime.settings import MasterSettings
from hsu_core.store.base import Store

log = logging.getLogger(__name__)

REQUEST_DEADLINE_S = 15.0
"""A request that is not a stream ends by then: three store calls at their own deadline of 5 s."""

SHUTDOWN_TIMEOUT_S = 2.0
"""What running requests and streams get when the server stops."""

STALE_HEADER = "X-HSU-Stale-Seconds"
"""Names an answer that is not from the store but from what was known this many seconds ago."""

SERVICES = web.AppKey("services", Services)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    store: Store,
    settings: MasterSettings,
    leader: LeaderPort,
    clock: Callable[[], float] = time.time,
    *,
    registry: CollectorRegistry | None = None,
    routes: Sequence[Route] = ROUTES,
    monotonic: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Return the application; `registry` may hold the daemon's own metrics. Raises Bug for a wrong route table."""
    check_routes(routes)
    seen = OutageStore(store, monotonic)
    peers, notices = Peers(settings), NoticeHub(seen)
    services = Services(
        store=seen,
        settings=settings,
        leader=leader,
        clock=clock,
        reader=Reader(seen, clock, times=settings.nodes),
        tokens=TokenBook(seen, monotonic),
        metrics=ApiMetrics(registry if registry is not None else CollectorRegistry()),
        peers=peers,
        notices=notices,
        openapi=json.dumps(openapi_document(routes, VERSION)).encode(),
        hosts=_hosts(settings),
    )
    table = {(route.method, route.path): route for route in routes}
    app = web.Application(
        middlewares=[_answering(table, services)],
        client_max_size=BODY_LIMIT_BYTES,
        handler_args=dict(OPTIONS),
    )
    app[SERVICES] = services
    for route in routes:
        app.router.add_route(route.method, route.path, _unreachable_handler)
    app.cleanup_ctx.append(peers.run)
    app.cleanup_ctx.append(notices.run)
    app.on_shutdown.append(notices.close)
    app.on_shutdown.append(services.end_streams)
    return app


async def serve(app: web.Application, settings: MasterSettings, bound: socket.socket | None = None) -> web.AppRunner:
    """Start to serve on `bound` (default: a new socket on `settings.listen`) and return the runner.

    Its `addresses` tell the port, its `cleanup` ends it. Raises InvalidSettings for an address that other
    hosts reach without TLS.
    """
    refuse_open_listen(settings)
    context = tls_context(settings)
    if bound is None:
        family = socket.AF_INET6 if ":" in settings.listen.host else socket.AF_INET
        bound = socket.create_server((settings.listen.host, settings.listen.port), family=family, backlog=1024)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S, handler_cancellation=True)
    try:
        await runner.setup()
        await LimitedSite(runner, bound, context, Connections()).start()
    except BaseException:
        await runner.cleanup()
        bound.close()
        raise
    return runner


def refuse_open_listen(settings: MasterSettings) -> None:
    """Raise InvalidSettings when tokens would cross a network unencrypted."""
    if settings.tls is None and not is_loopback(settings.listen.host):
        raise InvalidSettings(
            f"listen on {settings.listen}", "other hosts reach it and tls is not set: tokens would be readable",
            "set tls.cert_file and tls.key_file, or listen on 127.0.0.1", code="settings.tls",
        )  # fmt: skip


def tls_context(settings: MasterSettings) -> ssl.SSLContext | None:
    """Return the server's TLS context, None without TLS. Raises InvalidSettings."""
    if settings.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls.cert_file, settings.tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"use the certificate {settings.tls.cert_file}", str(error), "give a PEM chain and its key",
            code="settings.tls",
        ) from error  # fmt: skip
    return context


def is_loopback(host: str) -> bool:
    """Return whether only this host reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(settings: MasterSettings) -> frozenset[str]:
    """Return the names a loopback server answers to: a page in a browser may point its own name at 127.0.0.1."""
    if not is_loopback(settings.listen.host):
        return frozenset()
    advertised = URL(settings.advertise).host or ""
    return frozenset({"localhost", "127.0.0.1", "::1", settings.listen.host, advertised} - {""})


async def _unreachable_handler(request: web.Request) -> web.StreamResponse:
    raise AssertionError(f"{request.path} was not answered by the middleware")


def _answering(table: dict[tuple[str, str], Route], services: Services) -> Any:
    """Return the middleware that answers every request, known path or not."""

    @web.middleware
    async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
        started_s = time.perf_counter()
        if isinstance(request.protocol, Connection):
            request.protocol.has_request()
        resource = request.match_info.route.resource
        route = table.get((request.method, resource.canonical)) if resource is not None else None
        call = Call(request, services, NOBODY)
        response = await _respond(route, call, handler)
        duration_s = None if route is not None and route.is_stream else time.perf_counter() - started_s
        services.metrics.count(
            request.method if route is not None else "any",
            route.path if route is not None else "unmatched",
            response.status,
            duration_s,
        )
        return response

    return answer


async def _respond(route: Route | None, call: Call, go_on: Next) -> web.StreamResponse:
    request = call.request
    try:
        _check_head(request, call.services.hosts)
        if route is None:
            return await go_on(request)  # raises aiohttp's own 404 or 405
        call.principal = await _authorise(route, call)
        _check_query(route, request)
        if route.is_change:
            await call.services.store.check()
        if route.is_stream or route.permission is not Permission.READ:
            return await _handle(route, call)
        with may_be_stale() as staleness:
            return await _handle(route, call, staleness)
    except web.HTTPException as error:
        failure: HsuError = from_http(error, request.method, request.path)
    except HsuError as error:
        failure = error
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.path, error)
    except ConnectionError:
        raise  # the client has gone
    except TimeoutError:
        failure = _too_late(route)
    except Exception as error:
        failure = from_bug(error, request.method, request.path)
    if call.is_streaming:
        return _cut(request, failure)
    return problem_response(failure)


async def _handle(route: Route, call: Call, staleness: Staleness | None = None) -> web.StreamResponse:
    async with asyncio.timeout(None if route.is_stream else REQUEST_DEADLINE_S):
        found = await route.handler(call)
    age_s: float | None = None
    if staleness is not None and staleness.frozen is not None:
        age_s = staleness.age_s
    elif staleness is not None and call.services.store.is_away:
        age_s = call.services.store.age_s  # it was read and kept before
    return _json(found, age_s) if isinstance(found, Answer) else found


def _check_head(request: web.Request, hosts: frozenset[str]) -> None:
    size = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size + len(request.raw_path) > HEADERS_LIMIT_BYTES:
        raise headers_too_large()
    if hosts:
        try:
            host = URL.build(scheme="http", authority=request.headers.get("Host", "")).host
        except ValueError:
            host = None
        if host not in hosts:
            raise forbidden_host(request.headers.get("Host", ""))


def headers_too_large() -> HeadersTooLarge:
    """Return the error for headers above the limit."""
    return HeadersTooLarge("read the request", f"its headers have more than {HEADERS_LIMIT_BYTES} bytes", "send fewer")


async def _authorise(route: Route, call: Call) -> Principal:
    """Return who calls. Raises Unauthorized or Forbidden."""
    if route.permission is Permission.PUBLIC:
        return NOBODY
    header = call.request.headers.get("Authorization")
    if header is None and route.is_late_auth:
        return NOBODY
    principal = await call.services.tokens.identify(bearer(header))
    if not is_allowed(principal.role, route.permission):
        raise Forbidden(
            f"{route.method} {route.path}",
            f"it needs permission {route.permission}, and role {principal.role} does not have it",
            "use a token of another role",
        )
    return principal


def _check_query(route: Route, request: web.Request) -> None:
    known = {query.name for query in route.query}
    if unknown := sorted(set(request.query) - known):
        raise InvalidInput(
            f"use query parameter {unknown[0][:40]}", "it is not known here",
            f"known are {', '.join(sorted(known))}" if known else "send none", code="input.query",
        )  # fmt: skip
    if len(request.query) != len(set(request.query)):
        raise InvalidInput("use the query", "a parameter stands twice", "send each once", code="input.query")


def _json(answer: Answer, age_s: float | None) -> web.Response:
    """Return the answer; `age_s`: it is as old as this, because the store does not answer (None: it does)."""
    document = answer.document
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    if age_s is not None:
        headers[STALE_HEADER] = f"{age_s:.1f}"
        if isinstance(document, dict):
            document = {**document, "stale": True, "stale_s": round(age_s, 1)}
    if isinstance(document, dict) and "items" not in document and document.get("revision"):
        headers["ETag"] = f'"{document["revision"]}"'
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return web.Response(body=body, status=answer.status, content_type="application/json", headers=headers)


def _too_late(route: Route | None) -> HsuError:
    if route is not None and route.is_change:
        return OutcomeUnknown(
            "tell whether the change was made", f"it took more than {REQUEST_DEADLINE_S:g} s",
            "read the present state, or send it again with the same Idempotency-Key",
        )  # fmt: skip
    return StoreUnavailable("answer in time", f"it took more than {REQUEST_DEADLINE_S:g} s", "ask again")


def _cut(request: web.Request, failure: HsuError) -> web.StreamResponse:
    """End a streamed answer that failed: a proper end would tell the reader that it is complete."""
    log.warning("%s %s was cut: %s", request.method, request.path, failure)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError(str(failure))
