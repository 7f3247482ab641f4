"""Whether the ports given to an instance are free on this host: the cluster knows only of its own."""

from __future__ import annotations

import contextlib
import errno
import socket

from hsu_core.model.assignment import Ports


def busy_ports(ports: Ports) -> tuple[int, ...]:
    """Return the numbers on which some program listens (TCP, any address), in the order given.

    A bind to every address fails if anybody listens on any; SO_REUSEADDR leaves aside connections that linger.
    """
    return tuple(number for _, number in ports if _is_busy(number))


def _is_busy(number: int) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
