"""Calls and streams to etcd's JSON gateway over several endpoints: deadlines, rotation, log-in.

No call is without a deadline. One failed or timed-out call on an endpoint closes every stream on
it: a stopped process (not a dead one) keeps its sockets open, so silence there proves nothing.
What the bodies mean is `etcd_codec`; what errors mean is `etcd_errors`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from hsu_core.model.errors import HsuError, OutcomeUnknown, StoreError, StoreUnavailable
from hsu_core.store.etcd_codec import Json, header_from
from hsu_core.store.etcd_endpoints import AnswerGuard, Endpoints
from hsu_core.store.etcd_errors import (
    FAILED_PRECONDITION,
    GatewayError,
    Unanswered,
    error_from,
    parse_error,
    translate,
)

CALLS_AT_ONCE = 64
"""More than this gains no throughput; the rest waits here instead of timing out at the server."""

ATTEMPT_FLOOR_S = 1.0
"""Least time one endpoint gets, as in Patroni: shorter ones fail a member that is only busy."""

ROUND_PAUSE_S = 0.1
"""Pause after every endpoint has failed once within a call."""

LOGIN_PATH = "/v3/auth/authenticate"

STREAM_BUFFER_BYTES = 64 * 1024 * 1024
"""A message above this is no watch message: values are 256 KiB and responses are fragmented."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of etcd."""

    username: str
    password: str


