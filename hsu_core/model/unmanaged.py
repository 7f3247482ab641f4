"""Processes that somebody else starts: how they are found, and what may be done to them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_INTERVAL_S = 5.0
"""Between two looks; HSU has 30 s and never looks again."""


class Discovery(StrEnum):
    """How the process is found; the words are HSU's."""

    PID_FILE = "pid-file"
    PROCESS_NAME = "process-name"
    PORT = "port"
    SERVICE_NAME = "service-name"


@dataclass(frozen=True, slots=True)
class UnmanagedSpec:
    """Where to find a process and what is allowed. By default it is only looked at.

    `process_args` are arguments that all stand in its command line. `interval_s`: between two looks while it is not
    there. `allowed_signals` None: any, as far as `can_terminate` and `can_restart` allow an end.
    """

    method: Discovery
    pid_file: str = ""
    process_name: str = ""
    process_args: tuple[str, ...] = ()
    port: int = 0
    protocol: str = "tcp"
    service_name: str = ""
    interval_s: float = DEFAULT_INTERVAL_S
    can_terminate: bool = False
    can_restart: bool = False
    allowed_signals: tuple[str, ...] | None = None

    def may_send(self, signal: str) -> bool:
        """Return whether a signal may be sent when something else than an end is wanted, or an end is allowed."""
        return self.allowed_signals is None or signal in self.allowed_signals

    @property
    def described(self) -> str:
        """Return by what it is found, for people."""
        if self.method is Discovery.PID_FILE:
            return f"pid file {self.pid_file}"
        if self.method is Discovery.PORT:
            return f"{self.protocol} port {self.port}"
        if self.method is Discovery.SERVICE_NAME:
            return f"service {self.service_name}"
        return " ".join(("process name", self.process_name, *self.process_args))
