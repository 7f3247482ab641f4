"""The API while its store does not answer: reads are old and say so, writes are refused at once, and it ends well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hsu_cluster.api.outage import Frozen, Mirror, OutageStore, may_be_stale
from hsu_cluster.api.server import SERVICES, STALE_HEADER
from hsu_cluster.cli.session import stale_line
from hsu_cluster.client.client import ClusterClient
from hsu_core.model.errors import StoreUnavailable
from hsu_core.store.base import CALL_TIMEOUT_S, Compare, Entry, Operation, Page, StoreStatus, TxnResult
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from tests.api.harness import ADMIN, APP, NODE, SHOP, Api, asynchronous, eventually, running_api

T = TypeVar("T")

READS = (
    "/v1/apps",
    "/v1/workers",
    "/v1/instances",
    "/v1/endpoints",
    "/v1/routes",
    "/v1/rollouts",
    "/v1/events",
    "/v1/nodes",
    "/v1/nodes/node-a",
    APP,
    f"{APP}/revisions",
    f"{APP}/instances",
)
"""What a person looks at; `/v1/cluster` is looked at apart, its text tells of the outage."""


class AwayStore(MemoryStore):
    """A memory store that does not answer while `is_away`: it hangs until the caller's deadline."""

    is_away = False
    answers_left = 1_000_000

    async def _through(self, call: Awaitable[T], timeout_s: float) -> T:
        if self.is_away and self.answers_left <= 0:
            asyncio.ensure_future(call).cancel()
            await asyncio.sleep(timeout_s)
            raise StoreUnavailable("ask", "the test took the store away")
        self.answers_left -= self.is_away
        return await call

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        """Answer, if not away."""
        return await self._through(super().get(key), timeout_s)

    async def range(self, prefix: str, *, timeout_s: float = CALL_TIMEOUT_S, **options: Any) -> Page:
        """Answer, if not away."""
        return await self._through(super().range(prefix, **options), timeout_s)

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        """Answer, if not away."""
        return await self._through(super().status(), timeout_s)

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Answer, if not away."""
        return await self._through(super().txn(compares, success, failure), timeout_s)

    def go(self, answers_left: int = 0) -> None:
        """Answer only so often any more."""
        self.is_away, self.answers_left = True, answers_left


@asynccontextmanager
async def _shop(folder: Path) -> AsyncIterator[tuple[Api, AwayStore]]:
    store = AwayStore()
    async with running_api(folder, store=store) as api:
        await api.deploy()
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        await api.get("/v1/cluster")
        present = await api.revision()
        mirror = api.app[SERVICES].store.mirror
        await eventually("the mirror has everything", lambda: mirror.revision >= present)
        yield api, store
    store.is_away = False
    await store.close()


@asynchronous
async def test_reads_are_answered_from_what_was_known_and_say_so(tmp_path: Path) -> None:
    async with _shop(tmp_path) as (api, store):
        before = {path: await api.get(path) for path in READS}
        store.go()
        started_s = time.monotonic()
        for path in READS:
            reply = await api.send("GET", path)
            assert reply.status == 200, (path, reply.text)
            document = reply.document
            assert document.pop("stale") is True
            assert document.pop("stale_s") == float(reply.headers[STALE_HEADER])
            assert {**document, "revision": 0} == {**before[path], "revision": 0}, path
        cluster = await api.get("/v1/cluster")
        assert cluster["stale"] is True
        assert "the test took the store away" in cluster["store"]["warnings"][-1]
        assert time.monotonic() - started_s < 10.0, "the outage is waited for once, not by every read"
        assert (await api.send("GET", "/v1/apps", token=NODE)).status == 403
        assert (await api.send("GET", "/v1/apps", token="hsu_" + "x" * 43)).status == 401
        assert (await api.send("GET", f"{APP}x")).status == 404


@asynchronous
async def test_writes_are_refused_within_their_time_and_with_a_hint_when_to_come_back(tmp_path: Path) -> None:
    async with _shop(tmp_path) as (api, store):
        present = await MemoryStore.range(store, keys.CLUSTER, limit=1)
        store.go()
        for method, path, body in (
            ("PUT", APP, SHOP.replace("replicas: 3", "replicas: 4")),
            ("DELETE", APP, None),
            ("POST", f"{APP}/restart", {}),
            ("POST", "/v1/nodes/node-a/drain", {}),
        ):
            started_s = time.monotonic()
            reply = await api.send(method, path, body)
            assert (reply.status, reply.code) == (503, "store.unavailable"), reply.text
            assert int(reply.headers["Retry-After"]) >= 1
            assert time.monotonic() - started_s < 5.0
        assert (await MemoryStore.range(store, keys.CLUSTER, limit=1)).revision == present.revision
        assert (await api.send("GET", "/readyz")).status == 503
        assert (await api.send("GET", "/healthz")).status == 200


@asynchronous
async def test_when_the_store_is_back_answers_are_present_again_without_a_restart(tmp_path: Path) -> None:
    async with _shop(tmp_path) as (api, store):
        store.go()
        assert (await api.get(APP))["stale"] is True
        store.is_away = False
        services = api.app[SERVICES]
        await eventually("the store is found back", lambda: not services.store.is_away)
        document = await api.get(APP)
        assert "stale" not in document
        await api.deploy(SHOP.replace("replicas: 3", "replicas: 5"))
        assert (await api.get(APP))["workers"][0]["replicas"] == 5


@asynchronous
async def test_a_list_of_several_pages_stays_at_one_revision(tmp_path: Path) -> None:
    async with _shop(tmp_path) as (api, store):
        fresh = await api.get("/v1/instances?limit=2")
        store.go()
        first = await api.get("/v1/instances?limit=2")
        second = await api.get(f"/v1/instances?limit=2&page={first['next']}")
        assert [item["id"] for item in first["items"] + second["items"]] == [
            "shop/db.0",
            "shop/web.0",
            "shop/web.1",
            "shop/web.2",
        ]
        assert second["stale"] is True
        assert first["revision"] == second["revision"] == fresh["revision"]


@asynchronous
@pytest.mark.parametrize("answers_left", [1, 2, 3, 5])
async def test_a_store_that_goes_in_the_middle_of_a_read_gives_the_older_whole(
    tmp_path: Path, answers_left: int
) -> None:
    async with _shop(tmp_path) as (api, store):
        await MemoryStore.put(store, keys.node("node-b"), b"")  # so that no reading of this revision is kept
        await MemoryStore.delete(store, keys.node("node-b"))
        present = await MemoryStore.range(store, keys.CLUSTER, limit=1)
        mirror = api.app[SERVICES].store.mirror
        await eventually("the mirror has everything", lambda: mirror.revision >= present.revision)
        store.go(answers_left)
        document = await api.get("/v1/instances")
        assert [item["id"] for item in document["items"]] == ["shop/db.0", "shop/web.0", "shop/web.1", "shop/web.2"]
        assert document["revision"] == present.revision


@asynchronous
async def test_the_client_and_its_line_tell_how_old_it_is(tmp_path: Path) -> None:
    async with _shop(tmp_path) as (api, store), ClusterClient(api.url, ADMIN) as client:
        await client.list_apps()
        assert client.stale_s is None
        store.go()
        assert (await client.list_apps())["items"][0]["app"] == "shop"
        assert client.stale_s is not None
    assert stale_line(0.2) == "as of 1s ago: the store does not answer"
    assert stale_line(754.3) == "as of 12m34s ago: the store does not answer"


@asynchronous
async def test_without_anything_known_a_read_fails_like_a_write() -> None:
    store = AwayStore()
    store.go()
    seen = OutageStore(store)
    with may_be_stale() as staleness, pytest.raises(StoreUnavailable):
        await seen.get("/hsu/a")
    assert staleness.frozen is None
    store.is_away = False
    await store.close()


def test_a_frozen_range_pages_like_a_store() -> None:
    entries = {name: Entry(name, b"", 1, 1, 1) for name in ("/a/1", "/a/2", "/a/3", "/b/1")}
    frozen = Frozen(7, entries, sorted(entries))
    first = frozen.range("/a/", None, 2)
    assert [entry.key for entry in first.entries] == ["/a/1", "/a/2"]
    second = frozen.range("/a/", first.next_key, 2)
    assert ([entry.key for entry in second.entries], second.next_key) == (["/a/3"], None)
    assert frozen.range("/c/", None, 2) == Page((), 7)
    assert frozen.range("/a/", "/b/", 2) == Page((), 7)


def test_a_mirror_is_frozen_once_while_nothing_changes_and_leaves_out_what_only_writes_read() -> None:
    mirror = Mirror()
    assert mirror.freeze() is None
    mirror.load([Entry("/hsu/apps/a", b"1", 1, 1, 1), Entry(keys.IDEMPOTENCY + "x", b"", 1, 1, 1)], 5)
    frozen = mirror.freeze()
    assert frozen is not None
    assert frozen.order == ["/hsu/apps/a"]
    assert mirror.freeze() is frozen
