"""What the API needs of the leader side of the same process. The two never import each other.

`hsu_cluster.leader` implements `LeaderPort`, `hsu_cluster.api` uses it, `hsu_cluster.daemon` joins them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiohttp import web

from hsu_core.model.ids import InstanceId
from hsu_core.model.log_query import LogQuery
from hsu_core.model.records import MasterAdvert
from hsu_core.wire.frames import Chunk


class LeaderPort(Protocol):
    """Who leads, and what only the leader can do: talk to a node."""

    @property
    def is_leading(self) -> bool:
        """Return whether this master leads now."""
        ...

    @property
    def term(self) -> int:
        """Return the term this master leads in, or the last one it saw (0: none)."""
        ...

    @property
    def leader(self) -> MasterAdvert | None:
        """Return who leads as far as this master knows."""
        ...

    def last_seen(self) -> Mapping[str, float]:
        """Return for each node with a session here the seconds since 1970 of its last frame (leader only)."""
        ...

    def suspects(self) -> Collection[str]:
        """Return the names of the nodes that have been silent for longer than they should be (leader only)."""
        ...

    def logs(
        self, instance: InstanceId, node: str, query: LogQuery
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Stream the log of an instance from its node. Raises NodeUnreachable, or NoLeader on a standby."""
        ...

    async def signal(self, instance: InstanceId, node: str, name: str) -> None:
        """Send a signal to an instance's process group. Raises NodeUnreachable, or NoLeader on a standby."""
        ...

    async def serve_session(self, request: web.Request) -> web.StreamResponse:
        """Take the WebSocket of an agent (already authorised) and serve it until it ends."""
        ...
