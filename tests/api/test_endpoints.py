"""Endpoints, routes and Prometheus' targets: what the store tells of who serves, and that a change is watched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hsu_cluster.client.client import ClusterClient
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity, NodeRecord, NodeState
from hsu_core.model.routes import Endpoint, HaproxyProvider, RouteSpec, RouteState
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.api.harness import ADMIN, APP, SHOP, Api, asynchronous, running_api

SHOP_ID = AppId("default", "shop")
UNIT = SHOP[SHOP.index("    unit:") : SHOP.index("  - id: db")]
ROUTED = f"""\
workers:
  - id: web
    replicas: 3
    ports: {{http: dynamic, admin: dynamic}}
{UNIT}
  - id: db
{UNIT}
routes:
  web: {{worker: web, port: http, haproxy: {{address: /run/lb.sock, backend: shop}}}}
"""


def instance(slot: int, worker: str = "web") -> InstanceId:
    return InstanceId("default", "shop", worker, slot)


async def _node(api: Api, name: str, address: str, state: NodeState = NodeState.READY) -> None:
    record = NodeRecord(name, state, (), Capacity(4000, 2**33), "linux", "x86_64", address=address)
    await api.store.put(keys.node(name), encode(record))


async def _run(api: Api, slot: int, node: str, **status: Any) -> None:
    """Assign a slot and let its agent report it as ready, but for what `status` says."""
    ports = (("admin", 21000 + slot), ("http", 20000 + slot))
    order = Assignment(instance(slot), node, 5, 1, "hash", ports=ports)
    await api.store.put(keys.assignment(order.instance), encode(order))
    seen = InstanceStatus(order.instance, node, 5, State.RUNNING, True, 1, "hash", ports=ports)
    await api.store.put(keys.status(order.instance, node), encode(replace(seen, **status)))


async def _fill(api: Api) -> None:
    await api.deploy(ROUTED)
    await _node(api, "node-a", "10.0.0.1")
    await _node(api, "node-b", "fd00::2")
    await _run(api, 0, "node-a")
    await _run(api, 1, "node-b")
    await _run(api, 2, "node-b", is_ready=False)


def _state(**fields: Any) -> RouteState:
    spec = RouteSpec("web", "web", "http", HaproxyProvider(("/run/lb.sock",), "shop"))
    members = (Endpoint(instance(0), 5, "10.0.0.1", 20000), Endpoint(instance(1), 5, "fd00::2", 20001, "canary"))
    return RouteState(SHOP_ID, "web", members, (("stable", 75), ("canary", 25)), spec=spec, changed_at=7.0, **fields)


@asynchronous
async def test_ready_instances_are_endpoints_with_and_without_a_route(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _fill(api)
        items = (await api.get(f"{APP}/endpoints"))["items"]
        assert [item["instance"] for item in items] == ["shop/web.0", "shop/web.1"]
        assert items[0] == {
            "namespace": "default",
            "app": "shop",
            "worker": "web",
            "instance": "shop/web.0",
            "slot": 0,
            "node": "node-a",
            "host": "10.0.0.1",
            "ports": {"admin": 21000, "http": 20000},
            "group": "stable",
            "weight": 100,
            "app_revision": 1,
        }
        assert (await api.get("/v1/endpoints"))["items"] == items
        assert (await api.get("/v1/endpoints?namespace=other"))["items"] == []
        first = await api.get(f"{APP}/endpoints?limit=1")
        assert (await api.get(f"{APP}/endpoints?page={first['next']}"))["items"] == items[1:]
        assert (await api.send("GET", "/v1/namespaces/default/apps/none/endpoints")).code == "not-found"


@asynchronous
async def test_one_that_leaves_is_no_endpoint(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _fill(api)
        await api.store.put(keys.route(SHOP_ID, "web"), encode(_state(leaving=(instance(1),))))
        assert [item["slot"] for item in (await api.get(f"{APP}/endpoints"))["items"]] == [0]


@asynchronous
async def test_on_a_lost_node_only_if_nothing_else_is_left(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _fill(api)
        await _node(api, "node-b", "fd00::2", NodeState.LOST)
        assert [item["slot"] for item in (await api.get(f"{APP}/endpoints"))["items"]] == [0]
        await _node(api, "node-a", "10.0.0.1", NodeState.LOST)
        assert [item["slot"] for item in (await api.get(f"{APP}/endpoints"))["items"]] == [0, 1]


@asynchronous
async def test_a_route_is_told_before_and_after_its_provider_has_confirmed_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _fill(api)
        (route,) = (await api.get("/v1/routes"))["items"]
        assert (route["provider"], route["members"], route["changed_at"]) == ("haproxy", [], None)
        state = _state(trouble="cannot reach it", joining=(instance(1),), leaving=(instance(2),))
        await api.store.put(keys.route(SHOP_ID, "web"), encode(state))
        (route,) = (await api.get("/v1/routes?namespace=default&app=shop"))["items"]
        assert [(one["instance"], one["weight"]) for one in route["members"]] == [
            ("shop/web.0", 255),
            ("shop/web.1", 85),
        ]
        assert route["weights"] == {"stable": 75, "canary": 25}
        assert (route["joining"], route["leaving"]) == (["shop/web.1"], ["shop/web.2"])
        assert route["trouble"] == "cannot reach it"
        assert route["revision"] == await api.revision()
        async with ClusterClient(api.url, ADMIN) as cluster:
            assert (await cluster.list_routes("default", "shop"))["items"] == [route]
            assert len((await cluster.list_endpoints())["items"]) == 2


@asynchronous
async def test_prometheus_finds_what_runs_ready_or_not(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _fill(api)
        reply = await api.send("GET", "/v1/prometheus/targets")
        assert reply.headers["Content-Type"].startswith("application/json")
        assert len(reply.document) == 6
        found = await api.get("/v1/prometheus/targets?namespace=default&app=shop&worker=web&port=admin")
        assert [group["targets"] for group in found] == [["10.0.0.1:21000"], ["[fd00::2]:21001"], ["[fd00::2]:21002"]]
        assert [group["labels"]["__meta_hsu_ready"] for group in found] == ["true", "true", "false"]
        assert found[0]["labels"]["__meta_hsu_instance"] == "shop/web.0"
        assert all(name.startswith("__meta_hsu_") for name in found[0]["labels"])
        assert await api.get("/v1/prometheus/targets?worker=db") == []
        async with ClusterClient(api.url, ADMIN) as cluster:
            assert await cluster.prometheus_targets("default", "shop", "web", "admin") == found


@asynchronous
async def test_a_change_of_a_route_is_watched(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(api.url, ADMIN) as cluster:
        notices = cluster.watch("default", "shop", ["routes"])
        assert (await anext(notices))["kinds"] == []
        await api.store.put(keys.route(AppId("default", "other"), "web"), encode(_state()))
        written = await api.store.put(keys.route(SHOP_ID, "web"), encode(_state()))
        assert await anext(notices) == {"revision": written, "kinds": ["routes"], "apps": ["default/shop"]}
        await notices.aclose()
