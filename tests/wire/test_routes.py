"""`routes:` of an app: its words, its faults, and that a client sends the content of a template's file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hsu_core.model.ids import AppId
from hsu_core.model.routes import HaproxyProvider, RouteSpec, RouteState, TemplateProvider, WebhookProvider
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.hashes import content_hash, spec_hash
from tests.wire.builders import faults, manifest, only_fault, parse, worker

HAPROXY = {"address": "/run/haproxy/admin.sock", "backend": "shop"}


def routed(**keys: Any) -> str:
    """Return a manifest whose one worker has a port `http` and a route `web` with these keys."""
    route = {"worker": "web", "port": "http", **keys}
    return manifest(worker(ports={"http": "dynamic"}), routes={"web": route})


@pytest.mark.parametrize(
    ("keys", "provider"),
    [
        ({}, None),
        ({"haproxy": HAPROXY}, HaproxyProvider(("/run/haproxy/admin.sock",), "shop")),
        (
            {"haproxy": {"address": ["lb-1:9999", "[::1]:9999"], "backend": "a", "preview_backend": "b"}},
            HaproxyProvider(("lb-1:9999", "[::1]:9999"), "a", "b"),
        ),
        (
            {"template": {"content": "server {address};", "path": "/etc/x.conf", "command": ["nginx", "-s", "reload"]}},
            TemplateProvider("server {address};", "/etc/x.conf", ("nginx", "-s", "reload")),
        ),
        ({"webhook": {"url": "https://lb/hook", "timeout": "2s"}}, WebhookProvider("https://lb/hook", 2.0)),
    ],
)
def test_a_route_has_at_most_one_provider(keys: dict[str, Any], provider: Any) -> None:
    (route,) = parse(routed(**keys, drain="3s")).spec.routes
    assert route == RouteSpec("web", "web", "http", provider, 3.0)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"worker": "wep"}, "routes.web.worker"),
        ({"port": "htp"}, "routes.web.port"),
        ({"drain": "2h"}, "routes.web.drain"),
        ({"haproxy": HAPROXY, "webhook": {"url": "http://lb/"}}, "routes.web.webhook"),
        ({"haproxy": {**HAPROXY, "address": []}}, "routes.web.haproxy.address"),
        ({"haproxy": {**HAPROXY, "address": "admin.sock"}}, "routes.web.haproxy.address[0]"),
        ({"haproxy": {**HAPROXY, "address": "lb:70000"}}, "routes.web.haproxy.address[0]"),
        ({"haproxy": {**HAPROXY, "backend": "shop; shutdown"}}, "routes.web.haproxy.backend"),
        ({"haproxy": {**HAPROXY, "backend": "shop\nshow info"}}, "routes.web.haproxy.backend"),
        ({"haproxy": {**HAPROXY, "preview_backend": "shop"}}, "routes.web.haproxy.preview_backend"),
        ({"template": {"path": "/etc/x"}}, "routes.web.template"),
        ({"template": {"content": "x", "path": "etc/x"}}, "routes.web.template.path"),
        ({"template": {"content": "x", "path": "/etc/x", "command": []}}, "routes.web.template.command"),
        ({"webhook": {"url": "file:///etc/passwd"}}, "routes.web.webhook.url"),
        ({"webhook": {"url": "http://lb/", "timeout": "2m"}}, "routes.web.webhook.timeout"),
        ({"weight": 3}, "routes.web.weight"),
    ],
)
def test_a_fault_has_its_path_and_a_fix(keys: dict[str, Any], path: str) -> None:
    fault = only_fault(routed(**keys))
    assert fault.path == path, str(fault)
    assert fault.fix
    assert fault.line


def test_all_faults_of_routes_are_told_at_once() -> None:
    routes = {"a": {"worker": "x", "port": "http"}, "b": {"worker": "web", "port": "https"}}
    text = manifest(worker(ports={"http": "dynamic"}), routes=routes)
    assert [fault.path for fault in faults(text)] == ["routes.a.worker", "routes.b.port"]


def test_the_file_of_a_template_goes_into_the_document() -> None:
    text = routed(template={"template": "lb.tpl", "path": "/etc/x.conf"})
    parsed = parse(text, read_file={"lb.tpl": b"server {address};\n"}.__getitem__)
    provider = parsed.spec.routes[0].provider
    assert provider == TemplateProvider("server {address};\n", "/etc/x.conf")
    again = parse(json.dumps(parsed.document), environment=None)
    assert again.spec.routes == parsed.spec.routes
    assert only_fault(text).path == "routes.web.template.template"


def test_a_route_is_content_of_a_revision_and_restarts_nothing() -> None:
    plain, with_route = parse(manifest(worker(ports={"http": "dynamic"}))).spec, parse(routed()).spec
    assert content_hash(plain) != content_hash(with_route)
    assert spec_hash(plain.workers[0], "") == spec_hash(with_route.workers[0], "")


def test_a_state_keeps_its_provider_in_the_store() -> None:
    for provider in (None, HaproxyProvider(("/s",), "b"), TemplateProvider("x", "/y"), WebhookProvider("http://z")):
        state = RouteState(AppId("default", "shop"), "web", spec=RouteSpec("web", "web", "http", provider))
        assert decode(RouteState, encode(state)) == state
