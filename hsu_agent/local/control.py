"""The control socket of the agent: one line of JSON in, one out, for `hsu-agent status` and its sisters.

Only the agent's own user and root are served: the socket is 0600 in a folder of 0700, and who connects is
checked by the credentials that the kernel tells. Knows what can be asked, not how it is done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hsu_core.model.errors import Forbidden, HsuError, InvalidInput, NotFound
from hsu_core.model.ids import InstanceId

log = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"

PATH_LIMIT = 107
"""Most bytes of a socket's path that the kernel takes."""

REQUEST_LIMIT_BYTES = 64 * 1024
ANSWER_S = 120.0
"""Longest that a request may take: a reload reads files in a child process."""

IDLE_S = 10.0
"""Longest wait for a request on a connection."""

Verb = Callable[[Mapping[str, Any]], Awaitable[Any]]


def socket_path(data_dir: Path) -> Path:
    """Return the path of the socket. Raises InvalidInput if it is longer than the kernel takes."""
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) > PATH_LIMIT:
        why = f"its path has more than {PATH_LIMIT} bytes"
        raise InvalidInput(f"listen on {path}", why, "choose a shorter --data-dir")
    return path


class ControlServer:
    """Answers on the control socket of a data folder."""

    def __init__(self, data_dir: Path, verbs: Mapping[str, Verb]) -> None:
        self._path = socket_path(data_dir)
        self._verbs = verbs
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; the caller holds the lock of the data folder. Raises OSError."""
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=REQUEST_LIMIT_BYTES)
        finally:
            os.umask(mask)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                line = await reader.readuntil(b"\n")
            answer = await self._answer(line, writer.get_extra_info("socket"))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or asked nothing
        finally:
            writer.close()

    async def _answer(self, line: bytes, connection: Any) -> dict[str, Any]:
        try:
            _check_peer(connection)
            request = _read_request(line)
            verb = self._verbs.get(str(request.get("verb")))
            if verb is None:
                raise InvalidInput(f"answer {request.get('verb')!r}", "this agent does not know it", "upgrade it")
            async with asyncio.timeout(ANSWER_S):
                return {"ok": True, "result": await verb(request)}
        except HsuError as error:
            faults = [str(fault) for fault in error.faults]
            return {"ok": False, "code": error.code, "text": error.sentence, "faults": faults}
        except TimeoutError:
            return {"ok": False, "code": "timeout", "text": f"no answer within {ANSWER_S:g} s", "faults": []}
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.exception("a request on the control socket failed")
            return {"ok": False, "code": "internal", "text": f"cannot answer: {error}", "faults": []}

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _check_peer(connection: Any) -> None:
    """Raise Forbidden unless the other side is our own user or root."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid not in (0, os.geteuid()):
        raise Forbidden("use the control socket", f"user {uid} is neither the agent's nor root", "")


def _read_request(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise InvalidInput("read the request", str(error)) from error
    if not isinstance(request, dict):
        raise InvalidInput("read the request", "it is not a map")
    return request


Groups = Callable[[InstanceId], Iterable[str]]
"""Tells the groups of an instance."""


def matching(
    names: Iterable[str], instances: Iterable[InstanceId], groups: Groups = lambda instance: ()
) -> tuple[InstanceId, ...]:
    """Return the instances that names mean: `web`, `web.1`, `shop/web`, `@group`, `shop/@group`; no name: all of them.

    Raises NotFound for a name that means nothing.
    """
    known = tuple(instances)
    wanted = tuple(names)
    found: set[InstanceId] = set() if wanted else set(known)
    for name in wanted:
        is_group = name.rpartition("/")[2].startswith("@")
        means = [each for each in known if name in (_groups_of(each, groups) if is_group else _names_of(each))]
        if not means:
            have = ", ".join(sorted({each.worker for each in known})) or "no workers"
            raise NotFound(f"find {name[:80]!r}", f"this agent has {have[:300]}", "", code="not-found.worker")
        found.update(means)
    return tuple(sorted(found))


def _groups_of(instance: InstanceId, groups: Groups) -> list[str]:
    return [text for group in groups(instance) for text in (f"@{group}", f"{instance.app}/@{group}")]


def _names_of(instance: InstanceId) -> tuple[str, ...]:
    own = (instance.worker, f"{instance.worker}.{instance.slot}")
    return (*own, *(f"{instance.app}/{name}" for name in own))
