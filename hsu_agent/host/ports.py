"""Whether the ports given to an instance are free on this host: the cluster knows only of its own."""

from __future__ import annotations

import contextlib
import errno
import socket

from hsu_core.model.assignment import Ports
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId


class PortBusy(ProcessError):
    """Another program listens on ports of the instance; `numbers` says which."""

    code = "process.port-busy"
    numbers: tuple[int, ...] = ()


def refuse_busy_ports(instance: InstanceId, ports: Ports) -> None:
    """Raise PortBusy if some program listens on one of the ports (TCP, any address)."""
    numbers = tuple(number for _, number in ports if is_busy(number))
    if numbers:
        error = PortBusy(
            f"start {instance}",
            f"port {', '.join(map(str, numbers))} of this host is in use by another program",
            "it starts when the port is free, and a dynamic port is replaced",
        )
        error.numbers = numbers
        raise error


def busy_numbers(error: Exception) -> tuple[int, ...]:
    """Return the ports that an error is about, none for any other error."""
    return error.numbers if isinstance(error, PortBusy) else ()


def is_busy(number: int) -> bool:
    """Return whether a bind to every address fails: it does if anybody listens on any of them.

    SO_REUSEADDR leaves aside connections that linger after their server has gone.
    """
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
