"""What needs a node: logs and signals on leader and standby, and what people ask of nodes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from hsu_core.model.enforcement import Controller, HostLayout
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State, allowed_operations
from hsu_core.model.node import NodeState
from hsu_core.model.records import MasterAdvert
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from tests.api.harness import ADMIN, APP, NODE, Api, FakeLeader, asynchronous, eventually, running_api

WEB_0 = InstanceId("default", "shop", "web", 0)
LOGS = f"{APP}/instances/web.0/logs"
SIGNAL = f"{APP}/instances/web.0/signal"


async def _shop_with_a_log(api: Api) -> None:
    await api.deploy()
    await api.add_node("node-a")
    await api.assign(0, "node-a")
    api.leader.logged[WEB_0] = [b"one\n", b"<script>\n", b"three \xff\n"]


async def _standby_of(stack: AsyncExitStack, leading: Api, folder: Path) -> Api:
    leader = FakeLeader()
    leader.is_leading = False
    leader.leader = MasterAdvert("m1", leading.url)
    return await stack.enter_async_context(running_api(folder, store=leading.store, leader=leader, name="m2"))


@asynchronous
async def test_an_instance_says_what_can_be_asked_of_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _shop_with_a_log(api)
        items = (await api.send("GET", "/v1/instances")).document["items"]
        assert items
        for item in items:
            assert item["operations"] == [str(each) for each in allowed_operations(State(item["state"]))]
            assert "remove" in item["operations"]


@pytest.mark.parametrize("asked", ["leader", "standby"])
@asynchronous
async def test_logs_are_text_from_any_master(tmp_path: Path, asked: str) -> None:
    async with AsyncExitStack() as stack:
        leading = await stack.enter_async_context(running_api(tmp_path))
        api = leading if asked == "leader" else await _standby_of(stack, leading, tmp_path)
        await _shop_with_a_log(leading)
        reply = await api.send("GET", f"{LOGS}?tail=2")
        assert (reply.status, reply.text) == (200, "<script>\nthree \ufffd\n")
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert (await api.send("GET", LOGS, token=NODE)).code == "auth.forbidden"
        assert (await api.send("GET", LOGS, token=None)).code == "auth.unauthorized"


@pytest.mark.parametrize("asked", ["leader", "standby"])
@asynchronous
async def test_a_followed_log_flows_at_once_and_ends_with_its_reader(tmp_path: Path, asked: str) -> None:
    async with AsyncExitStack() as stack:
        leading = await stack.enter_async_context(running_api(tmp_path))
        api = leading if asked == "leader" else await _standby_of(stack, leading, tmp_path)
        await _shop_with_a_log(leading)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with api.http.get(f"{api.url}{LOGS}?follow=true", headers=headers) as answer:
            assert await answer.content.readline() == b"one\n"
            assert leading.leader.open_logs == 1
        await eventually("the node's stream is closed", lambda: leading.leader.open_logs == 0)


@pytest.mark.parametrize("asked", ["leader", "standby"])
@asynchronous
async def test_a_log_that_breaks_off_is_not_taken_for_complete(tmp_path: Path, asked: str) -> None:
    async with AsyncExitStack() as stack:
        leading = await stack.enter_async_context(running_api(tmp_path))
        api = leading if asked == "leader" else await _standby_of(stack, leading, tmp_path)
        await _shop_with_a_log(leading)
        leading.leader.fails_after = 1
        with pytest.raises(aiohttp.ClientError):
            await api.send("GET", LOGS)


@asynchronous
async def test_a_node_without_a_session_is_said_to_be_unreachable(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _shop_with_a_log(api)
        api.leader.seen.clear()
        assert (await api.send("GET", LOGS)).code == "node.unreachable"
        assert (await api.send("POST", SIGNAL, {"signal": "SIGHUP"})).code == "node.unreachable"


@asynchronous
async def test_without_a_leader_the_caller_is_told_and_nobody_loops(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api(tmp_path))
        await _shop_with_a_log(api)
        api.leader.is_leading = False
        api.leader.leader = None
        reply = await api.send("GET", LOGS)
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "cluster.no-leader", "1")
        api.leader.leader = MasterAdvert("m1", api.url)  # it takes itself for a standby of itself
        assert (await api.send("GET", LOGS)).code == "cluster.no-leader"
        api.leader.leader = MasterAdvert("gone", "http://127.0.0.1:1")
        assert (await api.send("POST", SIGNAL, {"signal": "SIGHUP"})).code == "cluster.no-leader"


@pytest.mark.parametrize("asked", ["leader", "standby"])
@asynchronous
async def test_a_signal_reaches_the_node_and_is_recorded(tmp_path: Path, asked: str) -> None:
    async with AsyncExitStack() as stack:
        leading = await stack.enter_async_context(running_api(tmp_path))
        api = leading if asked == "leader" else await _standby_of(stack, leading, tmp_path)
        await _shop_with_a_log(leading)
        reply = await api.send("POST", SIGNAL, {"signal": "SIGHUP"})
        assert (reply.status, reply.document["subject"]) == (200, "shop/web.0"), reply.text
        assert leading.leader.signals == [(WEB_0, "node-a", "SIGHUP")]
        event = (await api.get("/v1/events?limit=1"))["items"][0]
        assert (event["code"], event["node"], event["actor"]) == ("Signalled", "node-a", "admin-test")


@asynchronous
async def test_nodes_show_what_they_have_and_what_is_used(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        (node,) = (await api.get("/v1/nodes"))["items"]
        assert (node["name"], node["state"], node["labels"]) == ("node-a", "ready", {"zone": "a"})
        assert node["capacity"]["cpu_milli"] == 4000
        assert node["used"]["instances"] == 1
        assert node["last_seen"] == api.clock()
        assert await api.get("/v1/nodes/node-a") == node
        assert (await api.send("GET", "/v1/nodes/node-b")).code == "not-found"


LIMITED = """
app: shop
workers:
  - id: web
    replicas: 3
    unit: {managed: {control: {execution: {executable_path: /bin/true}}}}
    limits: {memory: {max_rss: 64MB}, cpu: {max_cores: 1, policy: restart}, io: {weight: 5}, priority: 3}
