"""A check over HTTP: passes on a status 200..399. A small client of our own: half the cost of a full one.

Follows no redirect (the target must not lead us elsewhere), reads at most 64 KiB, sends `Connection: close`.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import cast
from urllib.parse import urlsplit

from hsu_agent.planning.health import Outcome
from hsu_core.model.spec import Pairs

BODY_LIMIT_BYTES = 64 * 1024
"""Most that is read of an answer, head and body; an endpoint that sends more is cut off, its status counts."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_UNSAFE = re.compile(r"[\r\n\0]")


class Exchange(asyncio.Protocol):
    """Sends one request and resolves with the status line as soon as it is there."""

    def __init__(self, request: bytes, answered: asyncio.Future[bytes]) -> None:
        self._request = request
        self._answered = answered
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the status line."""
        self._head += data
        if (b"\n" in self._head or len(self._head) > BODY_LIMIT_BYTES) and not self._answered.done():
            self._answered.set_result(bytes(self._head[:BODY_LIMIT_BYTES]))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        if not self._answered.done():
            self._answered.set_result(bytes(self._head))

    def close(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


async def check_http(url: str, method: str = "GET", headers: Pairs = ()) -> Outcome:
    """Return whether `url` answers with a status 200..399. The caller limits the time."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        return Outcome(False, f"http {url}: {error}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {name.lower(): value for name, value in headers}
    lines = [f"{method} {target} HTTP/1.1", f"host: {given.pop('host', parts.netloc.rpartition('@')[2])}"]
    lines += [f"{name}: {value}" for name, value in ({"user-agent": "hsu-agent", "accept": "*/*"} | given).items()]
    if any(_UNSAFE.search(line) for line in lines):
        return Outcome(False, f"http {url}: a header or the path holds a line break")
    request = ("\r\n".join([*lines, "connection: close"]) + "\r\n\r\n").encode("latin-1", "replace")
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    exchange = Exchange(request, answered)
    try:
        # like Kubernetes: a probe asks whether the worker is well, not who signed its certificate
        context = _unverified() if parts.scheme == "https" else None
        await loop.create_connection(lambda: exchange, host, port, ssl=context)
        head = await answered
    except OSError as error:
        return Outcome(False, f"http {url}: {error.strerror or error}")
    finally:
        exchange.close()
    match = _STATUS.match(head)
    if match is None:
        return Outcome(False, f"http {url}: " + ("no HTTP answer" if head else "closed without an answer"))
    status = int(match.group(1))
    return Outcome(200 <= status < 400, f"http {url}: status {status}")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
