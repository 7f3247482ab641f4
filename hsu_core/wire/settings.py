"""The settings files of master and agent: text in, frozen settings of `hsu_core.runtime.settings` out.

Every fault of a file is reported at once. An empty text gives the defaults.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from hsu_core.model import fencing
from hsu_core.model.errors import InvalidManifest, InvalidSettings
from hsu_core.model.node import DEFAULT_TIMES, NodeTimes
from hsu_core.model.rebalance import DEFAULT_RULES, RebalanceRules
from hsu_core.runtime.settings import (
    DEFAULT_MASTER_PORT,
    AgentSettings,
    EtcdStoreSettings,
    HostDefaults,
    Listen,
    MasterSettings,
    PortRange,
    SqliteStoreSettings,
    TlsFiles,
)
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import (
    Boolean,
    Cpu,
    Duration,
    NodeName,
    Size,
    Strict,
    Text,
    choice,
    shown,
    whole_number,
    wrong,
)
from hsu_core.wire.tree import Document
from hsu_core.wire.yaml_text import load_document

LEADER_TTL_LEAST_S = 2.0
"""etcd grants no shorter lease: 1.5 times its election timeout of 1 s, rounded up."""

BEATS_PER_SUSPICION = 1.5
"""A node is suspect, and an agent gives a silent master up, once a beat is late by half a beat at the earliest."""


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine only: localhost, 127.0.0.0/8 or ::1."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_listen(value: Any) -> Listen:
    """Return the address of `HOST:PORT`, `:PORT` (every interface) or `[::1]:PORT`."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise wrong(f"{shown(value)} is not an address to listen on", "write HOST:PORT, for example 127.0.0.1:7070")
    return Listen(host, int(port))


def _parse_url(value: Any) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        is_good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        is_good = is_good and parts is not None and (parts.port is None or parts.port > 0) and not parts.username
    except ValueError:
        is_good = False
    if not is_good:
        raise wrong(f"{shown(value)} is not a URL of a server", "write for example https://master-1:7070")
    return str(value).rstrip("/")


def _parse_port_range(value: Any) -> PortRange:
    low, dash, high = value.partition("-") if isinstance(value, str) else ("", "", "")
    numbers = [int(part) for part in (low.strip(), high.strip()) if part.isascii() and part.isdigit() and len(part) < 6]
    if not dash or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= 65535:
        raise wrong(f"{shown(value)} is not a range of ports", 'write for example "20000-29999"')
    return PortRange(numbers[0], numbers[1])


_Url = Annotated[str, BeforeValidator(_parse_url)]
_Listen = Annotated[Listen, BeforeValidator(parse_listen)]
_LogFormat = Annotated[str, choice("text", "json")]
_LogLevel = Annotated[str, choice("debug", "info", "warning", "error")]


class _Sqlite(Strict):
    path: Text | None = None


class _Etcd(Strict):
    endpoints: list[_Url] | None = None
    username: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None


class _Store(Strict):
    sqlite: _Sqlite | None = None
    etcd: _Etcd | None = None


class _Tls(Strict):
    cert_file: Text
    key_file: Text


class _Analysis(Strict):
    allow_exec: Boolean = False


class _Nodes(Strict):
    beat: Duration | None = None
    suspect: Duration | None = None
    ttl: Duration | None = None
    cooldown: Duration | None = None


class _Rebalance(Strict):
    automatic: Boolean = False
    max_moves: Annotated[int, whole_number(1, 100)] = DEFAULT_RULES.max_moves
    interval: Duration = DEFAULT_RULES.interval_s


class _Master(Strict):
    name: NodeName | None = None
    listen: _Listen = Listen("127.0.0.1", DEFAULT_MASTER_PORT)
    advertise: _Url | None = None
    data_dir: Text | None = None
    store: _Store | None = None
    tls: _Tls | None = None
    admin_token_file: Text | None = None
    node_token_file: Text | None = None
    nodes: _Nodes | None = None
    node_ttl: Duration | None = None
    node_beat: Duration | None = None
    leader_ttl: Duration = 5.0
    rebalance: _Rebalance | None = None
    allow_templates: Boolean = False
    log_format: _LogFormat = "text"
    log_level: _LogLevel = "info"
    analysis: _Analysis | None = None


class _Capacity(Strict):
    cpu: Cpu | None = None
    memory: Size | None = None
    ports: Annotated[PortRange, BeforeValidator(_parse_port_range)] = PortRange(20000, 29999)


class _Reserved(Strict):
    cpu: Cpu = 0
    memory: Size = 0


