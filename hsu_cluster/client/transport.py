"""HTTP below the client: connections, failover to the next master, problems back to errors."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from hsu_core.model.errors import Fault, HsuError, InvalidInput

CONNECT_TIMEOUT_S = 5.0
"""A master that does not accept a connection in this time counts as unreachable."""

STALE_HEADER = "X-HSU-Stale-Seconds"
"""How old an answer is that the server gave without its store."""

WATCH_SILENCE_S = 30.0
"""Ping interval of a watch: a dead connection is noticed after it and half as much again."""


class ApiProblem(HsuError):
    """A failure the server reported: `code`, `status`, `faults` and the sentence are the server's."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        faults = [
            Fault(
                path=str(item.get("path", "")),
                text=str(item.get("detail", "")),
                fix=str(item.get("fix", "")),
                file=str(item.get("file", "")),
                line=int(item.get("line") or 0),
                code=str(item.get("code", "")),
            )
            for item in problem.get("errors") or ()
            if isinstance(item, Mapping)
        ]
        super().__init__(
            str(problem.get("what") or problem.get("title") or "finish the request"),
            str(problem.get("why") or ""),
            str(problem.get("fix") or ""),
            code=str(problem.get("code") or "internal"),
            faults=faults,
        )
        self.status = int(problem.get("status") or 500)
        self.detail = str(problem.get("detail") or self.sentence)


class Unreachable(HsuError):
    """No master answered."""

    code = "client.unreachable"
    status = 503


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its status and JSON document."""

    status: int
    document: Any


class Transport:
    """One session over the masters of a cluster; the one that answered last is asked first."""

    def __init__(self, server: str, token: str, ca_file: Path | None, *, timeout_s: float) -> None:
        self._servers = [_base_url(part) for part in server.split(",") if part.strip()]
        if not self._servers:
            raise InvalidInput("find the master", "no server is given", "set --server or HSU_SERVER")
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self.stale_s: float | None = None
        """How old the last answer was, in seconds, if it was given without the store."""

    async def open(self) -> None:
        """Make the session. Raises InvalidInput if the CA file cannot be read."""
        tls: ssl.SSLContext | bool = True
        if self._ca_file is not None:
            try:
                tls = ssl.create_default_context(cafile=str(self._ca_file))
            except (OSError, ssl.SSLError) as error:
                raise InvalidInput(
                    f"read the CA file {self._ca_file}", str(error), "give a PEM file with --ca-file"
                ) from error
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise InvalidInput("use the client", "it is not open", "use it as `async with ClusterClient(...)`")
        return self._session

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Any = None,
        text: str | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        """Send one request and return its answer. Raises ApiProblem or Unreachable."""
        sent: dict[str, str] = dict(headers or {})
        if key is not None:
            sent["Idempotency-Key"] = key
        if text is not None:
            sent["Content-Type"] = "application/yaml"
        failures: list[str] = []
        for base in list(self._servers):
            try:
                async with self._http.request(
                    method,
                    _url(base, path, query),
                    json=body,
                    data=text.encode() if text is not None else None,
                    headers=sent,
                    allow_redirects=False,
                ) as response:
                    if response.status >= 400:
                        raise await _problem(response)
                    answer = Answer(response.status, await response.json())
                    self.stale_s = _seconds(response.headers.get(STALE_HEADER))
                    self._prefer(base)
                    return answer
            except aiohttp.ClientConnectorError as error:  # nothing was sent: any master may be asked
                failures.append(f"{base}: {_why(error)}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if method != "GET" and key is None:
                    raise _lost(method, base, error) from error
                failures.append(f"{base}: {_why(error)}")
        raise _unreachable(failures)

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str | None]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a streamed answer (no total time limit) and give its chunks."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        failures: list[str] = []
        for base in list(self._servers):
            try:
                response = await self._http.get(_url(base, path, query), timeout=timeout, allow_redirects=False)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures.append(f"{base}: {_why(error)}")
                continue
            async with response:
                if response.status >= 400:
                    raise await _problem(response)
                self._prefer(base)
                yield _chunks(response, str(base))
                return
        raise _unreachable(failures)

    @asynccontextmanager
    async def notices(self, path: str, query: Mapping[str, str | None]) -> AsyncIterator[AsyncIterator[Any]]:
        """Open a WebSocket, say who we are, and give the messages as documents."""
        failures: list[str] = []
        for base in list(self._servers):
            try:
                socket = await self._http.ws_connect(_url(base, path, query), heartbeat=WATCH_SILENCE_S)
            except aiohttp.WSServerHandshakeError as error:
                raise ApiProblem(
                    {"status": error.status, "code": "watch.refused", "what": "watch", "why": error.message}
                ) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures.append(f"{base}: {_why(error)}")
                continue
            async with socket:
                self._prefer(base)
                await socket.send_json({"token": self._token})
                yield _messages(socket)
                return
        raise _unreachable(failures)

    def _prefer(self, base: URL) -> None:
        if self._servers[0] != base:
            self._servers.remove(base)
            self._servers.insert(0, base)


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


async def _chunks(response: aiohttp.ClientResponse, base: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(
            f"read on from {base}", _why(error), "the stream was cut: ask again", code="client.cut"
        ) from error


async def _messages(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Any]:
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        document = message.json()
        if "status" in document and "code" in document:
            raise ApiProblem(document)
        yield document


async def _problem(response: aiohttp.ClientResponse) -> ApiProblem:
    """Return the error in an answer; an answer that is none of ours is described."""
    try:
        document = await response.json(content_type=None)
    except (ValueError, aiohttp.ClientError):
        document = None
    if not isinstance(document, dict) or "code" not in document:
        document = {
            "status": response.status,
            "code": "client.not-a-master",
            "what": f"read the answer of {response.url.origin()}",
            "why": f"status {response.status} without a problem document",
            "fix": "does the URL name a master of HSU Cluster?",
        }
    return ApiProblem(document)


def _base_url(text: str) -> URL:
    written = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        url = URL(written)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(
            f"use server {text[:80]!r}", "it is not an http or https URL", "write for example http://127.0.0.1:7070"
        )
    return url


def _url(base: URL, path: str, query: Mapping[str, str | None] | None) -> URL:
    url = base.joinpath(*path.lstrip("/").split("/"))
    return url.with_query({name: part for name, part in (query or {}).items() if part is not None})


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"TLS failed ({error})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no such host ({error.host})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection refused" if isinstance(error.os_error, ConnectionRefusedError) else str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _unreachable(failures: list[str]) -> Unreachable:
    return Unreachable(f"reach {'; '.join(failures)}", "", "is a master running there? set --server or HSU_SERVER")


def _lost(method: str, base: URL, error: BaseException) -> HsuError:
    return HsuError(
        f"tell whether the {method} was done",
        f"{base} was cut off before its answer ({_why(error)})",
        "look at the present state before another try",
        code="client.outcome-unknown",
    )
