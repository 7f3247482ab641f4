"""A standby asks the leader for what needs a node's session, with the caller's own authorisation.

Any master answers any request; only logs and signals need the leader. A request is passed on once: a
master that gets a passed-on request and does not lead says so instead of sending it round.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from hsu_core.model.errors import HsuError, NoLeader
from hsu_core.model.records import MasterAdvert
from hsu_core.runtime.settings import MasterSettings

FORWARDED = "X-HSU-Forwarded-By"
"""Names the master that passed a request on."""

CONNECT_TIMEOUT_S = 3.0
"""The leader is a neighbour: longer means it is gone, and the caller should ask again after the election."""

PASSED_HEADERS = ("Authorization", "Content-Type", "Accept")


class Peers:
    """Connections to the other masters; open while the server runs."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Keep the session open for the life of the application (an aiohttp cleanup context)."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            auto_decompress=False,
        ) as self._session:
            yield
        self._session = None

    def _trust(self) -> ssl.SSLContext | bool:
        """Trust what the system trusts and this master's own certificate file (it may hold the cluster's CA)."""
        if self._settings.tls is None:
            return True
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=str(self._settings.tls.cert_file))
        return context

    @asynccontextmanager
    async def forward(
        self, request: web.Request, leader: MasterAdvert | None, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request to the leader and give its answer. Raises NoLeader."""
        if leader is None or FORWARDED in request.headers or self._session is None:
            raise NoLeader(
                "reach the node", "no master leads at this moment", "ask again in a few seconds, when one is elected"
            )
        url = URL(leader.url.rstrip("/") + request.raw_path, encoded=True)
        headers = {name: request.headers[name] for name in PASSED_HEADERS if name in request.headers}
        headers[FORWARDED] = self._settings.name
        try:
            answer = await self._session.request(request.method, url, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable_leader(leader, error) from error
        async with answer:
            yield answer


def unreachable_leader(leader: MasterAdvert, error: BaseException) -> HsuError:
    """Return the error for a leader that does not answer."""
    return NoLeader(
        f"reach the leader {leader.name} at {leader.url}", str(error)[:200] or type(error).__name__,
        "ask again in a few seconds; when it stays so, check the network between the masters",
    )  # fmt: skip
