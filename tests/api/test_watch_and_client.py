"""The typed client against the real server: documents, failover, errors, streams and change notices."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hsu_cluster.api.events import trim_events
from hsu_cluster.client.client import ClusterClient
from hsu_cluster.client.transport import ApiProblem, Unreachable
from hsu_core.model.errors import HsuError, InvalidInput
from hsu_core.model.ids import InstanceId
from hsu_core.model.log_query import LogQuery
from hsu_core.model.node import NodeState
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from tests.api.harness import ADMIN, NODE, SHOP, Api, asynchronous, running_api


@asynchronous
async def test_the_client_speaks_every_route(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(api.url, ADMIN) as cluster:
        assert (await cluster.plan("default", "shop", SHOP))["unchanged"] is False
        made = await cluster.deploy("default", "shop", SHOP, if_match=0)
        assert made["app_revision"] == 1
        assert (await cluster.get_app("default", "shop"))["revision"] == made["revision"]
        assert [app["app"] for app in (await cluster.list_apps())["items"]] == ["shop"]
        assert len((await cluster.list_workers("default", "shop"))["items"]) == 2
        assert len((await cluster.list_instances("default"))["items"]) == 4
        assert len((await cluster.list_revisions("default", "shop"))["items"]) == 1
        assert (await cluster.scale("default", "shop", "web", 1))["workers"][0]["id"] in ("db", "web")
        for verb in (cluster.restart, cluster.stop, cluster.start):
            assert (await verb("default", "shop", "web", 0))["app"] == "shop"
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        api.leader.logged[InstanceId("default", "shop", "web", 0)] = ["é".encode()[:1], "é".encode()[1:], b"\n"]
        asked = LogQuery(7, since_at=1234.5, until_at=1300.0, is_timed=True)
        assert "".join([text async for text in cluster.logs("default", "shop", "web", 0)]) == "é\n"
        assert "".join([text async for text in cluster.logs("default", "shop", "web", 0, asked)]) == "é\n"
        assert api.leader.asked_logs == [LogQuery(100), asked]
        assert (await cluster.signal("default", "shop", "web", 0, "SIGHUP"))["done"]
        assert (await cluster.list_nodes())["items"][0]["name"] == "node-a"
        assert (await cluster.get_node("node-a"))["state"] == "ready"
        assert (await cluster.cordon("node-a"))["cordoned"]
        assert (await cluster.drain("node-a"))["draining"]
        assert not (await cluster.uncordon("node-a"))["draining"]
        await api.add_node("node-a", NodeState.LEFT)
        assert (await cluster.remove_node("node-a"))["done"]
        assert (await cluster.cluster())["term"] == 7
        assert (await cluster.events(limit=2))["items"][0]["code"] == "NodeRemoved"
        assert (await cluster.remove("default", "shop"))["done"]


@asynchronous
async def test_long_lists_are_read_page_by_page(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(api.url, ADMIN) as cluster:
        await cluster.deploy("default", "shop", SHOP)
        await cluster.scale("default", "shop", "web", 1200)
        listed = await cluster.list_instances("default", "shop")
        assert len(listed["items"]) == 1201
        assert [item["slot"] for item in listed["items"] if item["worker"] == "web"] == list(range(1200))


@asynchronous
async def test_a_problem_becomes_an_error_with_its_code_and_faults(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(api.url, ADMIN) as cluster:
        with pytest.raises(ApiProblem) as caught:
            await cluster.deploy("default", "shop", "workers: [{id: 3}]")
        error: HsuError = caught.value
        assert (error.code, error.status) == ("manifest.invalid", 400)
        assert error.faults
        assert error.faults[0].line == 1
        assert str(error).startswith("cannot use manifest")
        with pytest.raises(ApiProblem) as caught:
            await cluster.get_app("default", "none")
        assert caught.value.code == "not-found"


@asynchronous
async def test_an_unreachable_master_is_explained(tmp_path: Path) -> None:
    async with ClusterClient("http://127.0.0.1:1", ADMIN) as cluster:
        with pytest.raises(Unreachable) as caught:
            await cluster.cluster()
    assert str(caught.value) == (
        "cannot reach http://127.0.0.1:1: connection refused; "
        "is a master running there? set --server or HSU_SERVER [client.unreachable]"
    )
    for wrong in ("ftp://x", "", "http://"):
        with pytest.raises(InvalidInput):
            ClusterClient(wrong)


@asynchronous
async def test_the_next_master_is_asked_when_one_is_gone(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(f"http://127.0.0.1:1,{api.url}", ADMIN) as cluster:
        assert (await cluster.deploy("default", "shop", SHOP))["app_revision"] == 1
        async with aclosing(cluster.watch()) as notices:
            assert (await anext(notices))["kinds"] == []


@asynchronous
async def test_a_write_whose_answer_was_lost_is_applied_once(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        lossy = await asyncio.start_server(_cut_after_forwarding(api.port), "127.0.0.1", 0)
        port = lossy.sockets[0].getsockname()[1]
        async with ClusterClient(f"http://127.0.0.1:{port},{api.url}", ADMIN) as cluster:
            await cluster.restart("default", "shop", "web")
        lossy.close()
        entry = await api.store.get(f"{keys.APPS}default/shop")
        assert entry is not None
        assert entry.version == 2


def _cut_after_forwarding(port: int) -> Any:
    """Return a proxy that passes a request on, waits for its answer, and cuts the connection instead."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(await reader.readuntil(b"\r\n\r\n"))
        back.write(await reader.readuntil(b"}"))
        await back.drain()
        await there.readuntil(b"\r\n\r\n")
        back.close()
        writer.transport.abort()

    return handle


