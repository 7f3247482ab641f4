"""The store on an etcd cluster: for more than one master.

Speaks etcd's JSON gateway (docs/decisions/0001). This module says which call does what; the
connections are `etcd_transport`, the words `etcd_codec`, the watches `etcd_watch`.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

from hsu_core.model.errors import Compacted, Forbidden, LeaseLost
from hsu_core.store.base import (
    CALL_TIMEOUT_S,
    PAGE_LIMIT,
    Compare,
    Delete,
    Entry,
    Lease,
    Operation,
    Page,
    Put,
    StoreStatus,
    TxnResult,
    Watch,
)
from hsu_core.store.etcd_codec import (
    delete_to,
    encode,
    entries_from,
    header_from,
    put_to,
    range_to,
    txn_from,
    txn_to,
)
from hsu_core.store.etcd_transport import Credentials, EtcdTransport
from hsu_core.store.etcd_watch import open_watch
from hsu_core.store.rules import check_key, check_prefix, check_range, check_ttl, check_txn

FIXED_VERSIONS = {(3, 4): 38, (3, 5): 23, (3, 6): 5}
"""First patch release of each line in which a renewal never "succeeds" for a revoked lease."""

OLDEST_LINE = (3, 4)
"""The first with the gateway under /v3."""


class EtcdStore:
    """A store on etcd; make it with `await EtcdStore.connect(endpoints)`."""

    def __init__(self, transport: EtcdTransport) -> None:
        """Take over a transport; use `connect` instead."""
        self._transport = transport

    @classmethod
    async def connect(
        cls,
        endpoints: Sequence[str],
        *,
        username: str | None = None,
        password: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Self:
        """Return a store after a first answer: logged in, and sure that the gateway is there.

        Raises StoreUnavailable if no endpoint answers, Unauthorized for a wrong password,
        NotSupported if the endpoints serve no gateway.
        """
        credentials = Credentials(username, password or "") if username else None
        transport = EtcdTransport(endpoints, credentials, ssl_context)
        store = cls(transport)
        try:
            await transport.log_in(timeout_s)
            await store.status(timeout_s=timeout_s)
        except BaseException:
            await transport.close()
            raise
        return store

    async def get(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> Entry | None:
        """Return the key as of now (linearizable), or None."""
        check_key(key)
        answer = await self._transport.call(
            "/v3/kv/range", {"key": encode(key)}, what=f"read {key!a}", timeout_s=timeout_s
        )
        entries = entries_from(answer)
        return entries[0] if entries else None

    async def range(
        self,
        prefix: str,
        *,
        start_key: str | None = None,
        limit: int = PAGE_LIMIT,
        revision: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Page:
        """Return a page of keys. Raises Compacted if `revision` is gone."""
        check_range(prefix, start_key, limit, revision)
        answer = await self._transport.call(
            "/v3/kv/range",
            range_to(prefix, start_key, limit, revision),
            what=f"list {prefix!a}",
            timeout_s=timeout_s,
        )
        entries = entries_from(answer)
        next_key = entries[-1].key + "\0" if entries and answer.get("more") else None
        return Page(entries, revision or header_from(answer).revision, next_key)

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Write one key and return the revision of the write. Raises LeaseLost if `lease` is gone."""
        put = Put(key, value, lease)
        check_txn([], [put], [])
        answer = await self._transport.call(
            "/v3/kv/put", put_to(put), what=f"store {key!a}", timeout_s=timeout_s, is_write=True
        )
        return header_from(answer).revision

    async def delete(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Delete one key; return whether it was there."""
        check_key(key)
        answer = await self._transport.call(
            "/v3/kv/deleterange", delete_to(Delete(key)), what=f"delete {key!a}", timeout_s=timeout_s, is_write=True
        )
        return int(answer.get("deleted", 0)) > 0

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """Apply `success` if every compare holds, else `failure`; atomically, at one revision."""
        check_txn(compares, success, failure)
        is_write = any(isinstance(operation, Put | Delete) for operation in (*success, *failure))
        answer = await self._transport.call(
            "/v3/kv/txn",
            txn_to(compares, success, failure),
            what="run the transaction",
            timeout_s=timeout_s,
            is_write=is_write,
        )
        return txn_from(answer, success, failure)

    async def grant(self, ttl_s: float, *, timeout_s: float = CALL_TIMEOUT_S) -> Lease:
        """Grant a lease; etcd counts whole seconds and may raise the TTL.

        Repeated when unanswered: a lease granted in vain has no keys and ends by itself.
        """
        check_ttl(ttl_s)
        answer = await self._transport.call(
            "/v3/lease/grant",
            {"TTL": str(math.ceil(ttl_s))},
            what="grant a lease",
            timeout_s=timeout_s,
            is_write=True,
            is_repeatable=True,
        )
        return Lease(int(answer["ID"]), float(answer["TTL"]))

    async def renew(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> float:
        """Renew and return the TTL in seconds (> 0); etcd tells of a lost lease by a missing TTL."""
        answer = await self._transport.call(
            "/v3/lease/keepalive",
            {"ID": str(lease)},
            what="renew the lease",
            timeout_s=timeout_s,
            is_write=True,
            is_repeatable=True,
            is_linearizable=False,
        )
        ttl_s = float(answer.get("TTL", 0))
        if ttl_s <= 0:
            raise LeaseLost(
                "renew the lease",
                f"lease {lease:x} has ended or never existed",
                "grant a new lease and write its keys anew",
            )
        return ttl_s

    async def revoke(self, lease: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """End the lease now; its keys are deleted. No error if it is gone already."""
        try:
            await self._transport.call(
                "/v3/lease/revoke",
                {"ID": str(lease)},
                what="end the lease",
                timeout_s=timeout_s,
                is_write=True,
                is_repeatable=True,
            )
        except LeaseLost:
            return

    def watch(self, prefix: str, *, after_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Watch a prefix for every change later than `after_revision`."""
        check_prefix(prefix)
        return open_watch(self._transport, prefix, after_revision)

    async def compact(self, revision: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Forget history before `revision`; no error if that has been done already."""
        what = f"compact to revision {revision}"
        try:
            await self._transport.call(
                "/v3/kv/compaction",
                {"revision": str(revision)},
                what=what,
                timeout_s=timeout_s,
                is_write=True,
                is_repeatable=True,
            )
        except Compacted:
            return

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> StoreStatus:
        """Say who answers, with a warning for a version that has known defects.

        Newer patch releases show their status to root only; the version is told to everybody.
        """
        try:
            answer = await self._transport.call(
                "/v3/maintenance/status",
                {},
                what="ask etcd for its status",
                timeout_s=timeout_s,
                is_linearizable=False,
            )
            version = str(answer.get("version", "unknown"))
        except Forbidden:
            version = await self._transport.server_version(timeout_s)
        warnings = list(version_warnings(version))
        if self._transport.is_auth_off:
            warnings.append("a user name is configured, but authentication is off in this etcd")
        guard = self._transport.guard
        return StoreStatus("etcd", version, guard.cluster_id, guard.revision, tuple(warnings))

    async def close(self) -> None:
        """Free every connection; pending calls and watches fail."""
        await self._transport.close()


def version_warnings(version: str) -> tuple[str, ...]:
    """Return what people should know about this etcd version."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        return (f"etcd reports the version {version!r}, which is not understood",)
    line, patch = (int(match[1]), int(match[2])), int(match[3])
    if line < OLDEST_LINE:
        return (f"etcd {version} is too old: 3.4 is the first with the gateway under /v3",)
    fixed = FIXED_VERSIONS.get(line)
    if fixed is not None and patch < fixed:
        wanted = ".".join(map(str, (*line, fixed)))
        return (
            f"etcd {version} has known defects (a renewal can succeed for a revoked lease, live leases can be "
            f"revoked after a leader was paused): upgrade to {wanted} or newer",
        )
    return ()
