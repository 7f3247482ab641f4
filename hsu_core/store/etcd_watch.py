"""A watch on etcd that goes on over lost connections: no event is missed, none comes twice.

`WatchCursor` is the pure part: it decides what a message means and where to resume. Around it,
`EtcdWatch` connects, waits for `created` under a deadline, and moves to another endpoint when
anything fails. etcd does not close the connection when it cancels a watch, so that is looked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from hsu_core.model.errors import Unauthorized
from hsu_core.store.base import CALL_TIMEOUT_S, Event, Resync, Watch, WatchBatch
from hsu_core.store.etcd_codec import WatchMessage, watch_from, watch_to
from hsu_core.store.etcd_errors import PERMISSION_DENIED, UNKNOWN, GatewayError, Unanswered, translate
from hsu_core.store.etcd_transport import EtcdStream, EtcdTransport

CREATED_TIMEOUT_S = 3.0
"""A stopped member accepts the connection and says nothing; a busy one has needed a second."""

QUIET_S = 5.0
"""A stream that is silent this long has its endpoint probed, unless a call just answered there."""

PROBE_TIMEOUT_S = 2.0
RECONNECT_PAUSE_S = 0.1
RECONNECT_PAUSE_LIMIT_S = 1.0
"""Pause between rounds when every endpoint has failed, doubling, with jitter."""

LOG_INS_IN_A_ROW = 2
"""Refused this often with a fresh token, the user really may not watch."""


class WatchCursor:
    """Where a watch stands: the next revision to deliver and the fragments of one not complete yet."""

    def __init__(self, after_revision: int) -> None:
        self.next_revision = after_revision + 1
        self._fragments: list[Event] = []

    def reconnect(self) -> int:
        """Forget half a message and return the revision to start from."""
        self._fragments.clear()
        return self.next_revision

    def take(self, message: WatchMessage) -> WatchBatch | Resync | None:
        """Return what a message means for the reader, None if nothing (yet)."""
        if message.compact_revision:
            return Resync(message.compact_revision)
        if message.is_canceled and "compacted" in message.cancel_reason:
            return Resync(self.next_revision)
        self._fragments += (event for event in message.events if event.entry.mod_revision >= self.next_revision)
        if message.is_fragment:
            return None
        events, self._fragments = tuple(self._fragments), []
        if events:
            self.next_revision = events[-1].entry.mod_revision + 1
            return WatchBatch(events[-1].entry.mod_revision, events)
        if message.events or message.is_created or message.is_canceled:
            return None
        if message.header.revision < self.next_revision:
            return None
        self.next_revision = message.header.revision + 1
        return WatchBatch(message.header.revision, ())


class EtcdWatch:
    """The iterator of one watch; made by `open_watch`."""

    def __init__(self, transport: EtcdTransport, prefix: str, after_revision: int) -> None:
        self._transport = transport
        self._prefix = prefix
        self._what = f"watch {prefix!a}"
        self._cursor = WatchCursor(after_revision)
        self._stream: EtcdStream | None = None
        self._log_ins = 0
        self._is_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch | Resync:
        if self._is_ended:
            raise StopAsyncIteration
        pause_s = RECONNECT_PAUSE_S
        while True:
            self._transport.check_open(self._what)
            endpoint, is_cooling = self._transport.pick()
            try:
                if self._stream is None:
                    if is_cooling:
                        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                        pause_s = min(pause_s * 2, RECONNECT_PAUSE_LIMIT_S)
                    message = await self._connect(endpoint)
                else:
                    endpoint = self._stream.endpoint
                    message = watch_from(await self._stream.next(QUIET_S))
                item = self._take(message)
            except TimeoutError:
                await self._transport.probe(endpoint, QUIET_S, PROBE_TIMEOUT_S)
            except Unanswered as error:
                self.close()
                self._transport.fail(endpoint, str(error))
            except GatewayError as error:
                await self._refused(endpoint, error)
            else:
                if isinstance(item, Resync):
                    self._is_ended = True
                    self.close()
                if item is not None:
                    self._log_ins = 0
                    return item

    def close(self) -> None:
        """End the stream, on the server too; a second call does nothing."""
        if self._stream is not None:
            self._transport.close_stream(self._stream)
            self._stream = None

    async def _connect(self, endpoint: str) -> WatchMessage:
        body = watch_to(self._prefix, self._cursor.reconnect())
        self._stream = await self._transport.open_stream(endpoint, "/v3/watch", body, CREATED_TIMEOUT_S)
        try:
            message = watch_from(await self._stream.next(CREATED_TIMEOUT_S))
        except TimeoutError as error:
            raise Unanswered(
                f"{endpoint} did not create the watch within {CREATED_TIMEOUT_S:g} s", is_sent=False
            ) from error
        self._transport.guard.check(self._what, message.header, None, endpoint)
        return message

    def _take(self, message: WatchMessage) -> WatchBatch | Resync | None:
        item = self._cursor.take(message)
        if item is None and message.is_canceled:
            is_denied = "permission denied" in message.cancel_reason
            code = PERMISSION_DENIED if is_denied else UNKNOWN
            raise GatewayError(200, code, message.cancel_reason or "the watch was canceled without a reason")
        return item

    async def _refused(self, endpoint: str, error: GatewayError) -> None:
        token = self._transport.token
        self.close()
        if error.is_token_stale or error.code == PERMISSION_DENIED:
            self._log_ins += 1
            if not token or self._log_ins > LOG_INS_IN_A_ROW:
                raise translate(self._what, error, is_write=False) from error
            try:
                await self._transport.log_in(CALL_TIMEOUT_S, token)
            except Unauthorized:
                raise
            except Exception as failure:
                self._transport.fail(endpoint, str(failure))
            return
        if error.is_for_another or error.code == UNKNOWN:
            self._transport.fail(endpoint, str(error))
            return
        raise translate(self._what, error, is_write=False) from error


@asynccontextmanager
async def open_watch(transport: EtcdTransport, prefix: str, after_revision: int) -> AsyncIterator[Watch]:
    """Give a watch for the time of the context; the connection is made by the first read."""
    transport.check_open(f"watch {prefix!a}")
    watch = EtcdWatch(transport, prefix, after_revision)
    try:
        yield watch
    finally:
        watch.close()
