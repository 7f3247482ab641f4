"""Lines to an HTTP receiver: one line each, newline-delimited JSON where the format is JSON."""

from __future__ import annotations

import aiohttp

from hsu_core.model.logging_rules import LogTarget


async def post(target: LogTarget, batch: list[bytes]) -> None:
    """Send a batch. Raises OSError where it was not taken."""
    is_json = "json" in target.format
    headers = {"Content-Type": "application/x-ndjson" if is_json else "text/plain"}
    if target.authorization:
        headers["Authorization"] = target.authorization
    body = b"".join(line + b"\n" for line in batch)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(target.place, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status >= 300:
                raise OSError(f"HTTP status {answer.status}")
    except aiohttp.ClientError as error:
        raise OSError(str(error) or type(error).__name__) from error