class _Agent(Strict):
    node: NodeName | None = None
    masters: list[_Url] | None = None
    data_dir: Text | None = None
    token_file: Text | None = None
    ca_file: Text | None = None
    address: Text | None = None
    labels: dict[Text, Text] | None = None
    capacity: _Capacity = _Capacity()
    reserved: _Reserved = _Reserved()
    metrics_listen: _Listen | None = None
    kill_workers_on_stop: Boolean = False
    log_format: _LogFormat = "text"
    log_level: _LogLevel = "info"


class _Places:
    """Turns paths of a settings file into absolute ones: `~` is the home folder, others start at the file's."""

    def __init__(self, file: str, host: HostDefaults) -> None:
        self._folder = Path(file).absolute().parent
        self._home = host.home

    def path(self, text: str) -> Path:
        if text == "~" or text.startswith("~/"):
            return self._home / text[2:]
        return self._folder / text

    def optional(self, text: str | None) -> Path | None:
        return self.path(text) if text else None


def parse_master_settings(text: bytes | str, *, file: str, host: HostDefaults | None = None) -> MasterSettings:
    """Return the settings of a master from its YAML. Raises InvalidSettings with every fault."""
    host = host or HostDefaults.detect()
    found = _read(text, file)
    model = found.check(_Master)
    found.end_stage()
    if model is None:
        raise found.refusal()
    places = _Places(file, host)
    data_dir = places.path(model.data_dir) if model.data_dir else host.data_dir("hsu-cluster")
    times = _node_times(model, found)
    _check_master(model, found)
    if found.faults:
        raise found.refusal()
    scheme = "https" if model.tls else "http"
    is_any = model.listen.host in ("", "0.0.0.0", "::")
    derived = f"{scheme}://{Listen(host.hostname, model.listen.port) if is_any else model.listen}"
    return MasterSettings(
        name=model.name or host.hostname,
        listen=model.listen,
        advertise=model.advertise or derived,
        data_dir=data_dir,
        store=_store(model.store, data_dir, places),
        admin_token_file=places.optional(model.admin_token_file) or data_dir / "admin.token",
        node_token_file=places.optional(model.node_token_file) or data_dir / "node.token",
        tls=TlsFiles(places.path(model.tls.cert_file), places.path(model.tls.key_file)) if model.tls else None,
        nodes=times,
        leader_ttl_s=model.leader_ttl,
        log_format=model.log_format,
        log_level=model.log_level,
        allow_exec_analysis=model.analysis is not None and model.analysis.allow_exec,
        allow_templates=model.allow_templates,
        rebalance=_rebalance(model.rebalance),
    )


def _rebalance(said: _Rebalance | None) -> RebalanceRules:
    return DEFAULT_RULES if said is None else RebalanceRules(said.automatic, said.max_moves, said.interval)


def _node_times(model: _Master, found: FaultList) -> NodeTimes:
    """Return what `nodes` says; `node_ttl` and `node_beat` are its older words for two of them."""
    said, default = model.nodes or _Nodes(), DEFAULT_TIMES
    paths: dict[str, tuple[str, ...]] = {}
    for key, older, newer in (("beat", model.node_beat, said.beat), ("ttl", model.node_ttl, said.ttl)):
        paths[key] = (f"node_{key}",) if older is not None and newer is None else ("nodes", key)
        if older is not None and newer is not None:
            found.fault((f"node_{key}",), f"nodes.{key} says the same", "keep nodes." + key)
    beat_s = _first(said.beat, model.node_beat, default.beat_s)
    ttl_s = _first(said.ttl, model.node_ttl, default.ttl_s)
    beat, ttl = ".".join(paths["beat"]), ".".join(paths["ttl"])
    if beat_s < 0.05:
        found.fault(paths["beat"], f"{beat_s:g} s is too often", "write 50ms or more")
    if ttl_s < fencing.shortest_ttl_s(beat_s):
        found.fault(
            paths["ttl"],
            f"{ttl} of {ttl_s:g} s is too short for {beat} of {beat_s:g} s: one beat, two answers of up to "
            f"{fencing.call_timeout_s(ttl_s):g} s, {fencing.kill_budget_s(ttl_s):g} s to end strict workers and "
            f"{fencing.margin_s(ttl_s):g} s of margin have to fit in",
            f"write {fencing.shortest_ttl_s(beat_s):g}s or more, or lower {beat}",
        )
    suspect_s = _first(said.suspect, ttl_s / 2)
    if said.suspect is not None and not BEATS_PER_SUSPICION * beat_s <= suspect_s < ttl_s:
        found.fault(
            ("nodes", "suspect"),
            f"{suspect_s:g} s is not from {BEATS_PER_SUSPICION:g} x {beat} ({BEATS_PER_SUSPICION * beat_s:g} s) to "
            f"below {ttl} ({ttl_s:g} s)",
            "leave it out for half the ttl",
        )
    return NodeTimes(beat_s, suspect_s, ttl_s, _first(said.cooldown, default.cooldown_s))


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _check_master(model: _Master, found: FaultList) -> None:
    if model.leader_ttl < LEADER_TTL_LEAST_S:
        fix = f"write {LEADER_TTL_LEAST_S:g}s or more (5s outlives the death of etcd's own leader)"
        found.fault(("leader_ttl",), f"{model.leader_ttl:g} s is too short for a lease", fix)
    if model.tls is None and not is_loopback(model.listen.host):
        found.fault(
            ("listen",),
            f"{model.listen} can be reached from other hosts and tls is not set: tokens would be readable",
            "set tls.cert_file and tls.key_file, or listen on 127.0.0.1",
        )
    _refuse_plain_http(("advertise",), model.advertise, found)
    if model.tls is None and model.advertise and model.advertise.startswith("https:"):
        found.fault(("advertise",), "https is advertised and tls is not set", "set tls.cert_file and tls.key_file")
    etcd = model.store.etcd if model.store else None
    if model.store and model.store.sqlite and etcd:
        found.fault(("store",), "both sqlite and etcd are set", "keep one")
    if etcd is not None:
        if not etcd.endpoints:
            found.fault(("store", "etcd"), "no endpoints", "add endpoints: [http://127.0.0.1:2379]")
        if (etcd.cert_file is None) != (etcd.key_file is None):
            found.fault(("store", "etcd"), "cert_file and key_file go together", "set both or none")
        if (etcd.username is None) != (etcd.password_file is None):
            found.fault(("store", "etcd"), "username and password_file go together", "set both or none")


