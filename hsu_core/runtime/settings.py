"""Frozen settings of the two programs, already checked; read once at start and handed down.

The text form and its checks live in `hsu_core.wire.settings`. Nothing else reads the environment or
a configuration file. All durations are seconds, sizes bytes, processor shares milli-cores.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from hsu_core.model.node import DEFAULT_TIMES, NodeTimes
from hsu_core.model.rebalance import DEFAULT_RULES, RebalanceRules

DEFAULT_MASTER_PORT = 7070


@dataclass(frozen=True, slots=True)
class HostDefaults:
    """What defaults depend on: the host's name, the user's home folder, whether the user is root."""

    hostname: str
    home: Path
    is_root: bool

    @classmethod
    def detect(cls) -> HostDefaults:
        """Return the values of this process and host."""
        return cls(socket.gethostname(), Path.home(), hasattr(os, "geteuid") and os.geteuid() == 0)

    def data_dir(self, program: str) -> Path:
        """Return where `program` keeps its data: `/var/lib/PROGRAM` for root, else below the home folder."""
        return Path("/var/lib") / program if self.is_root else self.home / ".local" / "share" / program


@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP address to listen on; `port` 0 lets the system pick one; `host` empty: every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A server's certificate chain and private key, PEM."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class SqliteStoreSettings:
    """One file on one machine: the embedded default."""

    path: Path


@dataclass(frozen=True, slots=True)
class EtcdStoreSettings:
    """An etcd cluster, through its JSON gateway. `endpoints` are URLs."""

    endpoints: tuple[str, ...]
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """Settings of `hsu-cluster master`.

    `nodes` is how long nodes may be silent (the ttl is at least three beats: one lost frame and one late one are no
    failure), `leader_ttl_s` the lease of the leader key.
    `allow_exec_analysis`: programs that an app's analyses name are run here, with the rights of this master.
    `allow_templates`: whether a manifest's route may write a file and run a program on the leading master.
    """

    name: str
    listen: Listen
    advertise: str
    data_dir: Path
    store: SqliteStoreSettings | EtcdStoreSettings
    admin_token_file: Path
    node_token_file: Path
    tls: TlsFiles | None = None
    nodes: NodeTimes = DEFAULT_TIMES
    leader_ttl_s: float = 5.0
    log_format: str = "text"
    log_level: str = "info"
    allow_exec_analysis: bool = False
    allow_templates: bool = False
    rebalance: RebalanceRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports to give to workers, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of `hsu-agent run`.

    A capacity of None is measured on the host; `reserved_*` is kept back from it. `address` is where
    other hosts reach the workers of this node.
    """

    node: str
    masters: tuple[str, ...]
    data_dir: Path
    token_file: Path
    address: str
    ca_file: Path | None = None
    labels: tuple[tuple[str, str], ...] = ()
    capacity_cpu_milli: int | None = None
    capacity_memory_bytes: int | None = None
    ports: PortRange = PortRange(20000, 29999)
    reserved_cpu_milli: int = 0
    reserved_memory_bytes: int = 0
    metrics_listen: Listen | None = None
    kill_workers_on_stop: bool = False
    log_format: str = "text"
    log_level: str = "info"
