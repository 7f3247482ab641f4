"""Limits of the connections themselves: how many, how long a silent one lives, and errors of the HTTP parser.

What comes before a request exists cannot be handled by the application; this is that part.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from hsu_cluster.api.problem import HeadersTooLarge, from_bug, problem_response
from hsu_core.model.errors import HsuError, InvalidInput

OPEN_LIMIT = 12_000
"""Connections at once: 5,000 agents, as many watchers, and room for requests."""

ACCEPTS_PER_ROUND = 1
"""Connections accepted in one round of the event loop. When a fleet comes at once, those accepted are served before
others are: served all together, each would take as long as all, and all would give up before any is done. And a
round that serves hundreds keeps the leader's own loops waiting, in the end for longer than its lease."""

QUEUE_LIMIT = 4096
"""Connections that wait in the kernel to be accepted, as far as it allows (`net.core.somaxconn`)."""

HEADER_TIMEOUT_S = 5.0
"""A new connection has sent its first request's headers by then, or is closed."""

HANDSHAKE_TIMEOUT_S = 5.0
"""The same for the TLS handshake."""


HEADERS_LIMIT_BYTES = 16 * 1024
"""All headers of a request; one of them, and the request line, at most half of it."""

KEEPALIVE_S = 75.0
"""Longer than the minute of common proxies, so that they and not we end an idle connection."""

LINGER_S = 2.0
"""How long the rest of a refused body is read, so that the sender gets to see the answer."""

OPTIONS: Mapping[str, Any] = {
    "max_line_size": HEADERS_LIMIT_BYTES // 2,
    "max_field_size": HEADERS_LIMIT_BYTES // 2,
    "auto_decompress": False,
    "keepalive_timeout": KEEPALIVE_S,
    "lingering_time": LINGER_S,
    "access_log": None,
}
"""Arguments of aiohttp's connection. Bodies are not decompressed: a small one could become a large one."""


@dataclass(slots=True)
class Connections:
    """The limits of one server and how many connections it has."""

    open_limit: int = OPEN_LIMIT
    header_timeout_s: float = HEADER_TIMEOUT_S
    open_count: int = 0


class Connection(web.RequestHandler):
    """aiohttp's connection with a deadline for its first request and our form of errors."""

    def __init__(self, manager: web.Server, limits: Connections) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **OPTIONS)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection and give it a deadline; one too many is closed at once."""
        super().connection_made(transport)
        self._limits.open_count += 1
        if self._limits.open_count > self._limits.open_limit:
            self.force_close()
            return
        self._deadline = asyncio.get_running_loop().call_later(self._limits.header_timeout_s, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no more."""
        self._limits.open_count -= 1
        self.has_request()
        super().connection_lost(exc)

    def has_request(self) -> None:
        """Take back the deadline: a request is there, and from now on the keep-alive timeout counts."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return a problem document for what the parser refused, and close the connection."""
        self.has_request()
        error: HsuError
        if isinstance(exc, LineTooLong) or "too many headers" in (message or "").lower():
            error = HeadersTooLarge("read the request", "a header or the request line is too long", "send less")
        elif status == 400:
            error = InvalidInput("read the request", (message or "it is not HTTP").split("\n")[0][:200])
        else:
            error = from_bug(exc, request.method, request.path)
        response = problem_response(error)
        response.force_close()
        return response


class LimitedSite(web.BaseSite):
    """A listening socket whose connections are limited."""

    def __init__(
        self, runner: web.AppRunner, bound: socket.socket, context: ssl.SSLContext | None, limits: Connections
    ) -> None:
        super().__init__(runner, ssl_context=context)
        self._bound = bound
        self.limits = limits

    @property
    def name(self) -> str:
        """Return the URL for people."""
        host, port = self._bound.getsockname()[:2]
        return f"{'https' if self._ssl_context else 'http'}://{host}:{port}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        server = self._runner.server
        assert server is not None  # the base class has checked that setup() ran

        def connection() -> Connection:
            return Connection(server, self.limits)

        self._server = await asyncio.get_running_loop().create_server(
            connection,
            sock=self._bound,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if self._ssl_context else None,
            backlog=ACCEPTS_PER_ROUND,
        )
        self._bound.listen(QUEUE_LIMIT)  # asyncio takes one number for both
