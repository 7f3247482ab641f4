"""HAProxy as a provider: servers and weights change over its runtime API, without a reload.

Each instance is a server `hsu.NAMESPACE.APP.ROUTE.WORKER.SLOT` of the backend. Names hold no dot, so a server with
this beginning is ours and of this route; every other one is left alone. What is there is read first and only the
differences are sent, so a new leader adopts it, and a HAProxy that was restarted (and forgot) is filled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from hsu_cluster.leader.traffic.router import TrafficError
from hsu_cluster.planning.traffic import NEW_GROUP_NAMES, Server, WantedRoute, servers
from hsu_cluster.planning.weights import EVEN_WEIGHT
from hsu_core.model.ids import InstanceId
from hsu_core.model.routes import HaproxyProvider

COMMAND_TIMEOUT_S = 3.0
"""A command takes a millisecond; a HAProxy that needs seconds is not well."""

APPLY_TIMEOUT_S = 20.0
"""Longest time for one HAProxy and one change: some thousand commands."""

VERIFY_S = 2.0
"""A HAProxy that was restarted is empty for no longer than this."""

ANSWER_LIMIT_BYTES = 8 * 1024 * 1024
"""The state of some ten thousand servers."""

MAINTENANCE, DRAINING = 0x01, 0x08
"""Bits of `srv_admin_state`: forced by a command."""

GOOD_ANSWERS = (
    "New server registered",
    "Server deleted",
    "IP changed",
    "port changed",
    "no need to change",
    "nothing changed",
)
"""How answers begin that are no error; the other good answer is an empty one."""


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server as HAProxy has it."""

    host: str
    port: int
    admin_state: int
    weight: int


class UnknownHost(TrafficError):
    """The address of one node cannot be found; the other servers are not kept waiting for that."""


class HaproxyRouter:
    """One route on one or several HAProxy processes; all of them have to confirm."""

    verify_s: float | None = VERIFY_S

    def __init__(self, provider: HaproxyProvider) -> None:
        self._provider = provider

    async def apply(self, wish: WantedRoute, cut: frozenset[InstanceId]) -> frozenset[InstanceId] | None:
        """Bring every HAProxy to the wish; one that fails does not keep the others from it."""
        busy: set[InstanceId] = set()
        failed: list[TrafficError] = []

        async def one(address: str) -> None:
            try:
                async with asyncio.timeout(APPLY_TIMEOUT_S):
                    busy.update(await self._apply(address, wish, cut))
            except TrafficError as error:
                failed.append(error)
            except TimeoutError:
                failed.append(_silent(address, APPLY_TIMEOUT_S))
            except (ValueError, KeyError) as error:
                fix = "is it HAProxy 2.4 or newer?"
                failed.append(TrafficError(f"read what HAProxy at {address} answers", str(error)[:200], fix))

        async with asyncio.TaskGroup() as group:
            for address in self._provider.addresses:
                group.create_task(one(address), name=f"haproxy {address}")
        if failed:
            raise min(failed, key=str)
        return frozenset(busy)

    async def _apply(self, address: str, wish: WantedRoute, cut: frozenset[InstanceId]) -> set[InstanceId]:
        wanted = servers(wish.endpoints, wish.weights)
        busy = await _Backend(address, self._provider.backend, wish).apply(wanted, cut)
        if self._provider.preview_backend:
            new = [Server(one.endpoint, EVEN_WEIGHT) for one in wanted if one.endpoint.group in NEW_GROUP_NAMES]
            busy |= await _Backend(address, self._provider.preview_backend, wish).apply(tuple(new), cut)
        return busy


