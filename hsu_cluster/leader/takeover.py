"""Takes over from a leader whose process has gone while its host lives, without waiting for its lease to end.

A standby holds one idle connection to the leader's advertised address. When the process dies its kernel
closes the connection, and refuses new ones: nobody listens. Two refusals in a row, and the standby deposes
the leadership (`hsu_core.store.campaign.depose`) and campaigns as ever. Silence, a time-out and "unreachable"
prove nothing: then the lease has to end. A wrong guess is harmless (every write of a leader is fenced), but
it must not be repeated, so a master deposes only

- a leader that it has reached before, in the same term: a wrong port or a firewall refuses from the start;
- while others reach this master itself at the address that it advertises: it must be able to lead;
- no process a second time: one that leads again after it was deposed is alive, whatever its port says.

So n masters depose each other wrongly at most n x (n - 1) times in the lives of their processes
(docs/decisions/0010). This module does not campaign and does not know who leads by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from yarl import URL

from hsu_core.model.errors import StoreError
from hsu_core.model.records import MasterAdvert

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 0.5
"""A refusal comes within a round trip; what takes longer than this is none."""

REFUSALS = 2
"""Refused connections in a row that make a leader's process count as gone."""

REFUSAL_PAUSE_S = 0.1
"""Between the two: a process that is just being started again binds its port within this time, or not soon."""

RETRY_S = 1.0
"""Between connections to an address that was not reached: nothing can be concluded, so nothing hurries."""

SHORT_HOLD_S = 0.2
"""A connection that broke sooner is followed by a pause: a proxy may accept and close at once."""

Address = tuple[str, int]


class Contact(Enum):
    """How a connection ended. BROKEN: it was made, and closed by the other side."""

    BROKEN = "broken"
    REFUSED = "refused"
    SILENT = "silent"


class Ports(Protocol):
    """Connections to masters, as the simulation replaces them."""

    async def contact(self, address: Address) -> Contact:
        """Connect and hold the connection until the other side ends it; say nothing on it."""
        ...

    async def is_reached(self, address: Address) -> bool:
        """Return whether a connection is accepted there."""
        ...


@dataclass(slots=True)
class Grounds:
    """What speaks for the death of one leader, in one term. Pure; `note` each contact in order."""

    has_answered: bool = False
    refusals: int = 0

    def note(self, contact: Contact) -> None:
        """Take one contact into account."""
        self.has_answered = self.has_answered or contact is Contact.BROKEN
        self.refusals = self.refusals + 1 if contact is Contact.REFUSED else 0

    @property
    def are_sufficient(self) -> bool:
        """Return whether the leader's process counts as gone."""
        return self.has_answered and self.refusals >= REFUSALS

    def pause_s(self, lasted_s: float) -> float:
        """Return how long to wait before the next connection; the last one lasted `lasted_s`."""
        if self.refusals:
            return REFUSAL_PAUSE_S if self.has_answered else RETRY_S
        return 0.0 if lasted_s >= SHORT_HOLD_S and self.has_answered else SHORT_HOLD_S


class Takeover:
    """Watches one leader after the other; `depose` ends the leadership of a term, if it is still the present one."""

    def __init__(
        self,
        advert: MasterAdvert,
        depose: Callable[[MasterAdvert, int], Awaitable[bool]],
        monotonic: Callable[[], float],
        ports: Ports,
    ) -> None:
        self._advert = advert
        self._depose = depose
        self._monotonic = monotonic
        self._ports = ports
        self._seen: tuple[MasterAdvert, int] | None = None
        self._has_seen_any = False
        self._changed = asyncio.Event()
        self._deposed: set[tuple[str, float]] = set()

    def see(self, leader: MasterAdvert | None, term: int) -> None:
        """Take in who leads, in which term."""
        self._seen = None if leader is None else (leader, term)
        self._changed.set()

    async def run(self) -> None:
        """Watch whoever leads, until cancelled."""
        while True:
            self._changed.clear()
            seen = self._seen
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(*seen), name="watch-leader-port") if seen else None
                await self._changed.wait()
                if watch is not None:
                    watch.cancel()

    async def _watch(self, leader: MasterAdvert, term: int) -> None:
        is_first, self._has_seen_any = not self._has_seen_any, True
        if (leader.name, leader.url) == (self._advert.name, self._advert.url):
            if leader.since == self._advert.since:
                return
            # Our own earlier process: we listen where it did. Only at the start, or two masters that were given
            # one name and address by mistake would take turns for ever.
            if is_first:
                await self._take(leader, term, "it is an earlier process of this master")
            return
        if (leader.name, leader.since) in self._deposed:
            log.warning("%s leads again after it was deposed: it lives, and its port proves nothing", leader.name)
            return
        address = address_of(leader.url)
        grounds = Grounds()
        while not grounds.are_sufficient:
            started_s = self._monotonic()
            grounds.note(await self._ports.contact(address))
            if not grounds.are_sufficient:
                await asyncio.sleep(grounds.pause_s(self._monotonic() - started_s))
        if not await self._ports.is_reached(address_of(self._advert.url)):
            log.warning("%s refuses connections; not deposed, as %s is not reached either", leader, self._advert.url)
            return
        await self._take(leader, term, f"{leader.url} refuses connections")

    async def _take(self, leader: MasterAdvert, term: int, why: str) -> None:
        log.warning("deposing leader %s of term %d: %s", leader.name, term, why, extra={"term": term})
        self._deposed.add((leader.name, leader.since))
        try:
            if not await self._depose(leader, term):
                log.info("term %d had ended already", term)
        except StoreError as error:
            log.warning("leader %s not deposed, its lease has to end: %s", leader.name, error)


def address_of(url: str) -> Address:
    """Return host and port of a URL."""
    parsed = URL(url)
    return parsed.host or "", parsed.port or 0


class TcpPorts:
    """Real connections."""

    async def contact(self, address: Address) -> Contact:
        """Connect and hold the connection until the other side ends it; say nothing on it."""
        try:
            reader, writer = await _connect(address)
        except ConnectionRefusedError:
            return Contact.REFUSED
        except (OSError, TimeoutError):
            return Contact.SILENT
        try:
            await reader.read(1)  # nothing comes: the other side waits for us to speak, and closes after some seconds
        except OSError:
            pass
        finally:
            writer.close()
        return Contact.BROKEN

    async def is_reached(self, address: Address) -> bool:
        """Return whether a connection is accepted there."""
        try:
            _, writer = await _connect(address)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


TCP = TcpPorts()


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect. Raises ConnectionRefusedError only if every address of the host refuses, else OSError, TimeoutError."""
    failure: OSError = OSError(f"{address[0]} has no address")
    is_refused_by_all = True
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(*address, type=socket.SOCK_STREAM)
        for family, _, _, _, place in found:
            try:
                return await asyncio.open_connection(str(place[0]), int(place[1]), family=family)
            except OSError as error:
                is_refused_by_all = is_refused_by_all and isinstance(error, ConnectionRefusedError)
                failure = error
    raise failure if is_refused_by_all else OSError(str(failure))