# Watch


@asynchronous
async def test_a_watch_tells_what_changed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, ClusterClient(api.url, ADMIN) as cluster:
        async with aclosing(cluster.watch("default", "shop", ["apps", "instances"])) as notices:
            assert (await anext(notices))["revision"] == await api.revision()
            await api.deploy(path="/v1/namespaces/default/apps/other")
            await api.add_node("node-a")
            made = await api.deploy()
            notice = await anext(notices)
            while not notice["apps"]:  # the first may say "anything": the watch had just begun
                notice = await anext(notices)
            assert notice == {"revision": made["revision"], "kinds": ["apps"], "apps": ["default/shop"]}


@asynchronous
async def test_a_watch_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    now_s = [0.0]
    async with running_api(tmp_path, monotonic=lambda: now_s[0]) as api, ClusterClient(api.url, ADMIN) as cluster:
        async with aclosing(cluster.watch()) as notices:
            await anext(notices)
            now_s[0] += 5.0
            await api.store.delete(keys.token("admin-test"))
            await api.add_node("node-a")
            with pytest.raises(ApiProblem) as caught:
                async for _ in notices:
                    pass
        assert caught.value.code == "auth.unauthorized"


async def _first_words(api: Api, message: str | None, **options: Any) -> dict[str, Any]:
    async with api.http.ws_connect(f"{api.url}/v1/watch", **options) as socket:
        if message is not None:
            await socket.send_str(message)
        document: dict[str, Any] = await socket.receive_json()
        return document


@asynchronous
async def test_a_browser_authenticates_by_its_first_message(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await _first_words(api, f'{{"token": "{ADMIN}"}}'))["kinds"] == []
        for message in ('{"token": "hsu_wrong-wrong"}', "{}", "[", '{"token": 3}', '"x"'):
            assert (await _first_words(api, message))["code"] == "auth.unauthorized", message
        assert (await _first_words(api, f'{{"token": "{NODE}"}}'))["code"] == "auth.forbidden"


@asynchronous
async def test_a_page_of_another_site_cannot_watch(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await _first_words(api, f'{{"token": "{ADMIN}"}}', origin=api.url))["kinds"] == []
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await _first_words(api, None, origin=origin)
            assert caught.value.status == 403


# Bounds


@asynchronous
async def test_the_past_is_trimmed(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running_api(tmp_path, store=store) as api:
        await api.deploy(headers={"Idempotency-Key": "x"})
        assert await trim_events(store, clock=lambda: api.clock() + 3600) == 0
        assert await trim_events(store, clock=lambda: api.clock() + 25 * 3600) == 1
        for number in range(300):
            await store.put(keys.event(1.0, f"{number:04d}"), b"damaged")
        assert [item["code"] for item in (await api.get("/v1/events"))["items"]] == ["Deployed"]
        assert await trim_events(store, events_kept=10) == 291
