"""The socket of a service manager, in the place of systemd: real datagrams, with who sent them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Message:
    """One datagram: who sent it, and its lines."""

    pid: int
    lines: tuple[str, ...]


class ServiceManagerSocket:
    """Hears what is sent to `address` (the value of NOTIFY_SOCKET)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def take(self, wait_s: float) -> bool:
        """Take in the next message; return whether one came within this time."""
        self._socket.settimeout(wait_s)
        try:
            payload, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except (TimeoutError, BlockingIOError):
            return False
        pid = next(_CREDENTIALS.unpack(content)[0] for _, kind, content in ancillary if kind == socket.SCM_CREDENTIALS)
        self.heard.append(Message(pid, tuple(payload.decode().split("\n"))))
        return True

    def until(self, look: Callable[[Message], bool], *, after: int = 0, within_s: float = 30.0) -> Message:
        """Return the first message from number `after` on that `look` is true of."""
        deadline_s = time.monotonic() + within_s * PATIENCE
        while True:
            for message in self.heard[after:]:
                if look(message):
                    return message
            after = len(self.heard)
            assert time.monotonic() < deadline_s, f"not heard within {within_s:g} s; heard: {self.heard}"
            self.take(0.2)

    def says(self, line: str, *, after: int = 0) -> Message:
        """Return the first message from number `after` on that has a line."""
        return self.until(lambda message: line in message.lines, after=after)

    def silence(self, of_s: float) -> list[Message]:
        """Return what is heard within `of_s` (everything that came before is taken in and left out)."""
        while self.take(0.0):
            pass
        before, deadline_s = len(self.heard), time.monotonic() + of_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self.take(left_s)
        return self.heard[before:]


@contextmanager
def service_manager(address: Path | str) -> Iterator[ServiceManagerSocket]:
    """Yield a socket at this path or abstract name (@...)."""
    found = ServiceManagerSocket(str(address))
    try:
        yield found
    finally:
        found.close()