def _refuse_plain_http(path: tuple[str | int, ...], url: str | None, found: FaultList) -> None:
    if url and url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
        found.fault(path, f"{url} is not encrypted and leaves this host: tokens would be readable", "use https://")


def _store(store: _Store | None, data_dir: Path, places: _Places) -> SqliteStoreSettings | EtcdStoreSettings:
    if store is not None and store.etcd is not None:
        etcd = store.etcd
        return EtcdStoreSettings(
            endpoints=tuple(etcd.endpoints or ()),
            username=etcd.username or "",
            password_file=places.optional(etcd.password_file),
            ca_file=places.optional(etcd.ca_file),
            cert_file=places.optional(etcd.cert_file),
            key_file=places.optional(etcd.key_file),
        )
    path = store.sqlite.path if store is not None and store.sqlite is not None else None
    return SqliteStoreSettings(places.optional(path) or data_dir / "store.sqlite")


def parse_agent_settings(
    text: bytes | str, *, file: str, host: HostDefaults | None = None, needs_masters: bool = True
) -> AgentSettings:
    """Return the settings of an agent from its YAML. Raises InvalidSettings with every fault."""
    host = host or HostDefaults.detect()
    found = _read(text, file)
    model = found.check(_Agent)
    found.end_stage()
    if model is None:
        raise found.refusal()
    masters = tuple(model.masters or ())
    if needs_masters and not masters:
        found.fault(("masters",), "no masters to join", "add masters: [https://master-1:7070]")
    for index, url in enumerate(masters):
        _refuse_plain_http(("masters", index), url, found)
    if model.metrics_listen is not None and not is_loopback(model.metrics_listen.host):
        found.fault(("metrics_listen",), f"{model.metrics_listen} can be reached from other hosts", "use 127.0.0.1")
    if found.faults:
        raise found.refusal()
    places = _Places(file, host)
    data_dir = places.path(model.data_dir) if model.data_dir else host.data_dir("hsu-agent")
    is_local = all(is_loopback(urlsplit(url).hostname or "") for url in masters)
    return AgentSettings(
        node=model.node or host.hostname,
        masters=masters,
        data_dir=data_dir,
        token_file=places.optional(model.token_file) or data_dir / "node.token",
        address=model.address or ("127.0.0.1" if is_local else host.hostname),
        ca_file=places.optional(model.ca_file),
        labels=tuple(sorted((model.labels or {}).items())),
        capacity_cpu_milli=model.capacity.cpu,
        capacity_memory_bytes=model.capacity.memory,
        ports=model.capacity.ports,
        reserved_cpu_milli=model.reserved.cpu,
        reserved_memory_bytes=model.reserved.memory,
        metrics_listen=model.metrics_listen,
        kill_workers_on_stop=model.kill_workers_on_stop,
        log_format=model.log_format,
        log_level=model.log_level,
    )


def _read(text: bytes | str, file: str) -> FaultList:
    try:
        document = load_document(text, file)
    except InvalidManifest as error:
        raise InvalidSettings(error.what, error.why, error.fix, faults=error.faults) from error
    found = FaultList(Document({}, file) if document.data is None else document, "use settings", InvalidSettings)
    return found
