"""Rules between the keys of a manifest: names that must exist, circles, paths, placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hsu_core.model.checks import ExecCheck, FileCheck, GrpcCheck, HttpCheck, NotifyCheck, SingleCheck, TcpCheck, parts
from hsu_core.model.ids import is_name
from hsu_core.model.spec import AppSpec, Guarantee, WorkerSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import closest_fix, nearest
from hsu_core.wire.manifest_models import WorkerModel
from hsu_core.wire.tree import Path, text_of

_PORT_PLACEHOLDER = re.compile(r"\{port\.([^{}]{0,100})\}")

FILE_PATH_LIMIT = 255
"""Longest path of a configuration file, in characters: what every file system takes below a folder."""


def check_workers(workers: Mapping[int, WorkerModel], spec: AppSpec, found: FaultList) -> None:
    """Add the faults between workers and within each; `workers` has the readable ones by their place in the list."""
    indexes = _indexes(found)
    names = list(indexes)
    for index, worker in workers.items():
        at: Path = ("workers", index)
        placement = worker.placement
        for where, others in (
            ((*at, "depends_on"), list(worker.depends_on or {})),
            ((*at, "placement", "anti_affinity"), list((placement.anti_affinity if placement else None) or [])),
            ((*at, "placement", "near"), list((placement.near if placement else None) or [])),
        ):
            for other in others:
                if other not in indexes:
                    found.fault(where, f"there is no worker {other[:60]!r} in this app", closest_fix(other, names))
        for path, body in (worker.files or {}).items():
            _check_file_path(path, (*at, "files", path), found)
            if body.content is None:
                found.fault((*at, "files", path), "the file has no content", "write `content:` or `template:`")
        _check_nesting(list(worker.files or {}), at, found)
        for other in worker.depends_on or {}:
            target = workers.get(indexes.get(other, -1))
            if target is not None and target.enabled is False:
                text = f"{worker.id} waits for {other}, which is not enabled"
                found.warn((*at, "depends_on"), text, "enable it, or remove the dependency", "manifest.suspicious")
    _check_circles(spec, indexes, found)
    for item in spec.workers:
        at = ("workers", indexes[item.id])
        _check_ports(item, at, found)
        _check_strategy(item, spec, at, found)


def _indexes(found: FaultList) -> dict[str, int]:
    """Return the place of each worker id in the file, of faulty workers too; add a fault for a second one."""
    indexes: dict[str, int] = {}
    for index, raw in enumerate(found.document.data["workers"]):
        worker_id = text_of(raw.get("id")) if isinstance(raw, dict) else ""
        if worker_id and indexes.setdefault(worker_id, index) != index:
            line = found.document.line(("workers", indexes[worker_id], "id"))
            text = f"worker {worker_id[:64]} is also in line {line}"
            found.fault(("workers", index, "id"), text, "rename one")
    return indexes


def _check_file_path(path: str, at: Path, found: FaultList) -> None:
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        found.fault(at, "the path is absolute", "write one below the files folder, such as etc/web.toml")
    elif ".." in parts:
        found.fault(at, "the path leaves the files folder with `..`", "write a path below it")
    elif "" in parts or "." in parts or "\\" in path or not path.isprintable() or len(path) > FILE_PATH_LIMIT:
        found.fault(at, "the path is not a plain relative path", "write for example etc/web.toml, with / between parts")


def _check_nesting(paths: list[str], at: Path, found: FaultList) -> None:
    known = set(paths)
    for path in paths:
        parts = path.split("/") if len(path) <= FILE_PATH_LIMIT else []
        for length in range(1, len(parts)):
            parent = "/".join(parts[:length])
            if parent in known:
                found.fault((*at, "files", path), f"{parent} would be a file and its folder", "rename one")


def _check_circles(spec: AppSpec, indexes: dict[str, int], found: FaultList) -> None:
    """Report each circle of `depends_on` once, at its first worker."""
    needs = {worker.id: [other for other in worker.depends_on if other in indexes] for worker in spec.workers}
    done: set[str] = set()
    for start in sorted(needs):
        trail: dict[str, Iterator[str]] = {} if start in done else {start: iter(needs[start])}
        while trail:
            name = next(reversed(trail))
            other = next(trail[name], None)
            if other is None:
                done.add(name)
                del trail[name]
            elif other in trail:
                names = list(trail)
                chain = " -> ".join([*names[names.index(other) :], other])
                path = ("workers", indexes[name], "depends_on")
                found.fault(path, f"workers wait for each other: {chain[:500]}", "break the circle")
            elif other not in done and other in needs:
                trail[other] = iter(needs[other])


def _check_ports(worker: WorkerSpec, at: Path, found: FaultList) -> None:
    if found.is_touched((*at, "ports")):
        return
    names = [port.name for port in worker.ports]
    numbers: dict[int, str] = {}
    for port in worker.ports:
        if not port.is_dynamic and port.number in numbers:
            text = f"port {port.number} is given to {numbers[port.number]} and {port.name}"
            found.fault((*at, "ports", port.name), text, "use another number, or `dynamic`")
        numbers[port.number] = port.name
    for path, text in _texts(worker, at, found):
        for name in _PORT_PLACEHOLDER.findall(text):
            if name not in names:
                _fault_port(name, names, path, f"{{port.{name}}} names no port of worker {worker.id}", found)
    for kind, check in _checks(worker):
        reference = check.port if isinstance(check, TcpCheck | HttpCheck | GrpcCheck) else ""
        if isinstance(reference, str) and reference and reference not in names:
            _fault_port(reference, names, _probe_path(at, kind, found), f"there is no port {reference[:60]!r}", found)


def _check_strategy(worker: WorkerSpec, spec: AppSpec, at: Path, found: FaultList) -> None:
    """Warn of a strategy with a second set for a worker that must not run beside itself."""
    strategy = worker.rollout.strategy
    is_routed = any(route.worker == worker.id and route.provider is not None for route in spec.routes)
    if not (strategy == "blue-green" or (strategy == "canary" and is_routed)):
        return
    why = "a schedule" if worker.schedule is not None else ""
    why = "a unit that is not managed" if worker.unmanaged is not None else why
    why = "guarantee strict" if worker.guarantee is Guarantee.STRICT else why
    if why:
        found.warn(
            (*at, "rollout", "strategy"),
            f"{strategy} needs a second set of instances, and a worker with {why} must not run twice: it is replaced "
            "in place, one wave after the other",
            "write `strategy: rolling` or `recreate`",
        )


def _fault_port(name: str, names: list[str], path: Path, text: str, found: FaultList) -> None:
    near = nearest(name, names)
    offered = name if is_name(name) else "http"
    found.fault(path, text, f"did you mean {near}?" if near else f"add ports: {{{offered}: dynamic}}")


def _checks(worker: WorkerSpec) -> list[tuple[str, SingleCheck | NotifyCheck]]:
    probes = (
        ("startup", worker.health.startup),
        ("readiness", worker.health.readiness),
        ("liveness", worker.health.liveness),
    )
    return [(kind, check) for kind, probe in probes if probe is not None for check in parts(probe.check)]


def _probe_path(at: Path, kind: str, found: FaultList) -> Path:
    """Return where the probe is written: its own block, or HSU's health check in the unit."""
    native = (*at, "health", kind)
    return native if native in found.document.lines else (*at, "unit", "managed", "health_check")


def _texts(worker: WorkerSpec, at: Path, found: FaultList) -> Iterator[tuple[Path, str]]:
    """Give every text in which placeholders are replaced, with its path."""
    execution = (*at, "unit", "managed", "control", "execution")
    yield (*execution, "executable_path"), worker.execution.executable_path
    yield (*execution, "working_directory"), worker.execution.working_directory
    for index, argument in enumerate(worker.execution.args):
        yield (*execution, "args", index), argument
    for name, value in worker.execution.environment:
        yield (*execution, "environment", name), value
    for file in worker.files:
        yield (*at, "files", file.path), file.content
    for kind, check in _checks(worker):
        if isinstance(check, HttpCheck):
            for value in (check.url, check.path, *(value for _, value in check.headers)):
                yield (*_probe_path(at, kind, found), "http"), value
        elif isinstance(check, ExecCheck):
            for value in check.command:
                yield (*_probe_path(at, kind, found), "exec"), value
        elif isinstance(check, FileCheck):
            yield (*_probe_path(at, kind, found), "file"), check.path
