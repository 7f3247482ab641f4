"""Who calls: bearer tokens, of which the store holds only the SHA-256.

A token is `hsu_` and 256 random bits, so a plain hash is enough: there is nothing to guess, and a slow
hash would be a lever to overload the master. What a role may do is `planning.access`. A token is read
from the Authorization header only (a query string ends up in logs and histories). At the first start
`ensure_tokens` makes one token for administrators and one for nodes, each in a private file.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hsu_cluster.api.outage import may_be_stale
from hsu_core.model.errors import InvalidSettings, StoreError, StoreUnavailable, Unauthorized
from hsu_core.model.records import EventRecord, TokenRecord
from hsu_core.runtime.files import private_folder, write_atomically
from hsu_core.store.base import Compare, Operation, Put, Store, Target, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import Undecodable, decode, encode

log = logging.getLogger(__name__)

TOKEN_PREFIX = "hsu_"
"""Lets scanners of source code find a token that was committed by mistake."""

FRESH_S = 2.0
"""A token list read this long ago is used as it is: a revoked token works at most so long (promised: 5 s)."""

RETRY_S = 0.25
"""An unknown token makes the list be read again at most this often: a flood of guesses is no load on the store."""

TOKEN_LENGTH_LEAST = 20
"""A shorter text in a token file is a mistake, not a secret."""

TOKEN_BYTES_LIMIT = 1024
"""A larger file is not a token file."""

_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{8,512}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the id of its token and its role."""

    id: str
    role: str


NOBODY = Principal("", "")
"""The caller of a public route."""


def new_token() -> str:
    """Return a new random token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """Return the SHA-256 of a token, hex, as the store keeps it."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(header: str | None) -> str:
    """Return the token of an Authorization header. Raises Unauthorized."""
    if header is None:
        raise Unauthorized(
            "answer without a token", "the request has no Authorization header", "set HSU_TOKEN, or give --token-file"
        )
    scheme, _, token = header.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or _TOKEN.fullmatch(token) is None:
        raise Unauthorized("read the Authorization header", "it is not a bearer token", "write `Bearer hsu_...`")
    return token


class TokenBook:
    """The tokens of the store, read again when they are older than FRESH_S. `monotonic` is in seconds.

    While the store does not answer, those that were known last hold, however long that lasts: all that can be
    read then is what was known when they held, and nothing can be written.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._by_digest: dict[str, Principal] = {}
        self._read_at_s: float | None = None
        self._reading = asyncio.Lock()

    async def identify(self, token: str) -> Principal:
        """Return who holds `token`. Raises Unauthorized, or StoreError when the tokens cannot be read."""
        await self._refresh(FRESH_S)
        found = self._find(token)
        if found is None:
            await self._refresh(RETRY_S)
            found = self._find(token)
        if found is None:
            raise Unauthorized(
                "accept the token", "it is not known here", "was it revoked, or is it of another cluster?"
            )
        return found

    async def is_valid(self, principal: Principal) -> bool:
        """Return whether the token of `principal` still exists: long-lived connections ask again."""
        await self._refresh(FRESH_S)
        return principal in self._by_digest.values()

    def _find(self, token: str) -> Principal | None:
        wanted = digest(token)
        found = None
        for known, principal in self._by_digest.items():  # all of them: the time must not tell which one is near
            if hmac.compare_digest(known, wanted):
                found = principal
        return found

    async def _refresh(self, age_limit_s: float) -> None:
        if self._age_s() <= age_limit_s:
            return
        async with self._reading:
            if self._age_s() <= age_limit_s:
                return
            started_s = self._monotonic()
            try:
                with may_be_stale():
                    page = await range_all(self._store, keys.TOKENS)
            except StoreError as error:
                raise StoreUnavailable(
                    "check the token", "the store does not answer", "ask again in a few seconds"
                ) from error
            found: dict[str, Principal] = {}
            for entry in page.entries:
                try:
                    record = decode(TokenRecord, entry.value)
                except Undecodable:
                    continue  # one damaged record must not lock everybody out
                found[record.sha256] = Principal(record.id, record.role)
            self._by_digest = found
            self._read_at_s = started_s

    def _age_s(self) -> float:
        return float("inf") if self._read_at_s is None else self._monotonic() - self._read_at_s


async def ensure_tokens(
    store: Store, admin_token_file: Path, node_token_file: Path, *, clock: Callable[[], float] = time.time
) -> None:
    """Make sure that a token of either role exists and that the given files, if there, are registered.

    A file that exists: its token is registered if it is not yet. None: a new token is made, unless the
    store has one of that role already (another master made it; then its file has to be copied here).
    The file is written first: a crash before the registration leaves a file that the next start registers,
    never a token that nobody holds.
    Raises InvalidSettings for a file that others can read or that holds no token.
    """
    for role, path in (("admin", admin_token_file), ("node", node_token_file)):
        await _ensure(store, role, path, clock)


async def _ensure(store: Store, role: str, path: Path, clock: Callable[[], float]) -> None:
    token = _read(path)
    if token is None:
        if await _has_role(store, role):
            log.info("no %s token file at %s: the cluster has %s tokens already, copy one to use it", role, path, role)
            return
        token = new_token()
        private_folder(path.parent)
        write_atomically(path, token.encode() + b"\n", mode=0o600)
        log.info("wrote a new %s token to %s", role, path)
    sha256 = digest(token)
    record = TokenRecord(f"{role}-{sha256[:12]}", role, sha256, clock())
    key = keys.token(record.id)
    event = EventRecord(record.created_at, "TokenCreated", record.id, f"a token of role {role} was registered")
    operations: list[Operation] = [Put(key, encode(record)), Put(keys.event(event.at, sha256[:8]), encode(event))]
    answer = await store.txn([Compare(key, Target.VERSION, 0)], operations)
    if answer.succeeded:
        log.info("registered the %s token of %s", role, path)


async def _has_role(store: Store, role: str) -> bool:
    page = await range_all(store, keys.TOKENS)
    return any(decode(TokenRecord, entry.value).role == role for entry in page.entries)


def _read(path: Path) -> str | None:
    """Return the token in a private file, None where there is no file. Raises InvalidSettings."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refuse(path, error.strerror or str(error), "make it a readable file") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(path, "it is not a regular file", "remove it, a new token will be made")
        if os.name == "posix" and status.st_mode & 0o077:
            loose = stat.filemode(status.st_mode)
            raise _refuse(path, f"other users can read it ({loose})", f"chmod 600 {path}, and change the token")
        content = os.read(descriptor, TOKEN_BYTES_LIMIT + 1)
    finally:
        os.close(descriptor)
    token = content.decode("ascii", "replace").strip()
    if len(content) > TOKEN_BYTES_LIMIT or len(token) < TOKEN_LENGTH_LEAST or any(char.isspace() for char in token):
        raise _refuse(
            path, "it does not hold one token", f"write {TOKEN_PREFIX} and 43 random characters, or remove it"
        )
    return token


def _refuse(path: Path, why: str, fix: str) -> InvalidSettings:
    return InvalidSettings(f"use the token file {path}", why, fix, code="settings.token-file")
