"""The description of the API: valid, complete, and true for what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from hsu_cluster.api.routes import ROUTES
from hsu_core.model.records import ClusterRecord, MasterAdvert
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.api.harness import APP, SHOP, asynchronous, running_api


@asynchronous
async def test_the_document_is_valid_and_has_every_route(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        document = await api.get("/openapi.json")
    validate(document)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert document["paths"]["/healthz"]["get"]["security"] == []


READS = {
    "/healthz": "HealthDocument",
    "/v1/cluster": "ClusterDocument",
    "/v1/events": "EventList",
    "/v1/apps": "AppList",
    "/v1/workers": "WorkerList",
    "/v1/instances": "InstanceList",
    "/v1/endpoints": "EndpointList",
    "/v1/routes": "RouteList",
    f"{APP}/endpoints": "EndpointList",
    "/v1/nodes": "NodeList",
    "/v1/nodes/node-a": "NodeDocument",
    APP: "AppDocument",
    f"{APP}/revisions": "RevisionList",
}


@asynchronous
async def test_answers_have_the_form_that_is_described(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.store.put(keys.CLUSTER, encode(ClusterRecord("one")))
        await api.store.put(keys.LEADER, encode(MasterAdvert("m1", api.url)))
        await api.store.put(keys.master("m1"), encode(MasterAdvert("m1", api.url)))
        await api.deploy()
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        document = await api.get("/openapi.json")
        for path, name in READS.items():
            _check(document, name, await api.get(path))
        plan = await api.send("PUT", f"{APP}?dry_run=true", SHOP.replace("3600", "1"))
        _check(document, "PlanDocument", plan.document)
        _check(document, "DeployDocument", await api.deploy())
        _check(document, "ProblemDocument", (await api.send("PUT", APP, "workers: 3")).document)


def _check(description: dict[str, Any], name: str, document: Any) -> None:
    schemas = description["components"]["schemas"]
    closed = {key: {**schema, "additionalProperties": False} for key, schema in schemas.items()}
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": closed}}
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]
    assert not errors, (name, errors)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@asynchronous
async def test_probes_need_no_token(tmp_path: Path, path: str) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.send("GET", path, token=None)).status == 200
