"""The meaning of `routes:`: models in, `RouteSpec` out, with a fault for every name that is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from hsu_core.model.routes import (
    DRAIN_S,
    HaproxyProvider,
    Provider,
    RouteSpec,
    TemplateProvider,
    WebhookProvider,
)
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import closest_fix
from hsu_core.wire.route_models import HaproxyModel, RouteModel, TemplateModel, WebhookModel
from hsu_core.wire.tree import Path, text_of

LONGEST_DRAIN_S = 3600.0
"""A request that takes longer than an hour is a connection: it has to reconnect at some time."""

LONGEST_TIMEOUT_S = 60.0
"""A receiver that needs more than a minute for a few lines of JSON is broken."""

PROVIDERS = ("haproxy", "template", "webhook")

_PROXY_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
"""What HAProxy takes as the name of a backend. Nothing else: the name becomes part of a command."""

_ADDRESS = re.compile(r"(/[^\x00-\x1f]{1,107})|(([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})", re.ASCII)
"""A path (as long as a socket's may be), or a host and a port."""


def convert_routes(
    models: Mapping[str, RouteModel] | None, workers: Mapping[str, WorkerSpec], found: FaultList
) -> tuple[RouteSpec, ...]:
    """Return the routes of an app, sorted by name; `workers` are the readable ones by id."""
    routes = []
    for name, model in sorted((models or {}).items()):
        path: Path = ("routes", name)
        _check_worker(model, path, workers, found)
        drain_s = DRAIN_S if model.drain is None else model.drain
        if drain_s > LONGEST_DRAIN_S:
            found.fault((*path, "drain"), f"{drain_s:g} s is more than an hour", "write 1h or less")
        routes.append(RouteSpec(name, model.worker, model.port, _provider(model, path, found), drain_s))
    return tuple(routes)


def _check_worker(model: RouteModel, path: Path, workers: Mapping[str, WorkerSpec], found: FaultList) -> None:
    written = [raw.get("id") for raw in found.document.data["workers"] if isinstance(raw, dict)]
    names = [text_of(name) for name in written if name is not None]
    if model.worker not in names:
        text = f"there is no worker {model.worker[:60]!r} in this app"
        found.fault((*path, "worker"), text, closest_fix(model.worker, names))
    worker = workers.get(model.worker)
    if worker is not None and model.port not in (ports := [port.name for port in worker.ports]):
        fix = closest_fix(model.port, ports) or f"add ports: {{{model.port}: dynamic}} to the worker"
        found.fault((*path, "port"), f"worker {model.worker} has no port {model.port[:60]!r}", fix)


def _provider(model: RouteModel, path: Path, found: FaultList) -> Provider | None:
    given = [name for name in PROVIDERS if name in model.model_fields_set and getattr(model, name) is not None]
    if len(given) > 1:
        found.fault((*path, given[1]), f"the route has {len(given)} providers ({', '.join(given)})", "keep one")
    if model.haproxy is not None:
        return _haproxy(model.haproxy, (*path, "haproxy"), found)
    if model.template is not None:
        return _template(model.template, (*path, "template"), found)
    return _webhook(model.webhook, (*path, "webhook"), found) if model.webhook is not None else None


def _haproxy(model: HaproxyModel, path: Path, found: FaultList) -> HaproxyProvider:
    if not model.address:
        found.fault((*path, "address"), "no address", "write the path of HAProxy's stats socket, or HOST:PORT")
    for index, address in enumerate(model.address):
        match = _ADDRESS.fullmatch(address)
        if match is None or (match.group(1) is None and not 1 <= int(address.rpartition(":")[2]) <= 65535):
            text = f"{address[:60]!r} is neither an absolute path nor HOST:PORT"
            found.fault((*path, "address", index), text, "write for example /run/haproxy/admin.sock or 10.0.0.5:9999")
    for key, name in (("backend", model.backend), ("preview_backend", model.preview_backend)):
        if name is not None and _PROXY_NAME.fullmatch(name) is None:
            text = f"{name[:60]!r} cannot be the name of a backend"
            found.fault((*path, key), text, "use the name after `backend` in HAProxy's file")
    if model.preview_backend == model.backend:
        found.fault((*path, "preview_backend"), "is the backend itself", "name another one, or remove it")
    return HaproxyProvider(tuple(model.address), model.backend, model.preview_backend or "")


def _template(model: TemplateModel, path: Path, found: FaultList) -> TemplateProvider:
    if model.content is None:
        found.fault(path, "the template has no content", "write `content:` or `template: FILE`")
    if not model.path.startswith("/") or "\0" in model.path or model.path.endswith("/"):
        text = f"{model.path[:60]!r} is not the absolute path of a file on the master"
        found.fault((*path, "path"), text, "write for example /etc/nginx/conf.d/shop.conf")
    if model.command is not None and (not model.command or not model.command[0]):
        found.fault((*path, "command"), "the command is empty", "write for example [nginx, -s, reload], or remove it")
    return TemplateProvider(model.content or "", model.path, tuple(model.command or ()))


def _webhook(model: WebhookModel, path: Path, found: FaultList) -> WebhookProvider:
    default = WebhookProvider("")
    timeout_s = default.timeout_s if model.timeout is None else model.timeout
    if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        found.fault((*path, "timeout"), f"{timeout_s:g} s is no time to wait", "write more than 0 and at most 1m")
    try:
        parts = urlsplit(model.url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        found.fault((*path, "url"), f"{model.url[:60]!r} is not a URL", "write http://... or https://...")
    return WebhookProvider(model.url, timeout_s)
