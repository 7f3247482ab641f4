"""A check that a TCP connection opens."""

from __future__ import annotations

import asyncio

from hsu_agent.planning.health import Outcome


async def check_tcp(host: str, port: int) -> Outcome:
    """Return whether a connection opens. The caller limits the time."""
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    except OSError as error:
        return Outcome(False, f"tcp {host}:{port}: {error.strerror or error}")
    transport.abort()
    return Outcome(True, f"tcp {host}:{port}: open")
