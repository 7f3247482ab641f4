"""A template and a reload command as a provider: nginx, Envoy, and whatever else reads a file.

The template is copied line by line. A line with `{host}`, `{port}`, `{address}`, `{weight}`, `{instance}`, `{name}` or
`{group}` stands for one line per endpoint; `{only:preview}` in it chooses the endpoints of one group, and without it
those that have no traffic are left out. A line with `{none}` is there while there are no endpoints. Every other brace
is left as it is, so files full of braces need no quoting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from hsu_cluster.leader.traffic.router import TrafficError
from hsu_cluster.planning.traffic import Server, WantedRoute, servers
from hsu_core.model.ids import InstanceId
from hsu_core.model.routes import TemplateProvider
from hsu_core.runtime.files import write_atomically

COMMAND_TIMEOUT_S = 30.0
"""Longest time for a reload; nginx and Envoy need a second at most."""

TOLD_LIMIT = 300
"""Characters of the command's output that are told when it fails."""

_EACH = re.compile(r"\{(host|port|address|weight|instance|name|group)\}")
_ONLY = re.compile(r"\{only:([a-z]+)\}")
_NONE = "{none}"


def render(template: str, wanted: Sequence[Server]) -> str:
    """Return the file that a template makes of the servers, in their order."""
    with_traffic = [server for server in wanted if server.weight]
    lines: list[str] = []
    for line in template.splitlines(keepends=True):
        if _NONE in line:
            lines += [] if with_traffic else [line.replace(_NONE, "")]
            continue
        only = _ONLY.search(line)
        if only is None and _EACH.search(line) is None:
            lines.append(line)
            continue
        chosen = with_traffic if only is None else [one for one in wanted if one.endpoint.group == only.group(1)]
        lines += [_filled(_ONLY.sub("", line), server) for server in chosen]
    return "".join(lines)


def _filled(line: str, server: Server) -> str:
    endpoint = server.endpoint
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    words = {
        "host": endpoint.host,
        "port": str(endpoint.port),
        "address": f"{host}:{endpoint.port}",
        "weight": str(server.weight),
        "instance": str(endpoint.instance),
        "name": f"{endpoint.instance.worker}-{endpoint.instance.slot}",
        "group": endpoint.group,
    }
    return _EACH.sub(lambda match: words[match.group(1)], line)


class TemplateRouter:
    """One route written to one file of this master's host."""

    verify_s: float | None = None

    def __init__(self, provider: TemplateProvider, *, is_allowed: bool) -> None:
        self._provider = provider
        self._is_allowed = is_allowed
        self._is_in_effect = False

    async def apply(self, wish: WantedRoute, cut: frozenset[InstanceId]) -> frozenset[InstanceId] | None:
        """Write the file if it differs, and run the command if it was written or has not succeeded yet."""
        path = Path(self._provider.path)
        if not self._is_allowed:
            raise TrafficError(
                f"write {path}",
                "a manifest may not write files and run programs on this master",
                "set `allow_templates: true` in the masters' settings, if all who may deploy are trusted with that",
            )
        text = render(self._provider.template, servers(wish.endpoints, wish.weights)).encode()
        try:
            is_changed = await asyncio.to_thread(_write, path, text)
        except OSError as error:
            why = error.strerror or str(error)
            raise TrafficError(f"write {path}", why, "make its folder writable for the master's user") from error
        if is_changed or not self._is_in_effect:
            self._is_in_effect = False
            await self._reload()
            self._is_in_effect = True
        return None

    async def _reload(self) -> None:
        command = self._provider.command
        if not command:
            return
        name = command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TrafficError(f"run {name}", why, "write the path of a program on the masters") from error
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            fix = "let the command return while the server runs on"
            raise TrafficError(f"run {name}", f"it did not end within {COMMAND_TIMEOUT_S:g} s", fix) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            told = " ".join(output.decode("utf-8", "replace").split())[-TOLD_LIMIT:]
            why = f"it ended with {process.returncode}" + (f": {told}" if told else "")
            raise TrafficError(f"run {name}", why, f"run it by hand on the master; the file is {self._provider.path}")


def _write(path: Path, text: bytes) -> bool:
    """Write the file if it says something else; return whether it did."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text:
            return False
    write_atomically(path, text, mode=0o644)
    return True
