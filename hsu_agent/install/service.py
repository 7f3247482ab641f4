"""What is installed: which agent, as whom, by whose service manager. Values alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Manager(StrEnum):
    """Who runs the agent."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"


@dataclass(frozen=True, slots=True)
class Service:
    """One agent as a service of a host.

    `program` is how `hsu-agent` is called, as words. `config` is the file of an agent in a cluster, `local` the files
    of one without; one of the two is given. `user` empty: root, or whoever the unit belongs to (`is_users_own`).
    `is_watching`: local files are read again when they change.
    """

    program: tuple[str, ...]
    data_dir: Path
    config: Path | None = None
    local: tuple[Path, ...] = ()
    user: str = ""
    is_users_own: bool = False
    is_watching: bool = False

    @property
    def name(self) -> str:
        """Return the name of the service: an agent of a cluster may run beside one without."""
        return "hsu-agent" if self.config is not None else "hsu-agent-local"

    @property
    def command(self) -> tuple[str, ...]:
        """Return the words that start the agent."""
        if self.config is not None:
            return (*self.program, "run", "--config", str(self.config))
        files = [word for path in self.local for word in ("--local", str(path))]
        watch = ("--watch",) if self.is_watching else ()
        return (*self.program, "run", *files, *watch, "--data-dir", str(self.data_dir))

    @property
    def description(self) -> str:
        """Return what the service is for, in one line."""
        what = "runs the workers assigned to this host" if self.config is not None else "runs the workers of its files"
        return f"HSU Cluster agent: {what}"
