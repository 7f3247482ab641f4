"""Who can be reached where: endpoints of workers, routes as their providers confirmed them, Prometheus' targets."""

from __future__ import annotations

from collections.abc import Mapping

from hsu_cluster.api.apps import namespace_and_app
from hsu_cluster.api.calls import Answer, Call, PageRequest, list_document, no_such_app, page_request
from hsu_cluster.api.reading import Reading, Scope
from hsu_cluster.client.route_documents import EndpointDocument, RouteDocument, TargetGroupDocument
from hsu_cluster.planning.endpoints import Served, running, served
from hsu_cluster.planning.traffic import servers
from hsu_core.model.ids import AppId
from hsu_core.model.routes import (
    HaproxyProvider,
    Provider,
    RouteSpec,
    RouteState,
    TemplateProvider,
    WebhookProvider,
)
from hsu_core.wire import keys

PROVIDER_NAMES: Mapping[type[Provider], str] = {
    HaproxyProvider: "haproxy",
    TemplateProvider: "template",
    WebhookProvider: "webhook",
}


async def list_endpoints(call: Call) -> Answer:
    """Return the endpoints of all apps, of a namespace, or of one app."""
    return await _endpoints(call, Scope(*namespace_and_app(call)), page_request(call))


async def list_app_endpoints(call: Call) -> Answer:
    """Return the endpoints of the app in the path."""
    app = call.app
    return await _endpoints(call, Scope(app.namespace, app.app), page_request(call), app)


async def _endpoints(call: Call, scope: Scope, page: PageRequest, app: AppId | None = None) -> Answer:
    reading = await call.services.reader.read(scope, revision=page.revision)
    if app is not None and app not in reading.view.apps:
        raise no_such_app(app)
    found = [one for each in sorted(reading.view.apps) for one in served(reading.view, each)]
    return Answer(list_document(found, _place, page, reading.revision, _endpoint_document))


def _place(one: Served) -> tuple[str, ...]:
    instance = one.instance
    return instance.namespace, instance.app, instance.worker, f"{instance.slot:05d}"


def _endpoint_document(one: Served) -> EndpointDocument:
    return {
        "namespace": one.instance.namespace,
        "app": one.instance.app,
        "worker": one.instance.worker,
        "instance": one.instance.short,
        "slot": one.instance.slot,
        "node": one.node,
        "host": one.host,
        "ports": dict(one.ports),
        "group": one.group,
        "weight": one.weight,
        "app_revision": one.revision,
    }


async def list_routes(call: Call) -> Answer:
    """Return the routes of all apps, of a namespace, or of one app: those asked for, and those being cleared."""
    page = page_request(call)
    reading = await call.services.reader.read(Scope(*namespace_and_app(call)), revision=page.revision)
    specs: dict[tuple[AppId, str], RouteSpec] = {}
    for app, record in reading.view.apps.items():
        revision = reading.view.revisions.get((app, record.revision))
        specs |= {(app, spec.name): spec for spec in (revision.spec.routes if revision is not None else ())}
    found = [_route_document(reading, app, name, specs) for app, name in sorted({*specs, *reading.view.routes})]
    return Answer(
        list_document(found, lambda item: (item["namespace"], item["app"], item["name"]), page, reading.revision)
    )


def _route_document(
    reading: Reading, app: AppId, name: str, specs: Mapping[tuple[AppId, str], RouteSpec]
) -> RouteDocument:
    state = reading.view.routes.get((app, name)) or RouteState(app, name)
    spec = specs.get((app, name)) or state.spec or RouteSpec(name, "", "")
    return {
        "namespace": app.namespace,
        "app": app.app,
        "name": name,
        "worker": spec.worker,
        "port": spec.port,
        "provider": "none" if spec.provider is None else PROVIDER_NAMES[type(spec.provider)],
        "members": [
            {
                "instance": server.endpoint.instance.short,
                "host": server.endpoint.host,
                "port": server.endpoint.port,
                "group": server.endpoint.group,
                "weight": server.weight,
            }
            for server in servers(state.endpoints, state.weights)
        ],
        "weights": dict(state.weights),
        "joining": [one.short for one in state.joining],
        "leaving": [one.short for one in state.leaving],
        "trouble": state.trouble,
        "changed_at": state.changed_at or None,
        "revision": reading.changed.get(keys.route(app, name), 0),
    }


async def list_targets(call: Call) -> Answer:
    """Return what runs as targets of Prometheus (`http_sd_configs`), ready or not: it is to be measured."""
    namespace, app = namespace_and_app(call)
    worker, port = call.query_name("worker"), call.query_name("port")
    reading = await call.services.reader.read(Scope(namespace, app))
    groups = [
        _target(one, name, number)
        for each in sorted(reading.view.apps)
        for one in running(reading.view, each)
        for name, number in one.ports
        if worker in (None, one.instance.worker) and port in (None, name)
    ]
    return Answer(groups)


def _target(one: Served, name: str, number: int) -> TargetGroupDocument:
    host = f"[{one.host}]" if ":" in one.host else one.host
    labels = {
        "namespace": one.instance.namespace,
        "app": one.instance.app,
        "worker": one.instance.worker,
        "slot": str(one.instance.slot),
        "instance": one.instance.short,
        "node": one.node,
        "port": name,
        "group": one.group,
        "revision": str(one.revision),
        "ready": "true" if one.is_ready else "false",
    }
    return {"targets": [f"{host}:{number}"], "labels": {f"__meta_hsu_{key}": text for key, text in labels.items()}}
