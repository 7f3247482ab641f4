"""What an answer of etcd's gateway means when it is an error: whether it was done, whom to ask next.

`GatewayError` is what the server said; `translate` makes it one of the errors of the store
protocol. The rule for writes: only an error that says the request was refused before it was
proposed is StoreUnavailable; everything vague is OutcomeUnknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hsu_core.model.errors import (
    Compacted,
    Forbidden,
    HsuError,
    InvalidInput,
    LeaseLost,
    NotSupported,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)

INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 3, 5, 7, 8
UNKNOWN, FAILED_PRECONDITION, OUT_OF_RANGE, UNAVAILABLE, UNAUTHENTICATED = 2, 9, 11, 14, 16
"""gRPC status codes."""

_STALE_TOKEN = (
    "invalid auth token",
    "user name is empty",
    "revision of auth store is old",
    "revision in header is old",
)

_NOT_PROPOSED = ("no leader", "too many requests", "learner", "not capable", "cannot route", "unhealthy cluster")
"""Texts of refusals that come before a request is handed to raft: nothing was written."""

_ASK_ANOTHER = (
    "context deadline exceeded",
    "not a primary lessor",
    "transport is closing",
    "connection",
    "etcdserver: server stopped",
)
"""Texts under code UNKNOWN that another member may answer well (the second: etcd #21671)."""

_CN_REFUSED = "CommonName"

CLUSTER_CHANGED = "store.cluster-changed"
STALE_ANSWER = "store.stale-answer"


class GatewayError(Exception):
    """An error answer: HTTP status, gRPC code (-1: plain text) and the server's words."""

    def __init__(self, http_status: int, code: int, text: str) -> None:
        super().__init__(http_status, code, text)
        self.http_status = http_status
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} (HTTP {self.http_status}, code {self.code})"

    @property
    def is_token_stale(self) -> bool:
        """Return whether logging in again may help."""
        return self.code == UNAUTHENTICATED or any(words in self.text for words in _STALE_TOKEN)

    @property
    def is_for_another(self) -> bool:
        """Return whether another member may answer."""
        if self.code == UNAVAILABLE or (self.code == RESOURCE_EXHAUSTED and "too many requests" in self.text):
            return True
        if self.code == UNKNOWN and any(words in self.text for words in _ASK_ANOTHER):
            return True
        return self.code == -1 and self.http_status >= 500

    @property
    def is_surely_not_done(self) -> bool:
        """Return whether the request was refused before anything could be written."""
        return not self.is_for_another or any(words in self.text for words in _NOT_PROPOSED)


class Unanswered(Exception):
    """No endpoint gave an answer in time; `is_sent` tells whether one may have acted on the request."""

    def __init__(self, why: str, *, is_sent: bool) -> None:
        super().__init__(why)
        self.is_sent = is_sent


def parse_error(http_status: int, body: bytes) -> GatewayError:
    """Return the error in an answer; knows both JSON forms of the gateway and plain text."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        return error_from(parsed, http_status)
    return GatewayError(http_status, -1, body[:300].decode(errors="replace").strip() or "an empty answer")


def error_from(parsed: Mapping[str, Any], http_status: int = 200) -> GatewayError:
    """Return the error in a JSON object, flat or nested under `error` (as streams write it)."""
    inner = parsed.get("error")
    fields = inner if isinstance(inner, dict) else parsed
    code: Any = fields.get("grpc_code", fields.get("code", UNKNOWN))
    text = fields.get("message") or fields.get("error") or "no reason given"
    return GatewayError(http_status, int(code), str(text))


def translate(what: str, error: GatewayError | Unanswered, *, is_write: bool) -> HsuError:
    """Return the protocol's error for what went wrong while doing `what`."""
    if isinstance(error, Unanswered):
        return _unanswered(what, str(error), is_maybe_done=is_write and error.is_sent)
    if error.is_for_another:
        return _unanswered(what, str(error), is_maybe_done=is_write and not error.is_surely_not_done)
    if error.code == -1:
        return _plain_text(what, error)
    if error.code == NOT_FOUND and "lease" in error.text:
        return LeaseLost(what, "the lease has ended or never existed", "grant a new lease and write its keys anew")
    if error.code == OUT_OF_RANGE:
        if "compacted" in error.text:
            return Compacted(what, "that history was compacted", "list the present and go on there")
        return InvalidInput(what, "that revision is in the future", "use one that was returned")
    if error.is_token_stale or "authentication failed" in error.text:
        return Unauthorized(what, f"etcd says: {error.text}", "check user name and password of the store")
    if error.code == PERMISSION_DENIED:
        return Forbidden(what, f"etcd says: {error.text}", "give the store's user a role that covers our prefix")
    if "too large" in error.text or "larger than max" in error.text:
        return TooLarge(what, f"etcd says: {error.text}", "store something smaller or split it")
    if "database space exceeded" in error.text:
        return StoreUnavailable(
            what,
            "etcd has reached its space quota",
            "compact and defragment it, raise --quota-backend-bytes, then disarm the alarm",
        )
    if error.code == INVALID_ARGUMENT:
        return InvalidInput(what, f"etcd says: {error.text}", "see the limits in hsu_core.store.base")
    if is_write and error.code in (UNKNOWN, 13):
        return _unanswered(what, str(error), is_maybe_done=True)
    return StoreError(what, f"etcd says: {error}", "look into etcd's log")


def _unanswered(what: str, why: str, *, is_maybe_done: bool) -> StoreError:
    if is_maybe_done:
        return OutcomeUnknown(what, why, "read before another try")
    return StoreUnavailable(what, why, "try again; check that a majority of etcd's members runs and is reachable")


def _plain_text(what: str, error: GatewayError) -> HsuError:
    if error.http_status == 404:
        return NotSupported(
            what,
            "this etcd does not serve its JSON gateway (HTTP 404)",
            "start etcd (3.4 or newer) without --enable-grpc-gateway=false, and give its client URLs, not the peers'",
        )
    if _CN_REFUSED in error.text:
        return Unauthorized(
            what,
            "etcd's gateway refuses client certificates that carry a CommonName",
            "issue the client certificate with subject alternative names only, and log in by password",
        )
    return StoreError(what, f"etcd says: {error}", "check that the endpoint is an etcd client URL")