"""


@asynchronous
async def test_a_worker_tells_of_limits_that_its_nodes_do_not_hold(tmp_path: Path) -> None:
    bare = HostLayout(missing=(("memory", "not delegated"),))
    full = HostLayout(tuple((name, Controller(2, "", frozenset({"weight"}))) for name in ("memory", "cpu", "io")))
    async with running_api(tmp_path) as api:
        await api.deploy(LIMITED)
        for slot, (node, host) in enumerate((("node-a", bare), ("node-b", full), ("node-c", bare))):
            await api.add_node(node, host=host)
            await api.assign(slot, node)
        await api.add_node("node-d")
        (web,) = (await api.get(APP))["workers"]
        assert web["unenforced"] == [
            {"limit": "memory.max_rss", "how": "sampling", "reason": "not delegated", "nodes": ["node-a", "node-c"]},
            {
                "limit": "io.weight",
                "how": "unsupported",
                "reason": "this host has no io controller",
                "nodes": ["node-a", "node-c"],
            },
        ]
        held = {each["limit"]: each for each in (await api.get("/v1/nodes/node-b"))["limits"]}
        assert held["memory.max_rss"] == {"limit": "memory.max_rss", "how": "cgroup-v2", "reason": ""}
        assert held["memory.max_swap"]["how"] == "unsupported"
        assert held["priority"]["reason"] == "a priority below 0 needs root or CAP_SYS_NICE"
        assert (await api.get("/v1/nodes/node-d"))["limits"] == [], "its agent does not tell"
        listed = (await api.get("/v1/apps"))["items"][0]["workers"][0]["unenforced"]
        assert listed == web["unenforced"]


@asynchronous
async def test_a_node_is_cordoned_drained_and_taken_back(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.add_node("node-a")
        verbs = [("cordon", (True, False)), ("drain", (True, True)), ("uncordon", (False, False))]
        for verb, expected in verbs:
            node = (await api.send("POST", f"/v1/nodes/node-a/{verb}")).document
            assert (node["cordoned"], node["draining"]) == expected
        before = await api.revision()
        assert (await api.send("POST", "/v1/nodes/node-a/uncordon", {})).status == 200
        assert await api.revision() == before
        stale = await api.send("POST", "/v1/nodes/node-a/drain", {}, headers={"If-Match": "1"})
        assert stale.status == 412


@asynchronous
async def test_a_drain_has_a_deadline_can_be_forced_and_cancelled(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        plan = await api.get("/v1/nodes/node-a/drain-plan")
        assert [(one["id"], one["leaves"]) for one in plan["instances"]] == [("shop/web.0", False)]
        assert "of shop/web are still to be replaced" in plan["instances"][0]["reason"]
        assert plan["workers"] == [{"id": "shop/web", "namespace": "default", "ready": 1, "lowest_ready": 1}]
        before = await api.revision()
        for body in ({"deadline": 0}, {"deadline": 1e9}, {"deadline": "1h"}, {"cancel": True, "force": True}):
            assert (await api.send("POST", "/v1/nodes/node-a/drain", body)).status == 400
        assert await api.revision() == before
        drain = (await api.send("POST", "/v1/nodes/node-a/drain", {"deadline": 600})).document["drain"]
        assert (drain["assigned"], drain["stopping"], drain["forced"]) == (1, 0, False)
        assert 500 < drain["deadline_at"] - api.clock() <= 600
        assert "of shop/web are still to be replaced" in drain["waits"][0]
        again = (await api.send("POST", "/v1/nodes/node-a/drain", {})).document["drain"]
        assert again["deadline_at"] == drain["deadline_at"], "asking again keeps the deadline"
        assert (await api.send("POST", "/v1/nodes/node-a/drain", {"force": True})).document["drain"]["forced"]
        kept = (await api.send("POST", "/v1/nodes/node-a/drain", {"cancel": True})).document
        assert (kept["cordoned"], kept["draining"], kept["drain"]) == (True, False, None)
        fresh = (await api.send("POST", "/v1/nodes/node-a/drain", {})).document["drain"]
        assert (fresh["deadline_at"], fresh["forced"]) == (None, False)


@pytest.mark.parametrize("state", [NodeState.LOST, NodeState.LEFT])
@asynchronous
async def test_only_a_node_that_is_gone_can_be_removed(tmp_path: Path, state: NodeState) -> None:
    async with running_api(tmp_path) as api:
        await api.add_node("node-a")
        await api.send("POST", "/v1/nodes/node-a/drain")
        assert (await api.send("POST", "/v1/nodes/node-a/remove")).code == "node.present"
        await api.add_node("node-a", state)
        assert (await api.send("POST", "/v1/nodes/node-a/remove")).document["done"]
        assert await api.store.get(keys.node("node-a")) is None
        assert await api.store.get(keys.node_intent("node-a")) is None
        assert (await api.send("POST", "/v1/nodes/node-a/remove")).code == "not-found"


@asynchronous
async def test_the_cluster_tells_leader_masters_and_store(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running_api(tmp_path, store=store) as api:
        cluster = await api.get("/v1/cluster")
        assert (cluster["leader"], cluster["masters"], cluster["term"]) == (None, [], 7)
        assert cluster["store"]["backend"] == "memory"
        assert cluster["revision"] == await api.revision()


@asynchronous
async def test_a_stopping_server_ends_streams_and_watches(tmp_path: Path) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as http:
        async with running_api(tmp_path) as api:
            await _shop_with_a_log(api)
            answer = await http.get(f"{api.url}{LOGS}?follow=true")
            await answer.content.readline()
            socket = await http.ws_connect(f"{api.url}/v1/watch")
            await socket.receive_json()
        async with asyncio.timeout(5.0):
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
