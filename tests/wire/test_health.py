"""What probes of a manifest mean: gRPC, files, several checks, notices."""

from __future__ import annotations

from typing import Any

import pytest

from hsu_core.model.checks import AllCheck, AnyCheck, Check, FileCheck, GrpcCheck, NotifyCheck, ProcessCheck, TcpCheck
from hsu_core.model.spec import HealthSpec, Probe
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.hashes import content_hash, spec_hash
from tests.wire.builders import manifest, only_fault, parse, parse_worker, worker

PING = "proto.CoreService/Ping"


def probe_of(**body: Any) -> Probe:
    found = parse_worker(ports={"grpc": "dynamic"}, health={"readiness": body}).health.readiness
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("body", "check"),
    [
        ({"grpc": {"port": "grpc"}}, GrpcCheck("grpc")),
        ({"grpc": {"port": 50051, "service": "shop.Web"}}, GrpcCheck(50051, service="shop.Web")),
        ({"grpc": {"port": "grpc", "method": f"/{PING}", "host": "::1"}}, GrpcCheck("grpc", "::1", method=PING)),
        ({"file": {"path": "/run/x", "max_age": "1m"}}, FileCheck("/run/x", 60.0)),
        ({"notify": None}, NotifyCheck()),
        ({"notify": {}}, NotifyCheck()),
        (
            {"all": [{"tcp": {"port": "grpc"}}, {"file": {"path": "x"}}]},
            AllCheck((TcpCheck("grpc"), FileCheck("x"))),
        ),
        ({"any": [{"process": None}, {"grpc": {"port": 1}}]}, AnyCheck((ProcessCheck(), GrpcCheck(1)))),
    ],
)
def test_checks(body: dict[str, Any], check: Check) -> None:
    assert probe_of(**body).check == check


@pytest.mark.parametrize(
    ("grpc", "service", "method"),
    [
        ({}, "", ""),
        ({"service": "shop.Web"}, "shop.Web", ""),
        ({"service": "shop.Web", "method": "Check"}, "shop.Web", ""),
        ({"service": "grpc.health.v1.Health", "method": "Check"}, "", ""),
        ({"service": "CoreService", "method": "Ping"}, "", PING),
        ({"service": "proto.CoreService"}, "", PING),
        ({"method": "Ping"}, "", PING),
        ({"service": "shop.Web", "method": "Alive"}, "", "shop.Web/Alive"),
    ],
)
def test_hsu_service_and_method(grpc: dict[str, str], service: str, method: str) -> None:
    control = {"execution": {"executable_path": "./x"}}
    body = {"type": "grpc", "grpc": {"address": "localhost:50051", **grpc}}
    health = parse_worker(unit={"managed": {"control": control, "health_check": body}}).health
    assert health.liveness is not None
    assert health.liveness.check == GrpcCheck(50051, "localhost", service, method)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"grpc": {"port": "web"}}, "there is no port 'web'"),
        ({"grpc": {"port": 1, "method": "Ping"}}, "is not a method"),
        ({"grpc": {"port": 1, "method": PING, "service": "a"}}, "is named with its service"),
        ({"grpc": {"port": 1, "service": "s" * 128}}, "more than 127 bytes"),
        ({"grpc": None}, "says nothing"),
        ({"file": {"path": ""}}, "is not a path"),
        ({"all": []}, "holds 0 checks"),
        ({"any": [{"process": None}] * 11}, "holds 11 checks"),
        ({"any": [{"process": None, "tcp": {"port": 1}}]}, "the entry has 2 checks (tcp, process)"),
        ({"any": [{}]}, "the entry has no check"),
        ({"any": [{"all": [{"process": None}]}]}, "unknown key"),
        ({"any": [{"grpc": {"port": "web"}}]}, "there is no port 'web'"),
    ],
)
def test_faults(body: dict[str, Any], text: str) -> None:
    assert text in str(only_fault(manifest(worker(health={"readiness": body}))))


def test_a_watchdog_fails_at_its_first_missed_time() -> None:
    health = parse_worker(health={"readiness": {"notify": {}}, "liveness": {"notify": {}, "period": "4s"}}).health
    assert health.liveness == Probe(NotifyCheck(), 4.0, failure_threshold=1)
    assert (health.has_notices, health.watchdog_s) == (True, 4.0)
    assert not HealthSpec(liveness=Probe(ProcessCheck())).has_notices


def test_every_check_goes_through_the_codec() -> None:
    checks = [NotifyCheck(), AllCheck((TcpCheck(1), FileCheck("x", 2.0))), AnyCheck((GrpcCheck("a"), ProcessCheck()))]
    for check in checks:
        spec = HealthSpec(readiness=Probe(check))
        assert decode(HealthSpec, encode(spec)) == spec


def hashes(**body: Any) -> tuple[str, str]:
    """Return the hash of an app with this readiness probe, and of what its process must be restarted for."""
    spec = parse(manifest(worker(health={"readiness": body}))).spec
    return content_hash(spec), spec_hash(spec.workers[0], "")


def test_all_and_any_and_notices_are_different_contents() -> None:
    bodies: list[dict[str, Any]] = [{"all": [{"process": None}]}, {"any": [{"process": None}]}]
    bodies += [{"process": None}, {"notify": None}]
    assert len({hashes(**body)[0] for body in bodies}) == 4


def test_a_process_that_is_to_be_listened_to_must_be_started_so() -> None:
    assert hashes(process=None)[1] == hashes(tcp={"port": 80})[1]
    assert hashes(notify=None)[1] != hashes(process=None)[1]
