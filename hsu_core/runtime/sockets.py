"""The WebSocket between agent and master as both of them use it, whichever side and whatever carries it.

aiohttp's two classes fit as they are; tests put a pair in memory in their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aiohttp import WSMessage


class Socket(Protocol):
    """An open WebSocket; every message is one frame."""

    @property
    def closed(self) -> bool:
        """Return whether this side has closed it."""
        ...

    async def receive(self) -> WSMessage:
        """Return the next message; after the end one of a type such as CLOSED, again and again."""
        ...

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message; waits while the other side takes nothing. Raises ConnectionError."""
        ...

    async def close(self) -> Any:
        """Close it; no error if it is closed."""
        ...