class EtcdStream:
    """One open streaming answer; messages are JSON objects, one a line."""

    def __init__(self, endpoint: str, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self._response = response
        self._buffer = bytearray()
        self._searched = 0
        self._abort_reason = ""

    async def next(self, timeout_s: float) -> Json:
        """Return the next message's `result`.

        Raises TimeoutError if none comes in time (nothing is lost then), Unanswered if the stream
        has ended, GatewayError if the server reports an error.
        """
        async with asyncio.timeout(timeout_s):
            line = self._take_line()
            while line is None:
                await self._fill()
                line = self._take_line()
        message = json.loads(line)
        if "result" not in message:
            raise error_from(message)
        result: Json = message["result"]
        return result

    def abort(self, reason: str) -> None:
        """End the stream from our side; a reader gets Unanswered."""
        self._abort_reason = self._abort_reason or reason
        self._response.close()

    async def _fill(self) -> None:
        if self._abort_reason:
            raise Unanswered(self._abort_reason, is_sent=False)
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(
                self._abort_reason or f"{self.endpoint}: {error or type(error).__name__}", is_sent=False
            ) from error
        if not chunk:
            raise Unanswered(self._abort_reason or f"{self.endpoint} ended the stream", is_sent=False)
        self._buffer += chunk
        if len(self._buffer) > STREAM_BUFFER_BYTES:
            raise Unanswered(f"{self.endpoint} sent a message above {STREAM_BUFFER_BYTES} bytes", is_sent=False)

    def _take_line(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if line.strip():
                return line


class EtcdTransport:
    """The connections of one client; made inside a running event loop, ended by `close`."""

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials | None = None,
        ssl_context: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints = Endpoints(urls)
        self.guard = AnswerGuard()
        self.is_auth_off = False
        self._credentials = credentials
        self._monotonic = monotonic
        self._token = ""
        self._login_lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._streams: set[EtcdStream] = set()
        self._answered_s: dict[str, float] = {}
        self._is_closed = False
        tls: ssl.SSLContext | bool = ssl_context if ssl_context is not None else True
        no_deadline = aiohttp.ClientTimeout(total=None)
        self._calls = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CALLS_AT_ONCE, ssl=tls), timeout=no_deadline
        )
        self._long_lived = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=tls), timeout=no_deadline)

    async def call(
        self,
        path: str,
        body: Json,
        *,
        what: str,
        timeout_s: float,
        is_write: bool = False,
        is_repeatable: bool = False,
        is_linearizable: bool = True,
    ) -> Json:
        """Post `body` and return the answer; raises the errors of the store protocol.

        A write whose outcome is not known is tried again only if `is_repeatable`, i.e. doing it
        twice is the same as doing it once.
        """
        deadline_s = self._monotonic() + timeout_s
        self.check_open(what)
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(
                what, f"{CALLS_AT_ONCE} earlier calls did not finish in {timeout_s:g} s", "try again; check etcd's load"
            ) from error
        may_repeat = not is_write or is_repeatable
        try:
            return await self._attempt_all(path, body, what, deadline_s, may_repeat, is_linearizable)
        except (GatewayError, Unanswered) as error:
            self.check_open(what)
            raise translate(what, error, is_write=not may_repeat) from error
        except StoreError as error:
            if is_write and not may_repeat:
                raise OutcomeUnknown(what, error.why, error.fix) from error
            raise
        finally:
            self._slots.release()

    async def log_in(self, timeout_s: float, used_token: str | None = None) -> None:
        """Get a token; one log-in at a time. With `used_token` only if that is still the present one."""
        if self._credentials is None:
            return
        async with self._login_lock:
            if used_token is not None and used_token != self._token:
                return
            body = {"name": self._credentials.username, "password": self._credentials.password}
            deadline_s = self._monotonic() + timeout_s
            what = f"log in to etcd as {self._credentials.username}"
            try:
                answer = await self._attempt_all(LOGIN_PATH, body, what, deadline_s, True, False)
                self._token = str(answer.get("token", ""))
                self.is_auth_off = False
            except GatewayError as error:
                if error.code != FAILED_PRECONDITION:
                    raise translate(what, error, is_write=False) from error
                self._token, self.is_auth_off = "", True
            except Unanswered as error:
                raise translate(what, error, is_write=False) from error

    async def server_version(self, timeout_s: float) -> str:
        """Return the version of the current member; `unknown` if it does not tell."""
        endpoint, _ = self.pick()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._calls.get(endpoint + "/version") as response:
                    return str(json.loads(await response.read()).get("etcdserver", "unknown"))
        except (aiohttp.ClientError, OSError, ValueError):
            return "unknown"

    async def open_stream(self, endpoint: str, path: str, body: Json, timeout_s: float) -> EtcdStream:
        """Post `body` and return the streaming answer; the caller ends it by `close_stream`.

        Raises Unanswered or GatewayError.
        """
        headers = self._headers(path) | {"Grpc-Metadata-hasleader": "true"}
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._long_lived.post(endpoint + path, data=json.dumps(body), headers=headers)
                if response.status != 200:
                    raise parse_error(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = f"{endpoint}: {error or f'no stream within {timeout_s:g} s'}"
            raise Unanswered(why, is_sent=False) from error
        stream = EtcdStream(endpoint, response)
        self._streams.add(stream)
        return stream

    def close_stream(self, stream: EtcdStream) -> None:
        """End a stream, on the server too."""
        self._streams.discard(stream)
        stream.abort("the watch was closed")

    async def probe(self, endpoint: str, quiet_s: float, timeout_s: float) -> None:
        """Make sure that an endpoint lives, unless it has answered within `quiet_s`; else fail it."""
        if self._monotonic() - self._answered_s.get(endpoint, 0.0) < quiet_s:
            return
        try:
            await self._post(endpoint, "/v3/maintenance/status", {}, timeout_s)
        except GatewayError:
            pass
        except Unanswered as error:
            self.fail(endpoint, str(error))

    def fail(self, endpoint: str, why: str) -> None:
        """Take an endpoint out for a while and close every stream on it."""
        self.endpoints.fail(endpoint, self._monotonic())
        for stream in [stream for stream in self._streams if stream.endpoint == endpoint]:
            stream.abort(f"a call on the same endpoint failed: {why}")

    def pick(self) -> tuple[str, bool]:
        """Return the endpoint to use now, and whether even that one has failed lately."""
        now_s = self._monotonic()
        endpoint = self.endpoints.order(now_s)[0]
        return endpoint, self.endpoints.is_cooling(endpoint, now_s)

    @property
    def token(self) -> str:
        """Return the present token, empty without one."""
        return self._token

    def check_open(self, what: str) -> None:
        """Raise StoreUnavailable once the transport is closed."""
        if self._is_closed:
            raise StoreUnavailable(what, "the store was closed", "open it again")

    async def close(self) -> None:
        """Close every stream and connection; pending calls fail."""
        self._is_closed = True
        for stream in list(self._streams):
            stream.abort("the store was closed")
        await self._calls.close()
        await self._long_lived.close()

    async def _attempt_all(
        self, path: str, body: Json, what: str, deadline_s: float, may_repeat: bool, is_linearizable: bool
    ) -> Json:
        problem: GatewayError | Unanswered | HsuError = Unanswered("there was no time left", is_sent=False)
        untried = self.endpoints.order(self._monotonic())
        has_logged_in = path == LOGIN_PATH
        while (remaining_s := deadline_s - self._monotonic()) > 0:
            if not untried:
                await asyncio.sleep(min(ROUND_PAUSE_S, remaining_s))
                untried = self.endpoints.order(self._monotonic())
                continue
            endpoint = untried.pop(0)
            attempt_s = min(remaining_s, max(ATTEMPT_FLOOR_S, remaining_s / (len(untried) + 1)))
            mark = self.guard.mark() if is_linearizable else None
            token = self._token
            try:
                answer = await self._post(endpoint, path, body, attempt_s)
                self.guard.check(what, header_from(answer), mark, endpoint)
                self.endpoints.succeed(endpoint)
                return answer
            except Unanswered as error:
                self.fail(endpoint, str(error))
                problem = error
                if error.is_sent and not may_repeat:
                    raise
            except GatewayError as error:
                problem = error
                if error.is_token_stale and self._credentials is not None and not has_logged_in:
                    has_logged_in = True
                    await self.log_in(max(deadline_s - self._monotonic(), 0.001), token)
                    untried.insert(0, endpoint)
                    continue
                if not error.is_for_another or not (may_repeat or error.is_surely_not_done):
                    raise
                self.fail(endpoint, str(error))
            except StoreError as error:
                problem = error
                self.fail(endpoint, str(error))
                if not may_repeat:
                    raise
        raise problem

    async def _post(self, endpoint: str, path: str, body: Json, timeout_s: float) -> Json:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._calls.post(
                    endpoint + path, data=json.dumps(body), headers=self._headers(path)
                ) as response:
                    raw, status = await response.read(), response.status
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unanswered(f"{endpoint}: {error}", is_sent=False) from error
        except TimeoutError as error:
            raise Unanswered(f"{endpoint} did not answer within {timeout_s:.1f} s", is_sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(f"{endpoint}: {error or type(error).__name__}", is_sent=True) from error
        self._answered_s[endpoint] = self._monotonic()
        if status != 200:
            raise parse_error(status, raw)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise GatewayError(status, -1, f"an answer that is not JSON: {raw[:80]!r}") from error
        if "error" in answer:
            raise error_from(answer, status)
        unwrapped: Json = answer.get("result", answer)
        return unwrapped

    def _headers(self, path: str) -> dict[str, str]:
        """Return the headers of a request; a log-in goes without the old token, which 3.4 would refuse."""
        headers = {"Content-Type": "application/json"}
        if self._token and path != LOGIN_PATH:
            headers["Authorization"] = self._token
        return headers
