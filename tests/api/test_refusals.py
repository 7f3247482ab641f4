"""Bad input of each kind: a 4xx with a stable code, and the store has not moved."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from hsu_cluster.api.connections import Connections, LimitedSite
from hsu_cluster.api.server import create_app, refuse_open_listen, serve, tls_context
from hsu_core.model.errors import InvalidSettings
from hsu_core.runtime.settings import Listen, TlsFiles
from hsu_core.store.memory import MemoryStore
from tests.api.harness import (
    ADMIN,
    APP,
    NAMESPACE,
    SHOP,
    Api,
    FakeLeader,
    Reply,
    asynchronous,
    register_tokens,
    running_api,
    settings_for,
)

Case = tuple[str, str, Any, dict[str, str], int, str]

JSON = {"Content-Type": "application/json"}
BOMB = "a: &a [1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n" + "".join(
    f"{chr(99 + n)}: &{chr(99 + n)} [{','.join(['*' + chr(98 + n)] * 8)}]\n" for n in range(8)
)

CASES: dict[str, Case] = {
    "no workers": ("PUT", APP, "app: shop\n", {}, 400, "manifest.invalid"),
    "empty body": ("PUT", APP, b"", {}, 400, "input.body"),
    "not YAML": ("PUT", APP, "a: [", {}, 400, "manifest.invalid"),
    "not UTF-8": ("PUT", APP, b"workers: \xff\xfe", {}, 400, "manifest.invalid"),
    "alias bomb": ("PUT", APP, BOMB, {}, 400, "manifest.invalid"),
    "deep nesting": ("PUT", APP, "[" * 5000, {}, 400, "manifest.invalid"),
    "duplicate key in JSON": ("PUT", APP, '{"workers": [], "workers": []}', JSON, 400, "manifest.invalid"),
    "NaN in JSON": ("PUT", APP, '{"workers": NaN}', JSON, 400, "manifest.invalid"),
    "other app in the file": ("PUT", APP, f"app: other\n{SHOP}", {}, 400, "manifest.invalid"),
    "environment in the file": ("PUT", APP, SHOP.replace("3600", "${env:HOME}"), {}, 400, "manifest.invalid"),
    "bad namespace": ("PUT", "/v1/namespaces/a.b/apps/shop", SHOP, {}, 400, "input.name"),
    "bad app": ("PUT", f"{NAMESPACE}/apps/a%20b", SHOP, {}, 400, "input.name"),
    "path tricks": ("GET", f"{NAMESPACE}/apps/..%2f..%2ftokens", None, {}, 400, "input.name"),
    "other type": ("PUT", APP, SHOP, {"Content-Type": "text/html"}, 415, "request.media-type"),
    "compressed": ("PUT", APP, b"\x1f\x8b", {"Content-Encoding": "gzip"}, 415, "request.media-type"),
    "bad flag": ("PUT", f"{APP}?dry_run=maybe", SHOP, {}, 400, "input.query"),
    "unknown query": ("PUT", f"{APP}?dryrun=true", SHOP, {}, 400, "input.query"),
    "query twice": ("GET", "/v1/apps?limit=1&limit=2", None, {}, 400, "input.query"),
    "app without namespace": ("GET", "/v1/instances?app=shop", None, {}, 400, "input.query"),
    "limit too high": ("GET", "/v1/apps?limit=501", None, {}, 400, "input.query"),
    "limit zero": ("GET", "/v1/apps?limit=0", None, {}, 400, "input.query"),
    "page of a list": ("GET", "/v1/apps?page=WzEsMl0=", None, {}, 400, "input.query"),
    "page in the future": ("GET", "/v1/apps?page=WzEwMDAwMDAwLCJhIl0=", None, {}, 400, ""),
    "scale without number": ("POST", f"{APP}/workers/web/scale", {}, {}, 400, "input.body"),
    "scale to text": ("POST", f"{APP}/workers/web/scale", {"replicas": "3"}, {}, 400, "input.body"),
    "scale to true": ("POST", f"{APP}/workers/web/scale", {"replicas": True}, {}, 400, "input.body"),
    "scale below zero": ("POST", f"{APP}/workers/web/scale", {"replicas": -1}, {}, 400, "input.replicas"),
    "scale too high": ("POST", f"{APP}/workers/web/scale", {"replicas": 10**6}, {}, 400, "input.replicas"),
    "scale of nothing": ("POST", f"{APP}/workers/wob/scale", {"replicas": 1}, {}, 404, "not-found.worker"),
    "unknown field": ("POST", f"{APP}/stop", {"wörker": "web"}, {}, 400, "input.body"),
    "list as body": ("POST", f"{APP}/stop", [], {}, 400, "input.body"),
    "slot alone": ("POST", f"{APP}/stop", {"slot": 1}, {}, 400, "input.body"),
    "slot below zero": ("POST", f"{APP}/stop", {"worker": "web", "slot": -1}, {}, 400, "input.body"),
    "slot beyond": ("POST", f"{APP}/stop", {"worker": "web", "slot": 3}, {}, 404, "not-found.instance"),
    "stop of nothing": ("POST", f"{NAMESPACE}/apps/none/stop", {}, {}, 404, "not-found"),
    "unknown verb": ("POST", f"{APP}/explode", {}, {}, 404, "not-found"),
    "unknown path": ("GET", "/v2/apps", None, {}, 404, "not-found"),
    "wrong method": ("PATCH", APP, {}, {}, 405, "request.method"),
    "bad instance": ("GET", f"{APP}/instances/web/logs", None, {}, 400, "input.target"),
    "unknown instance": ("GET", f"{APP}/instances/web.9/logs", None, {}, 404, "not-found"),
    "unplaced instance": ("GET", f"{APP}/instances/web.0/logs", None, {}, 409, "conflict.not-placed"),
    "bad tail": ("GET", f"{APP}/instances/web.0/logs?tail=x", None, {}, 400, "input.query"),
    "bad signal": ("POST", f"{APP}/instances/web.0/signal", {"signal": "9; reboot"}, {}, 400, "input.signal"),
    "unknown node": ("POST", "/v1/nodes/node-x/drain", {}, {}, 404, "not-found"),
    "bad node": ("GET", "/v1/nodes/a%2fb", None, {}, 400, "input.name"),
    "ready node removed": ("POST", "/v1/nodes/node-a/remove", {}, {}, 409, "node.present"),
    "foreign host": ("GET", "/v1/apps", None, {"Host": "evil.example"}, 403, "auth.host"),
    "watch without upgrade": ("GET", "/v1/watch", None, {}, 400, "input.invalid"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@asynchronous
async def test_bad_input_is_refused_and_moves_nothing(tmp_path: Path, case: Case) -> None:
    method, path, body, headers, status, code = case
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.add_node("node-a")
        before = await api.revision()
        reply = await api.send(method, path, body, headers=headers)
        assert (reply.status, reply.code) == (status, code or reply.code), reply.text
        assert await api.revision() == before


@asynchronous
async def test_faults_of_a_manifest_have_path_line_and_remedy(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        reply = await api.send("PUT", APP, SHOP.replace("replicas: 3", "replicas: many\n    replicaz: 2"))
        errors = reply.document["errors"]
        assert len(errors) >= 2
        assert {error["line"] for error in errors} == {4, 5}
        assert all(error["detail"] for error in errors)
        assert "web" in errors[0]["path"]


@asynchronous
async def test_a_manifest_that_does_not_fit_into_the_store_is_refused(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        before = await api.revision()
        big = f"{SHOP}    files: {{etc/big: {{content: {'x' * 300_000}}}}}\n"
        reply = await api.send("PUT", APP, big)
        assert (reply.status, reply.code) == (413, "limit.revision"), reply.text
        assert await api.revision() == before


@pytest.mark.parametrize("is_chunked", [False, True])
@asynchronous
async def test_a_body_above_one_mebibyte_is_refused(tmp_path: Path, is_chunked: bool) -> None:
    async with running_api(tmp_path) as api:

        async def parts() -> Any:
            for _ in range(17):
                yield b"#" * 65536

        body: Any = parts() if is_chunked else b"#" * (2**20 + 1)
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/yaml"}
        async with api.http.put(api.url + APP, data=body, headers=headers) as answer:
            reply = Reply(answer.status, answer.headers, await answer.text())
        assert (reply.status, reply.code) == (413, "limit.body")


async def _raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("flood", "status"),
    [
        (b"X-Big: " + b"a" * 20_000 + b"\r\n", 431),
        (b"".join(b"X-%d: a\r\n" % number for number in range(500)), 431),
        (b"".join(b"X-%d: %s\r\n" % (number, b"a" * 4000) for number in range(6)), 431),
        (b"broken header\r\n", 400),
    ],
    ids=["one long header", "many headers", "long in sum", "no colon"],
)
@asynchronous
async def test_a_flood_of_headers_is_refused_with_a_problem(tmp_path: Path, flood: bytes, status: int) -> None:
    async with running_api(tmp_path) as api:
        head = b"GET /v1/apps HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        answer = await _raw(api.port, head + flood + b"\r\n")
        assert answer.split(b" ")[1] == b"%d" % status, answer[:200]
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert document["status"] == status
        assert document["code"] == {431: "limit.headers", 400: "input.invalid"}[status]


async def _with_limits(folder: Path, limits: Connections, act: Callable[[int], Awaitable[None]]) -> None:
    store = MemoryStore()
    await register_tokens(store)
    settings = settings_for(folder)
    runner = await serve(create_app(store, settings, FakeLeader()), settings)
    try:
        (site,) = runner.sites
        assert isinstance(site, LimitedSite)
        site.limits.header_timeout_s = limits.header_timeout_s
        site.limits.open_limit = limits.open_limit
        await act(runner.addresses[0][1])
    finally:
        await runner.cleanup()
        await store.close()


@asynchronous
async def test_a_connection_that_never_finishes_its_headers_is_closed(tmp_path: Path) -> None:
    async def act(port: int) -> None:
        assert await _raw(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n") == b""

    await _with_limits(tmp_path, Connections(header_timeout_s=0.05), act)


@asynchronous
async def test_one_connection_too_many_is_closed_and_there_is_room_again_later(tmp_path: Path) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

    async def act(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        second_reader, second_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await second_reader.read() == b""
        second_writer.close()
        writer.close()
        await writer.wait_closed()
        while not await _answers(port, request):
            await asyncio.sleep(0.005)

    await _with_limits(tmp_path, Connections(open_limit=1), act)


async def _answers(port: int, request: bytes) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return bool(await reader.read(1))
    except ConnectionError:
        return False
    finally:
        writer.close()


def test_an_address_that_others_reach_needs_tls(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "", "192.0.2.1", "::", "node.example"):
        with pytest.raises(InvalidSettings, match="tls is not set") as caught:
            refuse_open_listen(replace(settings_for(tmp_path), listen=Listen(host, 0)))
        assert caught.value.code == "settings.tls"
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        refuse_open_listen(replace(settings_for(tmp_path), listen=Listen(host, 0)))


@asynchronous
async def test_tls_is_spoken_from_version_1_2_on(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    settings = settings_for(tmp_path, tls=TlsFiles(chain, key))
    offered = tls_context(settings)
    assert offered is not None
    assert offered.minimum_version is ssl.TLSVersion.TLSv1_2
    store = MemoryStore()
    runner = await serve(create_app(store, settings, FakeLeader()), settings)
    try:
        port = runner.addresses[0][1]
        context = ssl.create_default_context()
        authority.configure_trust(context)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        await runner.cleanup()


@asynchronous
async def test_a_bug_shows_an_id_and_no_traceback(tmp_path: Path) -> None:
    class Broken(MemoryStore):
        async def get(self, key: str, *, timeout_s: float = 5.0) -> Any:
            raise ZeroDivisionError("a secret detail")

    async with running_api(tmp_path, store=Broken()) as api:
        reply = await api.send("DELETE", APP)
        assert (reply.status, reply.code) == (500, "internal")
        assert "secret" not in reply.text
        assert "ZeroDivision" not in reply.text


async def _metric(api: Api, line: str) -> bool:
    return line in (await api.send("GET", "/metrics")).text


@asynchronous
async def test_requests_are_counted_by_route_and_status(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.send("GET", "/v1/apps")
        await api.send("GET", f"{NAMESPACE}/apps/one", token=None)
        await api.send("GET", "/no/such/path")
        assert await _metric(api, 'hsu_api_requests_total{method="GET",route="/v1/apps",status="200"} 1.0')
        route = "/v1/namespaces/{namespace}/apps/{app}"
        assert await _metric(api, f'hsu_api_requests_total{{method="GET",route="{route}",status="401"}} 1.0')
        assert await _metric(api, 'hsu_api_requests_total{method="any",route="unmatched",status="404"} 1.0')
