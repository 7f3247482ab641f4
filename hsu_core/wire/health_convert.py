"""The meaning of probes: the native `health` block, and HSU's `health_check` of a unit."""

from __future__ import annotations

import re

from hsu_core.model.checks import (
    AllCheck,
    AnyCheck,
    Check,
    ExecCheck,
    FileCheck,
    GrpcCheck,
    HttpCheck,
    NotifyCheck,
    ProcessCheck,
    SingleCheck,
    TcpCheck,
)
from hsu_core.model.spec import HealthSpec, Probe
from hsu_core.wire.faults import FaultList
from hsu_core.wire.health_models import CheckModel, GrpcModel, HealthModel, HttpModel, ProbeModel
from hsu_core.wire.tree import Path
from hsu_core.wire.unit_models import HealthCheck, HsuGrpc

SHORTEST_PERIOD_S = 0.1
"""Probes more often than this cost more than they tell."""

CHECKS_LIMIT = 10
"""Most checks under one `all` or `any`: they share the time limit of the probe."""

SERVICE_LIMIT = 127
"""Longest name of a gRPC service, in bytes; real ones have some 40."""

HSU_INTERVAL_S = 30.0
HSU_TIMEOUT_S = 5.0
"""HSU's documented defaults of `run_options`."""

HSU_PING = "proto.CoreService/Ping"
"""The method that every integrated HSU worker offers."""

_SINGLE = ("http", "tcp", "exec", "process", "grpc", "file")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")


def convert_health(model: HealthModel | None, path: Path, found: FaultList) -> HealthSpec | None:
    """Return the probes of a `health` block at `path`; None without one."""
    if model is None:
        return None
    startup, readiness, liveness = (
        _probe(body, (*path, kind), found, is_liveness=kind == "liveness") if body else None
        for kind, body in (("startup", model.startup), ("readiness", model.readiness), ("liveness", model.liveness))
    )
    for kind, probe in (("startup", startup), ("liveness", liveness)):
        if probe is not None and probe.success_threshold != 1:
            found.fault((*path, kind, "success_threshold"), f"must be 1 for {kind}", "remove it")
    return HealthSpec(startup, readiness, liveness)


def _probe(body: ProbeModel, path: Path, found: FaultList, *, is_liveness: bool) -> Probe:
    check = _check(body, path, found)
    default = Probe(check)
    failures = 1 if is_liveness and isinstance(check, NotifyCheck) else default.failure_threshold
    period_s = default.period_s if body.period is None else body.period
    timeout_s = min(default.timeout_s, period_s) if body.timeout is None else body.timeout
    if period_s < SHORTEST_PERIOD_S:
        found.fault((*path, "period"), f"{period_s:g} s is too often", f"write {SHORTEST_PERIOD_S:g}s or more")
    elif not 0 < timeout_s <= period_s:
        found.fault(
            (*path, "timeout"),
            f"{timeout_s:g} s does not fit the period of {period_s:g} s",
            "write more than 0 and not more than the period",
        )
    return Probe(
        check=check,
        period_s=period_s,
        timeout_s=timeout_s,
        initial_delay_s=body.initial_delay or 0.0,
        success_threshold=body.success_threshold or 1,
        failure_threshold=body.failure_threshold or failures,
    )


def _check(body: ProbeModel, path: Path, found: FaultList) -> Check:
    offered = (*_SINGLE, "notify", "all", "any")
    if not _is_one_check(body, offered, path, found, "the probe"):
        return ProcessCheck()
    if "notify" in body.model_fields_set:
        return NotifyCheck()
    for name, items, kind in (("all", body.all, AllCheck), ("any", body.any, AnyCheck)):
        if items is None:
            continue
        if not 1 <= len(items) <= CHECKS_LIMIT:
            found.fault((*path, name), f"holds {len(items)} checks", f"write 1 to {CHECKS_LIMIT}")
        return kind(tuple(_listed(item, (*path, name, index), found) for index, item in enumerate(items)))
    return _single(body, path, found)


def _is_one_check(body: CheckModel, offered: tuple[str, ...], path: Path, found: FaultList, what: str) -> bool:
    kinds = [kind for kind in offered if kind in body.model_fields_set]
    if len(kinds) != 1:
        said = "no check" if not kinds else f"{len(kinds)} checks ({', '.join(kinds)})"
        found.fault(path, f"{what} has {said}", f"write one of {', '.join(offered)}")
        return False
    if kinds[0] not in ("process", "notify") and getattr(body, kinds[0]) is None:
        found.fault((*path, kinds[0]), "says nothing", "write what to check")
        return False
    return True


def _listed(body: CheckModel, path: Path, found: FaultList) -> SingleCheck:
    if not _is_one_check(body, _SINGLE, path, found, "the entry"):
        return ProcessCheck()
    return _single(body, path, found)


def _single(body: CheckModel, path: Path, found: FaultList) -> SingleCheck:
    if body.http is not None:
        return _http(body.http, (*path, "http"), found)
    if body.tcp is not None:
        return TcpCheck(body.tcp.port, body.tcp.host or "127.0.0.1")
    if body.exec is not None:
        if not body.exec.command or not body.exec.command[0]:
            found.fault((*path, "exec", "command"), "the command is empty", "write for example [./bin/check]")
        return ExecCheck(tuple(body.exec.command))
    if body.grpc is not None:
        return _grpc(body.grpc, (*path, "grpc"), found)
    if body.file is not None:
        if not body.file.path or "\0" in body.file.path:
            found.fault((*path, "file", "path"), "is not a path", "write for example /run/app/heartbeat")
        return FileCheck(body.file.path, body.file.max_age or 0.0)
    return ProcessCheck()


