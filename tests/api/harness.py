"""A running API for tests: real HTTP on a free port, a real store, and a fake of the leader side."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import aiohttp
from aiohttp import web

from hsu_cluster.api.auth import digest
from hsu_cluster.api.server import create_app, serve
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.enforcement import HostLayout
from hsu_core.model.errors import NodeUnreachable, NoLeader
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.log_query import LogQuery
from hsu_core.model.node import Capacity, NodeRecord, NodeState
from hsu_core.model.records import MasterAdvert, TokenRecord
from hsu_core.runtime.settings import Listen, MasterSettings, SqliteStoreSettings, TlsFiles
from hsu_core.store.base import Store
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from hsu_core.wire.frames import Chunk

P = ParamSpec("P")

DEADLINE_S = 30.0
"""Longest run of one test: the machine is shared."""

ADMIN = "hsu_admin-token-of-the-tests-0000000000000000000"
NODE = "hsu_node-token-of-the-tests-00000000000000000000"

SHOP = """\
workers:
  - id: web
    type: managed
    replicas: 3
    unit: {managed: {control: {execution: {executable_path: /bin/sleep, args: ["3600"]}}}}
  - id: db
    type: managed
    unit: {managed: {control: {execution: {executable_path: /bin/sleep, args: ["60"]}}}}
"""

NAMESPACE = "/v1/namespaces/default"
APP = f"{NAMESPACE}/apps/shop"


def asynchronous(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a coroutine test to its end, within the deadline."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


async def eventually(what: str, is_true: Callable[[], Any]) -> None:
    """Wait until `is_true()`; the test's own deadline ends it."""
    try:
        while not is_true():
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        raise AssertionError(f"{what}: not in time") from None


class FakeLeader:
    """The leader side of one master: what it says is set by the test, what it is asked is kept."""

    def __init__(self) -> None:
        self.is_leading = True
        self.term = 7
        self.leader: MasterAdvert | None = None
        self.seen: dict[str, float] = {}
        self.silent: set[str] = set()
        self.logged: dict[InstanceId, list[bytes]] = {}
        self.signals: list[tuple[InstanceId, str, str]] = []
        self.sessions = 0
        self.open_logs = 0
        self.asked_logs: list[LogQuery] = []
        self.is_ended = False
        self.fails_after: int | None = None
        """Number of chunks after which a log breaks off."""

    def last_seen(self) -> Mapping[str, float]:
        return self.seen

    def suspects(self) -> Collection[str]:
        return self.silent

    @asynccontextmanager
    async def logs(self, instance: InstanceId, node: str, query: LogQuery) -> AsyncIterator[AsyncIterator[Chunk]]:
        self._check(node)
        self.asked_logs.append(query)
        self.open_logs += 1
        try:
            yield self._chunks(instance, query.tail, query.is_followed)
        finally:
            self.open_logs -= 1

    async def _chunks(self, instance: InstanceId, tail: int, follow: bool) -> AsyncIterator[Chunk]:
        lines = self.logged.get(instance, [])
        for count, line in enumerate(lines[-tail:] if tail else []):
            if self.fails_after is not None and count >= self.fails_after:
                raise NodeUnreachable("read the log", "the node went away")
            yield Chunk(1, line)
        if follow and not self.is_ended:
            await asyncio.Event().wait()

    async def signal(self, instance: InstanceId, node: str, name: str) -> None:
        self._check(node)
        self.signals.append((instance, node, name))

    def _check(self, node: str) -> None:
        if not self.is_leading:
            raise NoLeader("reach a node", "this master does not lead now")
        if node not in self.seen:
            raise NodeUnreachable(f"reach node {node}", "it has no session")

    async def serve_session(self, request: web.Request) -> web.StreamResponse:
        self.sessions += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("welcome")
        await socket.close()
        return socket


@dataclass(slots=True)
class Reply:
    """An answer: status, headers, and the body as text and (where it is JSON) as a document."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """Return the code of a problem, checking its form."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), (self.status, self.text)
        document = self.document
        assert {"type", "title", "status", "code", "detail", "errors"} <= document.keys()
        assert document["status"] == self.status
        assert document["detail"].startswith("cannot "), document["detail"]
        assert "Traceback" not in self.text
        return str(document["code"])


