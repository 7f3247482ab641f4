"""One request as handlers see it: checked names, checked body, and the services behind the API.

Everything that comes from outside is checked here, before a handler decides anything, so that bad input
never reaches the store. Must not know a route or a resource.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import types
import typing
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from hsu_cluster.api.auth import Principal, TokenBook
from hsu_cluster.api.metrics import ApiMetrics
from hsu_cluster.api.notices import NoticeHub
from hsu_cluster.api.outage import OutageStore
from hsu_cluster.api.peers import Peers
from hsu_cluster.api.problem import TooSlow, UnsupportedMedia, too_large_body
from hsu_cluster.api.reading import Reader
from hsu_cluster.ports import LeaderPort
from hsu_core.model.errors import Fault, InvalidInput, NotFound
from hsu_core.model.ids import SLOT_LIMIT, AppId, InstanceId, is_name, is_node_name
from hsu_core.runtime.settings import MasterSettings
from hsu_core.store.base import PAGE_LIMIT
from hsu_core.wire.yaml_text import load_document

BODY_LIMIT_BYTES = 2**20
"""Largest body; a manifest beyond it would not fit into a store transaction either."""

BODY_TIMEOUT_S = 10.0
"""A body of 1 MiB takes this long at 100 kB/s; a slower sender holds a connection for nothing."""

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
JSON_TYPE = "application/json"

T = TypeVar("T")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REVISION = re.compile(r'"?(\d{1,18})"?')


@dataclass(slots=True)
class Services:
    """What handlers work with; one per server."""

    store: OutageStore
    settings: MasterSettings
    leader: LeaderPort
    clock: Callable[[], float]
    reader: Reader
    tokens: TokenBook
    metrics: ApiMetrics
    peers: Peers
    notices: NoticeHub
    openapi: bytes = b""
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Names accepted in the Host header and in Origin; empty: all."""

    streams: set[asyncio.Task[Any]] = field(default_factory=set)
    """Requests that go on until their reader ends; cancelled when the server stops."""

    @contextmanager
    def endless(self) -> Iterator[None]:
        """Mark the running request as one that the stop of the server has to end."""
        task = asyncio.current_task()
        assert task is not None
        self.streams.add(task)
        try:
            yield
        finally:
            self.streams.discard(task)

    async def end_streams(self, _: web.Application) -> None:
        """Cancel the requests that would not end by themselves (an aiohttp shutdown signal)."""
        for task in self.streams:
            task.cancel()


@dataclass(frozen=True, slots=True)
class Answer:
    """A document to send as JSON."""

    document: Any
    status: int = 200


@dataclass(slots=True)
class Call:
    """A request that passed authentication and authorisation."""

    request: web.Request
    services: Services
    principal: Principal
    is_streaming: bool = False
    """Set once an answer has begun: a failure after that can only be shown by cutting the connection."""

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the head of a streamed answer."""
        await response.prepare(self.request)
        self.is_streaming = True

    # Path

    @property
    def namespace(self) -> str:
        """Return the namespace of the path. Raises InvalidInput."""
        return self._name("namespace")

    @property
    def app(self) -> AppId:
        """Return the app of the path. Raises InvalidInput."""
        return AppId(self.namespace, self._name("app"))

    @property
    def worker(self) -> str:
        """Return the worker of the path. Raises InvalidInput."""
        return self._name("worker")

    @property
    def node(self) -> str:
        """Return the node of the path. Raises InvalidInput."""
        name = self.request.match_info["node"]
        if not is_node_name(name):
            raise _bad_name("node", name)
        return name

    @property
    def instance(self) -> InstanceId:
        """Return the instance of the path, its last part being `WORKER.SLOT`. Raises InvalidInput."""
        text = self.request.match_info["instance"]
        worker, _, slot = text.rpartition(".")
        if not is_name(worker) or re.fullmatch(r"[0-9]{1,5}", slot) is None or int(slot) >= SLOT_LIMIT:
            raise InvalidInput(f"read instance {text[:80]!r}", "", "write WORKER.SLOT, as web.2", code="input.target")
        app = self.app
        return InstanceId(app.namespace, app.app, worker, int(slot))

    def _name(self, part: str) -> str:
        name = self.request.match_info[part]
        if not is_name(name):
            raise _bad_name(part, name)
        return name

    # Query and headers

    def query(self, name: str) -> str | None:
        """Return a query parameter, or None."""
        return self.request.query.get(name)

    def query_name(self, name: str) -> str | None:
        """Return a query parameter that names something. Raises InvalidInput."""
        found = self.query(name)
        if found is not None and not is_name(found):
            raise _bad_name(name, found)
        return found

    def query_flag(self, name: str) -> bool:
        """Return a query parameter that is true or false (not there: false). Raises InvalidInput."""
        found = self.query(name)
        if found not in (None, "true", "false", "1", "0"):
            raise _bad_query(name, f"{found[:40]!r} is neither true nor false", "write true or false")
        return found in ("true", "1")

    def query_number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a query parameter that is a number from `low` to `high`. Raises InvalidInput."""
        found = self.query(name)
        if found is None:
            return default
        if re.fullmatch(r"[0-9]{1,9}", found) is None or not low <= int(found) <= high:
            raise _bad_query(name, f"{found[:40]!r} is not a number from {low} to {high}", "give such a number")
        return int(found)

    def query_time(self, name: str) -> float | None:
        """Return a query parameter that is a time in seconds since 1970, or None. Raises InvalidInput."""
        found = self.query(name)
        if found is None:
            return None
        if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", found) is None:
            raise _bad_query(name, f"{found[:40]!r} is not a time in seconds since 1970", "give such a number")
        return float(found)

    @property
    def if_match(self) -> int | None:
        """Return the revision of the If-Match header (0: must not exist), None without one. Raises InvalidInput."""
        header = self.request.headers.get("If-Match")
        if header is None:
            return None
        match = _REVISION.fullmatch(header.strip())
        if match is None:
            raise InvalidInput(
                "read the If-Match header", f"{header[:40]!r} is not a revision",
                "send the `revision` of the object as you read it", code="input.if-match",
            )  # fmt: skip
        return int(match.group(1))

    @property
    def idempotency_key(self) -> str | None:
        """Return the Idempotency-Key header, or None. Raises InvalidInput."""
        header = self.request.headers.get("Idempotency-Key")
        if header is not None and _KEY.fullmatch(header) is None:
            raise InvalidInput(
                "read the Idempotency-Key header", "it is not 1 to 255 printable ASCII characters",
                "send a random text, a new one for each change", code="input.idempotency-key",
            )  # fmt: skip
        return header

    # Body

    async def read_text(self, kinds: frozenset[str]) -> bytes:
        """Return the body, which must be of one of `kinds`. Raises UnsupportedMedia, TooLarge, TooSlow."""
        request = self.request
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("read the body", "it is compressed", "send it as it is")
        if request.can_read_body and request.content_type not in kinds:
            raise UnsupportedMedia(
                "read the body", f"its type is {request.content_type[:80]}",
                f"send Content-Type: {' or '.join(sorted(kinds))}",
            )  # fmt: skip
        if (request.content_length or 0) > BODY_LIMIT_BYTES:
            raise too_large_body(BODY_LIMIT_BYTES)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await request.read()
        except TimeoutError:
            raise TooSlow("read the body", f"it did not arrive in {BODY_TIMEOUT_S:g} s", "send it again") from None

    async def read_body(self, shape: type[T]) -> T:
        """Return the JSON body, checked against a TypedDict; an empty one counts as `{}`. Raises InvalidInput."""
        text = await self.read_text(frozenset({JSON_TYPE}))
        data = load_document(text, "body.json").data if text.strip() else {}
        return typing.cast(T, check_body(data, shape))


