"""HSU's unmanaged unit, and what of a worker does not go with it."""

from __future__ import annotations

import pytest

from hsu_core.model.errors import InvalidManifest
from hsu_core.model.restarts import RestartPolicy
from hsu_core.model.spec import WorkerSpec, WorkerType
from hsu_core.model.unmanaged import Discovery, UnmanagedSpec
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.hashes import spec_hash
from hsu_core.wire.manifest import parse_manifest
from tests.support.cluster import ROOT


def parsed(unit: str, more: str = "") -> WorkerSpec:
    text = f"app: shop\nworkers:\n- id: db\n  type: unmanaged\n  unit: {{unmanaged: {unit}}}\n  {more}\n"
    return parse_manifest(text.encode(), file="shop.yaml", environment={}, read_file=lambda name: b"").spec.workers[0]


PID_FILE = "discovery: {method: pid-file, pid_file: /run/db.pid}"


def test_by_default_it_is_only_looked_at() -> None:
    found = parsed(f"{{{PID_FILE}}}")
    assert found.type is WorkerType.UNMANAGED
    assert found.unmanaged == UnmanagedSpec(Discovery.PID_FILE, pid_file="/run/db.pid")
    assert found.restart.policy is RestartPolicy.ALWAYS
    assert (found.restart.base_s, found.restart.ceiling_s, found.restart.max_retries) == (5.0, 5.0, None)
    assert found.stop.grace_s == 30.0
    assert decode(WorkerSpec, encode(found)) == found


def test_every_key_has_its_meaning() -> None:
    found = parsed(
        "{discovery: {method: process_name, process_name: postgres, process_args: [-D, /data], check_interval: 2s}, "
        "control: {can_terminate: true, can_restart: true, allowed_signals: [SIGTERM, hup], graceful_timeout: 5s}, "
        "health_check: {type: tcp, tcp: {address: 127.0.0.1, port: 5432}}}"
    )
    assert found.unmanaged == UnmanagedSpec(
        Discovery.PROCESS_NAME,
        process_name="postgres",
        process_args=("-D", "/data"),
        interval_s=2.0,
        can_terminate=True,
        can_restart=True,
        allowed_signals=("SIGTERM", "SIGHUP"),
    )
    assert found.stop.grace_s == 5.0
    assert found.health.readiness is not None
    assert found.health.liveness == found.health.readiness


def test_what_may_not_be_restarted_is_not_ended_by_its_health() -> None:
    found = parsed(f"{{{PID_FILE}, health_check: {{type: tcp, tcp: {{address: 127.0.0.1, port: 5432}}}}}}")
    assert found.health.readiness is not None
    assert found.health.liveness is None


def test_the_block_of_the_page_is_valid() -> None:
    page = (ROOT / "docs" / "unmanaged.md").read_text(encoding="utf-8")
    text = "app: shop\n" + page.split("```yaml\n")[1].split("```")[0]
    found = parse_manifest(text.encode(), file="shop.yaml", environment={}, read_file=lambda name: b"")
    assert found.warnings == ()
    assert found.spec.workers[0].unmanaged is not None


def test_permissions_change_without_a_new_look() -> None:
    plain, allowed = parsed(f"{{{PID_FILE}}}"), parsed(f"{{{PID_FILE}, control: {{can_terminate: true}}}}")
    other = parsed("{discovery: {method: pid-file, pid_file: /run/other.pid}}")
    assert spec_hash(plain, "") == spec_hash(allowed, "") != spec_hash(other, "")


@pytest.mark.parametrize(
    ("unit", "more", "text"),
    [
        ("{discovery: {method: pid-file}}", "", "needs it; add pid_file"),
        ("{discovery: {method: pid-file, pid_file: run/db.pid}}", "", "not absolute"),
        ("{discovery: {method: port}}", "", "add port"),
        ("{discovery: {method: by-magic}}", "", "'by-magic' is not known here"),
        ("{discovery: {method: port, port: 70000}}", "", "outside 1 to 65535"),
        ("{discovery: {method: port, port: 80, protocol: sctp}}", "", "'sctp' is not known here"),
        ("{discovery: {method: port, port: 80, check_interval: 1ms}}", "", "too short"),
        (f"{{{PID_FILE}, control: {{allowed_signals: [SIGNONE]}}}}", "", "not a signal"),
        (f"{{{PID_FILE}, control: {{can_restart: true}}}}", "", "set can_terminate: true too"),
        (f"{{{PID_FILE}}}", "replicas: 2", "one process"),
        (f"{{{PID_FILE}}}", "ports: {http: dynamic}", "has its port already"),
        (f"{{{PID_FILE}}}", "restart: {policy: always}", "not started by the agent"),
        (f"{{{PID_FILE}}}", "hooks: {pre_start: [/bin/true]}", "not started by the agent"),
        (f"{{{PID_FILE}}}", "process: {nice: 1}", "not started by the agent"),
        (f"{{{PID_FILE}}}", "health: {liveness: {tcp: {port: 80}}}", "use readiness"),
    ],
)
def test_faults_are_named(unit: str, more: str, text: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(unit, more)
    assert text in "\n".join(map(str, caught.value.faults))
