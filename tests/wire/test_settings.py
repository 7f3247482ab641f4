"""Rules of the settings files of master and agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsu_core.model.errors import Fault, InvalidSettings
from hsu_core.model.node import NodeTimes
from hsu_core.model.rebalance import RebalanceRules
from hsu_core.runtime.settings import (
    AgentSettings,
    EtcdStoreSettings,
    HostDefaults,
    Listen,
    MasterSettings,
    PortRange,
    SqliteStoreSettings,
    TlsFiles,
)
from hsu_core.wire.settings import is_loopback, parse_agent_settings, parse_master_settings

HOST = HostDefaults("node-a", Path("/home/me"), is_root=False)
FILE = "/etc/hsu/settings.yaml"


def master(text: str) -> MasterSettings:
    return parse_master_settings(text, file=FILE, host=HOST)


def agent(text: str) -> AgentSettings:
    return parse_agent_settings(text, file=FILE, host=HOST)


def master_faults(text: str) -> list[Fault]:
    with pytest.raises(InvalidSettings) as caught:
        master(text)
    return list(caught.value.faults)


def agent_faults(text: str) -> list[Fault]:
    with pytest.raises(InvalidSettings) as caught:
        agent(text)
    return list(caught.value.faults)


def test_an_empty_file_gives_a_masters_defaults() -> None:
    folder = Path("/home/me/.local/share/hsu-cluster")
    assert master("") == MasterSettings(
        name="node-a",
        listen=Listen("127.0.0.1", 7070),
        advertise="http://127.0.0.1:7070",
        data_dir=folder,
        store=SqliteStoreSettings(folder / "store.sqlite"),
        admin_token_file=folder / "admin.token",
        node_token_file=folder / "node.token",
    )


def test_root_keeps_data_in_var_lib() -> None:
    settings = parse_master_settings("", file=FILE, host=HostDefaults("a", Path("/root"), is_root=True))
    assert settings.data_dir == Path("/var/lib/hsu-cluster")


def test_everything_a_master_can_be_told() -> None:
    settings = master(
        """
        name: m1
        listen: 0.0.0.0:7443
        advertise: https://m1.example:7443/
        data_dir: ~/data
        store:
          etcd:
            endpoints: [https://e1:2379, https://e2:2379]
            username: root
            password_file: secret
            ca_file: /etc/ca.pem
            cert_file: c.pem
            key_file: k.pem
        tls: {cert_file: server.pem, key_file: ../key.pem}
        admin_token_file: admin
        node_token_file: ~/node
        node_ttl: 9s
        node_beat: 3
        leader_ttl: 10s
        log_format: json
        log_level: debug
        """
    )
    assert settings == MasterSettings(
        name="m1",
        listen=Listen("0.0.0.0", 7443),
        advertise="https://m1.example:7443",
        data_dir=Path("/home/me/data"),
        store=EtcdStoreSettings(
            endpoints=("https://e1:2379", "https://e2:2379"),
            username="root",
            password_file=Path("/etc/hsu/secret"),
            ca_file=Path("/etc/ca.pem"),
            cert_file=Path("/etc/hsu/c.pem"),
            key_file=Path("/etc/hsu/k.pem"),
        ),
        admin_token_file=Path("/etc/hsu/admin"),
        node_token_file=Path("/home/me/node"),
        tls=TlsFiles(Path("/etc/hsu/server.pem"), Path("/etc/hsu/../key.pem")),
        nodes=NodeTimes(beat_s=3.0, suspect_s=4.5, ttl_s=9.0),
        leader_ttl_s=10.0,
        log_format="json",
        log_level="debug",
    )


def test_a_master_on_every_interface_advertises_its_host_name() -> None:
    text = "listen: ':7443'\ntls: {cert_file: a, key_file: b}"
    assert master(text).advertise == "https://node-a:7443"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "listen: 0.0.0.0:7070",
            "settings.yaml:1: listen: 0.0.0.0:7070 can be reached from other hosts and tls is not set",
        ),
        ("listen: ':7070'", "tls is not set"),
        ("listen: '[::]:7070'", "tls is not set"),
        ("listen: 7070", "is not an address to listen on"),
        ("listen: a:70700", "is not an address to listen on"),
        ("advertise: http://m1:7070", "not encrypted and leaves this host"),
        ("advertise: https://127.0.0.1:1", "https is advertised and tls is not set"),
        ("advertise: m1:7070", "not a URL of a server"),
        ("node_ttl: 5s", "node_ttl of 5 s is too short for nodes.beat of 2 s: one beat, two answers"),
        ("node_beat: 1ms", "too often"),
        ("nodes: {ttl: 5s}", "have to fit in; write 8s or more, or lower nodes.beat"),
        ("nodes: {beat: 1ms}", "settings.yaml:1: nodes.beat: 0.001 s is too often"),
        ("nodes: {suspect: 2s}", "2 s is not from 1.5 x nodes.beat (3 s) to below nodes.ttl (8 s)"),
        ("nodes: {suspect: 8s}", "to below nodes.ttl (8 s)"),
        ("nodes: {beat: 1s}\nnode_beat: 2s", "node_beat: nodes.beat says the same; keep nodes.beat"),
        ("rebalance: {max_moves: 0}", "rebalance.max_moves"),
        ("rebalance: {automatic: sometimes}", "rebalance.automatic"),
        ("leader_ttl: 100ms", "too short for a lease"),
        ("store: {sqlite: {}, etcd: {endpoints: ['http://127.0.0.1:1']}}", "both sqlite and etcd"),
        ("store: {etcd: {}}", "no endpoints"),
        ("store: {etcd: {endpoints: [x]}}", "store.etcd.endpoints[0]: 'x' is not a URL"),
        ("store: {etcd: {endpoints: ['http://user:secret@h']}}", "not a URL of a server"),
        ("store: {etcd: {endpoints: ['http://h'], cert_file: x}}", "cert_file and key_file go together"),
        ("store: {etcd: {endpoints: ['http://h'], username: x}}", "username and password_file go together"),
        ("store: {etdc: {}}", "did you mean etcd?"),
        ("tls: {cert_file: x}", "key 'key_file' is missing"),
        ("log_format: xml", "text, json"),
        ("lisen: x", "did you mean listen?"),
        ("name: a b", "not a name"),
        ("- a", "needs a map of keys"),
        ("a: [", "not valid YAML"),
    ],
)
def test_fault_of_a_master(text: str, part: str) -> None:
    found = master_faults(text)
    assert part in str(found[0])
    assert found[0].file == FILE


def test_all_faults_come_at_once() -> None:
    assert len(master_faults("listen: 0.0.0.0:1\nadvertise: http://a\nnode_ttl: 1s\nstore: {etcd: {}}")) == 4


def test_an_agents_defaults() -> None:
    folder = Path("/home/me/.local/share/hsu-agent")
    assert agent("masters: ['http://127.0.0.1:7070/']") == AgentSettings(
        node="node-a",
        masters=("http://127.0.0.1:7070",),
        data_dir=folder,
        token_file=folder / "node.token",
        address="127.0.0.1",
    )


def test_everything_an_agent_can_be_told() -> None:
    settings = agent(
        """
        node: edge-7.example
        masters: [https://m1:7443, https://m2:7443]
        data_dir: /srv/hsu
        token_file: t
        ca_file: ca.pem
        address: 10.0.0.7
        labels: {zone: b, rack: 1.10, gpu: true}
        capacity: {cpu: 3.5, memory: 4GiB, ports: "30000-30010"}
        reserved: {cpu: 500m, memory: 512MiB}
        metrics_listen: localhost:9100
        kill_workers_on_stop: true
        log_format: json
        log_level: warning
        """
    )
    assert settings == AgentSettings(
        node="edge-7.example",
        masters=("https://m1:7443", "https://m2:7443"),
        data_dir=Path("/srv/hsu"),
        token_file=Path("/etc/hsu/t"),
        address="10.0.0.7",
        ca_file=Path("/etc/hsu/ca.pem"),
        labels=(("gpu", "true"), ("rack", "1.10"), ("zone", "b")),
        capacity_cpu_milli=3500,
        capacity_memory_bytes=4 * 2**30,
        ports=PortRange(30000, 30010),
        reserved_cpu_milli=500,
        reserved_memory_bytes=2**29,
        metrics_listen=Listen("localhost", 9100),
        kill_workers_on_stop=True,
        log_format="json",
        log_level="warning",
    )


def test_an_agent_of_a_remote_master_is_reached_by_its_host_name() -> None:
    assert agent("masters: [https://m1:7443]").address == "node-a"


def test_a_local_agent_needs_no_masters() -> None:
    assert parse_agent_settings("", file=FILE, host=HOST, needs_masters=False).masters == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{}", "no masters to join"),
        ("masters: [https://a, http://b:7070]", "masters[1]: http://b:7070 is not encrypted and leaves this host"),
        ("masters: https://a", "needs a list"),
        ("masters: [https://a]\nmetrics_listen: 0.0.0.0:9100", "can be reached from other hosts"),
        ("masters: [https://a]\ncapacity: {ports: 5-3}", "not a range of ports"),
        ("masters: [https://a]\ncapacity: {memroy: 3}", "did you mean memory?"),
        ("masters: [https://a]\nlabels: {zone: [a]}", "settings.yaml:2: labels.zone: needs text, found a list"),
        ("masters: [https://a]\nkill_workers_on_stop: yes", "write true"),
    ],
)
def test_fault_of_an_agent(text: str, part: str) -> None:
    assert part in str(agent_faults(text)[0])


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_the_automatic_rebalance_is_off_unless_it_is_turned_on() -> None:
    assert not master("{}").rebalance.is_automatic
    given = master("rebalance: {automatic: true, max_moves: 5, interval: 2m}").rebalance
    assert given == RebalanceRules(True, 5, 120.0)