def _http(body: HttpModel, path: Path, found: FaultList) -> HttpCheck:
    if (body.port is None) == (body.url is None):
        found.fault(path, "needs either a port or a url", "write {port: http, path: /healthz}")
    if body.url is not None and not body.url.startswith(("http://", "https://")):
        found.fault((*path, "url"), f"{body.url[:60]!r} is not a URL", "write http://... or https://...")
    if body.url is not None and body.path is not None:
        found.fault((*path, "path"), "a url already has its path", "put the path into the url")
    if body.path is not None and not body.path.startswith("/"):
        found.fault((*path, "path"), f"{body.path[:60]!r} does not start with /", f"write /{body.path[:60]}")
    return HttpCheck(
        port="" if body.port is None else body.port,
        path=body.path or "/",
        method=body.method or "GET",
        headers=tuple(sorted((body.headers or {}).items())),
        url=body.url or "",
    )


def _grpc(body: GrpcModel, path: Path, found: FaultList) -> GrpcCheck:
    method = (body.method or "").removeprefix("/")
    if method and not _METHOD.fullmatch(method):
        found.fault((*path, "method"), f"{method[:60]!r} is not a method", f"write for example {HSU_PING}")
    if method and body.service:
        found.fault((*path, "service"), "a method is named with its service", "keep one of service and method")
    _check_service(body.service or "", path, found)
    headers = tuple(sorted((body.headers or {}).items()))
    return GrpcCheck(body.port, body.host or "127.0.0.1", body.service or "", method, headers)


def _check_service(service: str, path: Path, found: FaultList) -> None:
    if len(service.encode()) > SERVICE_LIMIT:
        found.fault((*path, "service"), f"the name has more than {SERVICE_LIMIT} bytes", "write package.Service")


def convert_hsu_health(check: HealthCheck, path: Path, found: FaultList) -> HealthSpec:
    """Return readiness and liveness out of HSU's one check, with HSU's rhythm."""
    options = check.run_options
    if options is not None and options.enabled is False:
        return HealthSpec()
    converted = _hsu_check(check, path, found)
    period_s = options.interval if options and options.interval is not None else HSU_INTERVAL_S
    timeout_s = options.timeout if options and options.timeout is not None else min(HSU_TIMEOUT_S, period_s)
    if timeout_s > period_s or period_s < SHORTEST_PERIOD_S or timeout_s <= 0:
        found.fault(
            (*path, "run_options"),
            f"timeout of {timeout_s:g} s does not fit interval of {period_s:g} s",
            "write an interval of 100ms or more and a timeout above 0 and not above the interval",
        )
    retries = options.retries if options and options.retries is not None else Probe(ProcessCheck()).failure_threshold
    probe = Probe(
        check=converted,
        period_s=period_s,
        timeout_s=timeout_s,
        initial_delay_s=(options.initial_delay if options else None) or 0.0,
        failure_threshold=max(1, retries),
    )
    return HealthSpec(readiness=probe, liveness=probe)


def _hsu_check(check: HealthCheck, path: Path, found: FaultList) -> Check:
    body = getattr(check, check.type, None)
    if check.type == "process":
        return ProcessCheck()
    if body is None:
        found.fault(path, f"type is {check.type} and there is no `{check.type}` block", f"add {check.type}: {{...}}")
        return ProcessCheck()
    if check.http is not None and check.type == "http":
        method = (check.http.method or "GET").upper()
        headers = tuple(sorted((check.http.headers or {}).items()))
        return HttpCheck(url=check.http.url, method=method, headers=headers)
    if check.tcp is not None and check.type == "tcp":
        return TcpCheck(port=check.tcp.port, host=check.tcp.address)
    if check.exec is not None and check.type == "exec":
        return ExecCheck((check.exec.command, *(check.exec.args or ())))
    return _hsu_grpc(check.grpc, (*path, "grpc"), found)


def _hsu_grpc(grpc: HsuGrpc | None, path: Path, found: FaultList) -> Check:
    """Return the check for HSU's service and method: its Ping, another method, or the health of a service."""
    host, _, port = (grpc.address if grpc else "").rpartition(":")
    if grpc is None or not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65535):
        found.fault((*path, "address"), "needs HOST:PORT", "write for example localhost:50051")
        return ProcessCheck()
    service, method = (grpc.service or "").strip("/"), (grpc.method or "").strip("/").rpartition("/")[2]
    called = ""
    if service.rpartition(".")[2] == "CoreService":
        called = HSU_PING if service == "CoreService" else f"{service}/{method or 'Ping'}"
        service = ""
    elif service in ("grpc.health.v1.Health", "Health"):
        service = ""
    elif service and method and method != "Check":
        called, service = f"{service}/{method}", ""
    elif not service and method == "Ping":
        called = HSU_PING
    if called and not _METHOD.fullmatch(called):
        found.fault((*path, "method"), f"{called[:60]!r} is not a method", f"write for example {HSU_PING}")
    _check_service(service, path, found)
    headers = tuple(sorted((grpc.headers or {}).items()))
    return GrpcCheck(int(port), host or "127.0.0.1", service, called, headers)