class _Backend:
    """One backend of one HAProxy, for one route."""

    def __init__(self, address: str, backend: str, wish: WantedRoute) -> None:
        self._address = address
        self._backend = backend
        self._app = wish.app
        self._prefix = f"hsu.{wish.app.namespace}.{wish.app.app}.{wish.spec.name}."

    async def apply(self, wanted: tuple[Server, ...], cut: frozenset[InstanceId]) -> set[InstanceId]:
        """Register, then weigh (more first, so that the sum is never 0), then deregister; return who is busy."""
        present = await self._present()
        desired = {self._name(server.endpoint.instance): server for server in wanted}
        unknown: UnknownHost | None = None
        for name, server in desired.items():
            try:
                await self._register(name, server, present.get(name))
            except UnknownHost as error:
                unknown = error
        changes = [
            (server.weight < present[name].weight, name, server.weight)
            for name, server in desired.items()
            if name in present and present[name].weight != server.weight
        ]
        for _, name, weight in sorted(changes):
            await self._send(f"set weight {self._backend}/{name} {weight}")
        leaving = {name: row for name, row in present.items() if name not in desired}
        busy = await self._deregister(leaving, cut) if leaving else set()
        if unknown is not None:
            raise unknown
        return busy

    def _name(self, instance: InstanceId) -> str:
        return f"{self._prefix}{instance.worker}.{instance.slot}"

    def _instance(self, name: str) -> InstanceId:
        worker, _, slot = name.removeprefix(self._prefix).rpartition(".")
        return InstanceId(self._app.namespace, self._app.app, worker, int(slot) if slot.isdecimal() else -1)

    async def _present(self) -> Mapping[str, ServerRow]:
        """Return our servers in the backend."""
        lines = (await self._ask(f"show servers state {self._backend}")).splitlines()
        titles = next((line[1:].split() for line in lines if line.startswith("#")), None)
        if titles is None:
            raise self._error(f"show servers state {self._backend}", "\n".join(lines))
        rows = [dict(zip(titles, line.split(), strict=False)) for line in lines if line[:1].isdigit() and " " in line]
        return {
            row["srv_name"]: ServerRow(
                row["srv_addr"], int(row["srv_port"]), int(row["srv_admin_state"]), int(row["srv_uweight"])
            )
            for row in rows
            if row["srv_name"].startswith(self._prefix)
        }

    async def _register(self, name: str, server: Server, row: ServerRow | None) -> None:
        target = f"{self._backend}/{name}"
        host = await _resolved(server.endpoint.host)
        port = server.endpoint.port
        if row is None:
            shown = f"[{host}]" if ":" in host else host
            await self._send(f"add server {target} {shown}:{port} weight {server.weight}")
            await self._send(f"set server {target} state ready")
            return
        if (row.host, row.port) != (host, port):
            await self._send(f"set server {target} state maint")
            await self._send(f"set server {target} addr {host} port {port}")
            await self._send(f"set server {target} state ready")
        elif row.admin_state & (MAINTENANCE | DRAINING):
            await self._send(f"set server {target} state ready")

    async def _deregister(self, leaving: Mapping[str, ServerRow], cut: frozenset[InstanceId]) -> set[InstanceId]:
        for name, row in leaving.items():
            if not row.admin_state & (MAINTENANCE | DRAINING):
                await self._send(f"set server {self._backend}/{name} state drain")
        sessions = await self._sessions()
        busy: set[InstanceId] = set()
        for name, row in leaving.items():
            instance = self._instance(name)
            is_idle = not sessions.get(name, 0)
            if (is_idle or instance in cut) and not row.admin_state & MAINTENANCE:
                await self._send(f"set server {self._backend}/{name} state maint")
            is_gone = is_idle and await self._delete(name)
            if not is_gone and instance not in cut:
                busy.add(instance)
        return busy

    async def _delete(self, name: str) -> bool:
        """Delete a server in maintenance; return whether it is gone.

        HAProxy stops all its threads for this and looks again, so it sees a request that came just before the drain and
        was not counted yet.
        """
        answer = await self._ask(f"del server {self._backend}/{name}")
        if answer.startswith("Server still has connections"):
            return False
        if not answer.startswith((*GOOD_ANSWERS, "No such server")):
            raise self._error("del server", answer)
        return True

    async def _sessions(self) -> Mapping[str, int]:
        """Return the number of requests at and before each server."""
        text = await self._ask(f"show stat {self._backend} 4 -1")
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows if row.get("scur")}

    async def _send(self, command: str) -> None:
        answer = await self._ask(command)
        if answer and not answer.startswith(GOOD_ANSWERS):
            raise self._error(command, answer)

    async def _ask(self, command: str) -> str:
        """Return the answer to one command, over a connection of its own."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return (await _answer(self._address, command)).strip()
        except TimeoutError:
            raise _silent(self._address, COMMAND_TIMEOUT_S) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TrafficError(
                f"reach HAProxy at {self._address}",
                why,
                "is it running, and does its file have `stats socket` with this address and `level admin`?",
            ) from error

    def _error(self, command: str, answer: str) -> TrafficError:
        words = " ".join(answer.split())[:200] or "no answer"
        fix = "see docs/traffic.md for what HAProxy's file needs"
        if "ermission denied" in answer:
            fix = "give its `stats socket` the `level admin`"
        elif "find backend" in answer or "No such backend" in answer:
            fix = f"add `backend {self._backend}` to HAProxy's file, or mend `backend` of the route"
        elif "LB algo" in answer or "load balancing" in answer:
            fix = f"give backend {self._backend} `balance roundrobin` or `balance leastconn`"
        words_of_command = " ".join(command.split()[:2])
        return TrafficError(f"{words_of_command} at HAProxy {self._address}", words, fix)


def _silent(address: str, timeout_s: float) -> TrafficError:
    return TrafficError(
        f"change HAProxy at {address}", f"it did not answer within {timeout_s:g} s", "is it overloaded or stopped?"
    )


async def _answer(address: str, command: str) -> str:
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"{command}\n".encode())
        await writer.drain()
        found = bytearray()
        while part := await reader.read(65536):
            found += part
            if len(found) > ANSWER_LIMIT_BYTES:
                raise ValueError(f"its answer has more than {ANSWER_LIMIT_BYTES} bytes")
        return found.decode("utf-8", "replace")
    finally:
        writer.close()


async def _resolved(host: str) -> str:
    """Return the address of a host: servers that are added at run time take no names. Raises UnknownHost."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).compressed
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
        why = getattr(error, "strerror", None) or str(error) or "no answer in time"
        fix = "set `address` in the settings of that node's agent to an IP address"
        raise UnknownHost(f"find the address of {host}", why, fix) from error
    return str(found[0][4][0])
