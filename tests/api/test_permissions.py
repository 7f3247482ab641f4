"""Who may call what: the matrix of the route table, and how tokens come into being and end."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hsu_cluster.api.auth import ensure_tokens, new_token
from hsu_cluster.api.cluster import healthz
from hsu_cluster.api.routes import ROUTES, Route, check_routes
from hsu_cluster.client.documents import HealthDocument
from hsu_cluster.planning.access import PERMISSIONS, Permission, Role
from hsu_core.model.errors import Bug, InvalidSettings
from hsu_core.model.records import TokenRecord
from hsu_core.store.base import range_all
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import decode
from tests.api.harness import ADMIN, APP, NODE, SHOP, Api, asynchronous, running_api

EXAMPLES = {"namespace": "default", "app": "shop", "worker": "web", "instance": "web.0", "node": "node-a"}


def _path(route: Route) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: EXAMPLES[match.group(1)], route.path)


async def _status(api: Api, route: Route, token: str | None) -> int:
    if route.answer == "websocket":
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with api.http.request(route.method, api.url + _path(route), headers=headers) as answer:
            return answer.status
    return (await api.send(route.method, _path(route), token=token)).status


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@asynchronous
async def test_each_route_answers_each_role_as_the_table_says(tmp_path: Path, route: Route) -> None:
    async with running_api(tmp_path) as api:
        before = await api.revision()
        for role, token in ((None, None), (None, new_token()), (Role.ADMIN, ADMIN), (Role.NODE, NODE)):
            if role is Role.ADMIN and route.is_change:
                continue  # would change something
            status = await _status(api, route, token)
            held = PERMISSIONS[role] if role else {Permission.PUBLIC}
            if route.is_late_auth and token is None:
                assert status == 101  # authenticates by its first message: see the tests of watch
            elif route.permission in held:
                assert status in (101, 200, 404), (role, status)
            else:
                assert status == (401 if role is None else 403), (role, status)
        assert await api.revision() == before


def test_a_route_without_a_permission_stops_the_start() -> None:
    check_routes(ROUTES)
    open_route = Route("GET", "/open", None, healthz, "open by omission", HealthDocument)  # type: ignore[arg-type]
    with pytest.raises(Bug, match="has no permission"):
        check_routes([*ROUTES, open_route])
    with pytest.raises(Bug, match="twice"):
        check_routes([*ROUTES, replace(ROUTES[0], permission=Permission.READ)])


@asynchronous
async def test_a_token_in_the_query_is_not_heard(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for query in (f"token={ADMIN}", f"access_token={ADMIN}"):
            assert (await api.send("GET", f"/v1/apps?{query}", token=None)).code == "auth.unauthorized"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer " + "x" * 600, ADMIN])
@asynchronous
async def test_a_malformed_authorization_is_refused(tmp_path: Path, header: str) -> None:
    async with running_api(tmp_path) as api:
        reply = await api.send("GET", "/v1/apps", token=None, headers={"Authorization": header})
        assert (reply.status, reply.code) == (401, "auth.unauthorized")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@asynchronous
async def test_a_revoked_token_ends_and_a_new_one_begins(tmp_path: Path) -> None:
    now_s = [0.0]
    async with running_api(tmp_path, monotonic=lambda: now_s[0]) as api:
        assert (await api.send("GET", "/v1/apps")).status == 200
        await api.store.delete(keys.token("admin-test"))
        now_s[0] += 5.0
        assert (await api.send("GET", "/v1/apps")).status == 401
        await ensure_tokens(api.store, tmp_path / "new", tmp_path / "node")
        now_s[0] += 1.0
        assert (await api.send("GET", "/v1/apps", token=(tmp_path / "new").read_text().strip())).status == 200


@asynchronous
async def test_the_first_start_writes_private_files_and_registers_their_hashes(tmp_path: Path) -> None:
    store = MemoryStore()
    admin, node = tmp_path / "keys" / "admin.token", tmp_path / "keys" / "node.token"
    await ensure_tokens(store, admin, node)
    assert stat.S_IMODE(admin.stat().st_mode) == stat.S_IMODE(node.stat().st_mode) == 0o600
    assert admin.read_text().startswith("hsu_")
    assert admin.read_text() != node.read_text()
    page = await range_all(store, keys.TOKENS)
    assert sorted(decode(TokenRecord, entry.value).role for entry in page.entries) == ["admin", "node"]
    assert not any(admin.read_text().strip().encode() in entry.value for entry in page.entries)
    events = await range_all(store, keys.EVENTS)
    before = events.revision
    assert len(events.entries) == 2
    await ensure_tokens(store, admin, node)
    assert (await range_all(store, keys.TOKENS)).revision == before


@asynchronous
async def test_a_file_left_by_a_crash_before_the_registration_is_registered(tmp_path: Path) -> None:
    store = MemoryStore()
    admin, node = tmp_path / "admin", tmp_path / "node"
    admin.touch(mode=0o600)
    admin.write_text(f"{ADMIN}\n")
    await ensure_tokens(store, admin, node)
    assert admin.read_text() == f"{ADMIN}\n"
    async with running_api(tmp_path, store=store) as api:
        assert (await api.send("GET", "/v1/apps")).status == 200


@asynchronous
async def test_a_second_master_makes_no_second_token(tmp_path: Path) -> None:
    store = MemoryStore()
    await ensure_tokens(store, tmp_path / "admin", tmp_path / "node")
    await ensure_tokens(store, tmp_path / "other-admin", tmp_path / "other-node")
    assert not (tmp_path / "other-admin").exists()
    assert len((await range_all(store, keys.TOKENS)).entries) == 2


@pytest.mark.parametrize("fault", ["loose", "empty", "two", "folder"])
@asynchronous
async def test_a_token_file_that_is_unsafe_or_wrong_stops_the_start(tmp_path: Path, fault: str) -> None:
    store, path = MemoryStore(), tmp_path / "admin"
    if fault == "folder":
        path.mkdir(mode=0o700)
    else:
        path.touch(mode=0o600)
        path.write_text({"loose": ADMIN, "empty": "", "two": f"{ADMIN} {ADMIN}"}[fault])
    if fault == "loose":
        path.chmod(0o640)
    with pytest.raises(InvalidSettings, match="token file") as caught:
        await ensure_tokens(store, path, tmp_path / "node")
    assert caught.value.code == "settings.token-file"
    assert (await range_all(store, keys.TOKENS)).entries == ()


@asynchronous
async def test_a_store_that_is_away_does_not_lock_out_known_tokens_and_lets_in_no_others(tmp_path: Path) -> None:
    now_s = [0.0]
    store = MemoryStore()
    async with running_api(tmp_path, store=store, monotonic=lambda: now_s[0]) as api:
        await api.deploy(SHOP)
        await store.close()
        now_s[0] += 30.0
        assert (await api.get(APP))["stale"] is True
        away = await api.send("PUT", APP, SHOP)
        assert (away.status, away.code) == (503, "store.unavailable")
        assert (await api.send("GET", "/readyz", token=None)).status == 503
        assert (await api.send("GET", "/healthz", token=None)).status == 200
        async with api.http.ws_connect(api.url + "/v1/session", headers={"Authorization": f"Bearer {NODE}"}) as session:
            assert await session.receive_str() == "welcome"
        now_s[0] += 36_000.0
        assert (await api.get(APP))["stale_s"] == 36_030.0
        assert (await api.send("GET", APP, token="hsu_" + "x" * 43)).status == 401
        assert (await api.send("GET", APP, token=NODE)).status == 403
