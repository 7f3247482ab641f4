"""What a probe looks at: one dataclass per kind of check. Pure; carried out in `hsu_agent.probes`.

`port` is the name of a port of the worker, or a number.
"""

from __future__ import annotations

from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """Passes when a connection opens. `host` defaults to loopback."""

    port: str | int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """Passes on a status 200..399, no redirect to another host. Either a port (+path) on loopback, or a full `url`."""

    port: str | int = ""
    path: str = "/"
    method: str = "GET"
    headers: Pairs = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """Passes when the command ends with 0; run without a shell."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProcessCheck:
    """Passes while the worker's first process is alive."""


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """Passes when grpc.health.v1 says SERVING for `service` (empty: the server as a whole).

    With `method` (`package.Service/Method`) that method is called with an empty message instead, and its status OK
    passes; this is for HSU's CoreService/Ping. Without TLS.
    """

    port: str | int
    host: str = "127.0.0.1"
    service: str = ""
    method: str = ""
    headers: Pairs = ()


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Passes while the file is there and was written in the last `max_age_s` seconds (0: at any time).

    A relative path starts at the app's base directory, else at the folder of the instance.
    """

    path: str
    max_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NotifyCheck:
    """Passes after the worker has said READY=1 (sd_notify); as liveness: while it says WATCHDOG=1 in every period."""


SingleCheck = TcpCheck | HttpCheck | ExecCheck | ProcessCheck | GrpcCheck | FileCheck


@dataclass(frozen=True, slots=True)
class AllCheck:
    """Passes when each of its checks does."""

    checks: tuple[SingleCheck, ...]


@dataclass(frozen=True, slots=True)
class AnyCheck:
    """Passes when one of its checks does."""

    checks: tuple[SingleCheck, ...]


Check = TcpCheck | HttpCheck | ExecCheck | ProcessCheck | GrpcCheck | FileCheck | NotifyCheck | AllCheck | AnyCheck


def parts(check: Check) -> tuple[SingleCheck | NotifyCheck, ...]:
    """Return the checks that a check is made of: those of `all` and `any`, else itself."""
    return check.checks if isinstance(check, AllCheck | AnyCheck) else (check,)