@dataclass(slots=True)
class Api:
    """A running server and a client session for it."""

    store: Store
    leader: FakeLeader
    settings: MasterSettings
    url: str
    http: aiohttp.ClientSession
    port: int
    clock: Callable[[], float]
    app: web.Application = field(default_factory=web.Application)

    async def send(
        self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN, **options: Any
    ) -> Reply:
        """Send a request; `body` is text (a YAML manifest) or a JSON document."""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        if isinstance(body, str | bytes):
            headers.setdefault("Content-Type", "application/yaml")
            options["data"] = body.encode() if isinstance(body, str) else body
        elif body is not None:
            options["json"] = body
        async with self.http.request(method, self.url + path, headers=headers, **options) as answer:
            return Reply(answer.status, answer.headers, await answer.text(errors="replace"))

    async def get(self, path: str, **options: Any) -> Any:
        """Return the document of a successful GET."""
        reply = await self.send("GET", path, **options)
        assert reply.status == 200, reply.text
        return reply.document

    async def deploy(self, manifest: str = SHOP, path: str = APP, **options: Any) -> Any:
        """Deploy and return the document."""
        reply = await self.send("PUT", path, manifest, **options)
        assert reply.status == 200, reply.text
        return reply.document

    async def revision(self) -> int:
        """Return the store's revision."""
        return (await self.store.range(keys.CLUSTER, limit=1)).revision

    async def add_node(self, name: str, state: NodeState = NodeState.READY, *, host: HostLayout | None = None) -> None:
        """Register a node as the leader would; `host` is what its agent tells of it."""
        capacity = Capacity(4000, 8 * 2**30)
        record = NodeRecord(name, state, (("zone", "a"),), capacity, "linux", "x86_64", host=host)
        await self.store.put(keys.node(name), encode(record))
        self.leader.seen[name] = self.clock()

    async def assign(self, slot: int, node: str, *, worker: str = "web", state: State | None = State.RUNNING) -> None:
        """Assign a slot of the shop as the leader would, and let its agent report `state`."""
        instance = InstanceId("default", "shop", worker, slot)
        app = await self.get(APP)
        order = Assignment(instance, node, 1, app["app_revision"], "hash")
        await self.store.put(keys.assignment(instance), encode(order))
        if state is not None:
            status = InstanceStatus(instance, node, 1, state, True, order.revision, "hash", pid=4711, started_at=5.0)
            await self.store.put(keys.status(instance, node), encode(status))


def settings_for(
    folder: Path, *, host: str = "127.0.0.1", name: str = "m1", tls: TlsFiles | None = None
) -> MasterSettings:
    """Return the settings of a master that listens on a free port."""
    return MasterSettings(
        name=name,
        listen=Listen(host, 0),
        advertise=f"http://{host}:0",
        data_dir=folder,
        store=SqliteStoreSettings(folder / "store.db"),
        admin_token_file=folder / "admin.token",
        node_token_file=folder / "node.token",
        tls=tls,
    )


async def register_tokens(store: Store) -> None:
    """Put the tokens of the tests into the store."""
    for role, token in (("admin", ADMIN), ("node", NODE)):
        record = TokenRecord(f"{role}-test", role, digest(token))
        await store.put(keys.token(record.id), encode(record))


@asynccontextmanager
async def running_api(
    folder: Path,
    *,
    store: Store | None = None,
    leader: FakeLeader | None = None,
    clock: Callable[[], float] = lambda: 1_000_000.0,
    name: str = "m1",
    **options: Any,
) -> AsyncIterator[Api]:
    """Run a server over `store` (default: a new one in memory) until the context is left."""
    async with contextlib.AsyncExitStack() as stack:
        if store is None:
            store = MemoryStore()
            stack.push_async_callback(store.close)
        await register_tokens(store)
        leader = leader or FakeLeader()
        settings = settings_for(folder, name=name)
        app = create_app(store, settings, leader, clock, **options)
        runner = await serve(app, settings)
        stack.push_async_callback(runner.cleanup)
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}"
        if leader.leader is None and leader.is_leading:
            leader.leader = MasterAdvert(name, url)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Api(store, leader, settings, url, http, port, clock, app)