def check_body(data: Any, shape: type[Any]) -> Any:
    """Return `data` if it fits the TypedDict. Raises InvalidInput with every fault."""
    if not isinstance(data, dict):
        raise InvalidInput("use the body", "it is not a JSON object", "send an object", code="input.body")
    hints = typing.get_type_hints(shape)
    required: frozenset[str] = shape.__required_keys__
    faults = [
        Fault(path=name, text="is not known here", fix=f"known are {', '.join(sorted(hints))}", code="input.unknown")
        for name in data
        if name not in hints
    ]
    faults += [Fault(path=name, text="is missing", code="input.missing") for name in sorted(required - data.keys())]
    for name, kind in hints.items():
        if name in data and not _fits(data[name], kind):
            faults.append(Fault(path=name, text=f"is not {_named(kind)}", code="input.type"))
    if faults:
        text = "; ".join(f"{fault.path[:80]} {fault.text}" for fault in faults[:5])
        raise InvalidInput("use the body", text, code="input.body", faults=faults)
    return data


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, item) for item in typing.get_args(kind))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _named(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        kind, "of the right type"
    )


def _bad_name(what: str, name: str) -> InvalidInput:
    return InvalidInput(
        f"use {name[:80]!r} as the name of a {what}", "", "use letters, digits, `_` and `-`, 1 to 64 of them",
        code="input.name",
    )  # fmt: skip


def _bad_query(name: str, why: str, fix: str) -> InvalidInput:
    return InvalidInput(f"use query parameter {name}", why, fix, code="input.query")


def no_such_app(app: AppId) -> NotFound:
    """Return the error for an app that does not exist."""
    return NotFound(f"find app {app}", f"namespace {app.namespace} has none of this name", "deploy it first")


# Paging


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list: at `revision` (None: now), after the item called `after`, at most `limit` items."""

    limit: int
    revision: int | None = None
    after: tuple[str, ...] = ()


def page_request(call: Call) -> PageRequest:
    """Return the part of a list that `limit` and `page` ask for. Raises InvalidInput."""
    limit = call.query_number("limit", PAGE_LIMIT, 1, PAGE_LIMIT)
    token = call.query("page")
    if token is None:
        return PageRequest(limit)
    try:
        revision, *after = json.loads(base64.urlsafe_b64decode(token.encode("ascii", "strict")[:1024]))
    except (ValueError, TypeError, binascii.Error):
        revision, after = None, []
    is_whole = isinstance(revision, int) and 0 < revision < 2**63 and all(isinstance(part, str) for part in after)
    if not is_whole or not after:
        raise _bad_query("page", "it is not the `next` of a list", "ask for the first page, without it")
    return PageRequest(limit, revision, tuple(after))


def list_document(
    items: Sequence[T],
    name: Callable[[T], tuple[str, ...]],
    page: PageRequest,
    revision: int,
    build: Callable[[T], Any] = lambda item: item,
) -> dict[str, Any]:
    """Return a page of `items`, sorted by `name`; `build` makes the document of those that are shown."""
    start = bisect_right(items, page.after, key=name) if page.after else 0
    shown = items[start : start + page.limit]
    is_more = start + page.limit < len(items)
    return {
        "items": [build(item) for item in shown],
        "revision": revision,
        "next": page_token(revision, name(shown[-1])) if is_more else None,
    }


def page_token(revision: int, after: tuple[str, ...]) -> str:
    """Return the `page` that goes on after an item, at the same revision."""
    return base64.urlsafe_b64encode(json.dumps([revision, *after]).encode()).decode()
