"""The OpenAPI 3.1 document, made from the route table and the documents' own types. Pure."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from hsu_cluster.api.calls import JSON_TYPE
from hsu_cluster.api.problem import PROBLEM_TYPE
from hsu_cluster.api.routes import MANIFEST, Query, Route
from hsu_cluster.client.documents import PlanDocument, ProblemDocument
from hsu_cluster.planning.access import Permission

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def openapi_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the description of `routes`."""
    schemas: dict[str, Any] = {}
    _schema(ProblemDocument, schemas)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HSU Cluster",
            "version": version,
            "description": (
                "Keeps native processes running over a fleet of hosts. While its store does not answer, a master "
                "answers GET requests from what it knew last: `stale` is true then, and `stale_s` (also the header "
                "X-HSU-Stale-Seconds) says how old the answer is. Other requests get 503 with Retry-After."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "hsu_..."}},
            "schemas": dict(sorted(schemas.items())),
            "responses": {
                "Problem": {
                    "description": "What failed, why, and what to do",
                    "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
                }
            },
        },
    }


def _operation_id(route: Route) -> str:
    """Return the id of an operation; the verbs of a rollout are told from those of the app."""
    of_rollout = "_rollout" if "/rollout/" in route.path else ""
    return f"{route.method.lower()}{of_rollout}_{route.handler.__name__}{'_all' if _is_overall(route) else ''}"


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [_tag(route)],
        "x-permission": str(route.permission),
        "parameters": [*_path_parameters(route), *map(_query_parameter, route.query), *_headers(route)],
        "responses": {**_answer(route, schemas), "default": {"$ref": "#/components/responses/Problem"}},
    }
    if route.permission is Permission.PUBLIC:
        operation["security"] = []
    if route.body is not None:
        operation["requestBody"] = _body(route, schemas)
    return operation


def _is_overall(route: Route) -> bool:
    """Return whether the row is the one over all namespaces of a handler that has two."""
    return route.path == "/v1/apps"


def _tag(route: Route) -> str:
    words = [part for part in route.path.split("/") if part and not part.startswith("{")]
    for word in ("instances", "endpoints", "routes", "apps", "nodes", "workers", "events"):
        if word in words:
            return word
    return "cluster"


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    pattern = {"namespace": "name", "app": "name", "worker": "name", "node": "host name", "instance": "WORKER.SLOT"}
    return [
        {"name": name, "in": "path", "required": True, "description": pattern[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _query_parameter(query: Query) -> dict[str, Any]:
    return {"name": query.name, "in": "query", "description": query.summary, "schema": {"type": query.kind}}


def _headers(route: Route) -> list[dict[str, Any]]:
    if not route.is_change or route.path.endswith("/signal"):
        return []
    return [
        {
            "name": "If-Match",
            "in": "header",
            "description": "Store revision of the object as it was read (0: it must not exist); else 412",
            "schema": {"type": "string"},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Random text: the same request with the same key is applied once",
            "schema": {"type": "string", "maxLength": 255},
        },
    ]


def _answer(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.answer == "websocket":
        return {"101": {"description": "The connection is a WebSocket now"}}
    if isinstance(route.answer, str):
        return {"200": {"description": route.summary, "content": {route.answer: {"schema": {}}}}}
    schema = _schema(route.answer, schemas)
    if route.body == MANIFEST:
        schema = {"anyOf": [schema, _schema(PlanDocument, schemas)]}
    return {"200": {"description": route.summary, "content": {JSON_TYPE: {"schema": schema}}}}


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.body == MANIFEST:
        manifest = {"type": "object", "required": ["workers"], "properties": {"workers": {"type": "array"}}}
        return {
            "required": True,
            "content": {JSON_TYPE: {"schema": manifest}, "application/yaml": {"schema": manifest}},
        }
    assert isinstance(route.body, type)
    is_needed = bool(route.body.__required_keys__)
    return {"required": is_needed, "content": {JSON_TYPE: {"schema": _schema(route.body, schemas)}}}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a type; of a TypedDict a reference to its schema in `schemas`."""
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(item, schemas) for item in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas)}
    name = kind.__name__
    if name not in schemas:
        schemas[name] = {}  # first, for a type that holds itself
        hints = typing.get_type_hints(kind)
        schemas[name] = {
            "type": "object",
            "description": (kind.__doc__ or "").strip().partition("\n")[0],
            "required": sorted(kind.__required_keys__),
            "properties": {field: _schema(item, schemas) for field, item in hints.items()},
            **({"additionalProperties": False} if name.endswith("Body") else {}),
        }
    return {"$ref": f"#/components/schemas/{name}"}
