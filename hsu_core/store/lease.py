"""Keeps a lease alive, and knows when to presume it lost without any answer.

The deadline counts from when the last good renewal was SENT: the store may have restarted the TTL
at any moment since then, and not later than the answer. A keeper with a `progress_limit_s` stops
renewing when its owner's loop has not reported progress, so that a wedged program loses what its
lease protects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Self

from hsu_core.model.errors import HsuError, LeaseLost
from hsu_core.store.base import CALL_TIMEOUT_S, Lease, Store

RENEWALS_PER_TTL = 5
"""A lease is renewed at a fifth of its TTL. A lease of 5 s then outlives the death of etcd's leader at the worst
moment: a second since the last renewal, 2.6 s until etcd serves again (measured: 2.1 to 2.6), a retry. A renewal
is no write of etcd, so the more frequent ones cost next to nothing."""

RENEWAL_TIMEOUT_S = 1.0
RETRIES_PER_TTL = 20
"""One renewal gets at most a second or a quarter of the TTL; after a failure the next comes soon."""

MARGIN_S = 0.5
"""Presumed lost this long before the store may end it. Writes are fenced anyway; this is for acts that are not
(an acknowledgement to an agent): between the check and the act pass milliseconds, and clocks that differ by
0.1 % differ by 5 ms in a TTL of 5 s."""

_LOG = logging.getLogger(__name__)


def bounded_margin_s(margin_s: float, ttl_s: float) -> float:
    """Return the margin, at most a quarter of the TTL, in seconds."""
    return max(0.0, min(margin_s, ttl_s / 4))


class LeaseKeeper:
    """Renews one lease while `run` runs; `lost` is set once, and for ever."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        sent_s: float,
        *,
        margin_s: float = MARGIN_S,
        progress_limit_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a lease whose grant was sent at `sent_s` on the clock `monotonic`."""
        self.lease = lease
        self.lost = asyncio.Event()
        self.reason = ""
        self._store = store
        self._margin_s = bounded_margin_s(margin_s, lease.ttl_s)
        self._progress_limit_s = progress_limit_s
        self._monotonic = monotonic
        self._renewed_s = sent_s
        self._ttl_s = lease.ttl_s
        self._progress_s = monotonic()

    @classmethod
    async def grant(
        cls,
        store: Store,
        ttl_s: float,
        *,
        margin_s: float = MARGIN_S,
        progress_limit_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Self:
        """Grant a new lease and return its keeper; renew it with `run`."""
        sent_s = monotonic()
        lease = await store.grant(ttl_s, timeout_s=timeout_s)
        return cls(store, lease, sent_s, margin_s=margin_s, progress_limit_s=progress_limit_s, monotonic=monotonic)

    @property
    def deadline(self) -> float:
        """Return when the store may end the lease: send time of the last good renewal + TTL."""
        return self._renewed_s + self._ttl_s

    @property
    def safe_until(self) -> float:
        """Return when the lease has to be presumed lost: `deadline` less the margin."""
        return self.deadline - self._margin_s

    def is_presumed_lost(self, now_s: float) -> bool:
        """Return whether the lease is lost or may be so soon; ask before every act it protects."""
        return self.lost.is_set() or now_s >= self.safe_until

    def progress(self) -> None:
        """Report that the owner's loop has made a turn."""
        self._progress_s = self._monotonic()

    def lose(self, reason: str) -> None:
        """Declare the lease lost."""
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()

    async def renew(self) -> None:
        """Renew once, now. Raises LeaseLost (and sets `lost`) or StoreUnavailable."""
        sent_s = self._monotonic()
        try:
            ttl_s = await self._store.renew(self.lease.id, timeout_s=min(RENEWAL_TIMEOUT_S, self._ttl_s / 4))
        except LeaseLost as error:
            self.lose(str(error))
            raise
        if self.is_presumed_lost(self._monotonic()):
            self.lose("the renewal was answered too late")
            raise LeaseLost("renew the lease", "its deadline had passed before the answer", "grant a new lease")
        self._renewed_s, self._ttl_s = sent_s, ttl_s

    async def run(self) -> None:
        """Renew until the lease is lost; returns then. Cancel it to let the lease run out."""
        next_s = self._renewed_s + self._ttl_s / RENEWALS_PER_TTL
        while not self.lost.is_set():
            now_s = self._monotonic()
            if self.is_presumed_lost(now_s):
                self.lose(self._overdue(now_s))
            elif now_s < next_s:
                await self._wait(min(next_s, self.safe_until) - now_s)
            elif self._is_wedged(now_s):
                next_s = now_s + self._ttl_s / RETRIES_PER_TTL
            else:
                next_s = await self._renew_or_retry(now_s)

    async def end(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Give the lease back: its keys vanish now. If the store is away it ends by itself."""
        self.lose("it was given back")
        with contextlib.suppress(HsuError):
            await self._store.revoke(self.lease.id, timeout_s=timeout_s)

    async def _renew_or_retry(self, now_s: float) -> float:
        try:
            await self.renew()
        except LeaseLost:
            return now_s
        except HsuError as error:
            _LOG.warning("lease %x not renewed, lost in %.1f s: %s", self.lease.id, self.safe_until - now_s, error)
            return self._monotonic() + self._ttl_s / RETRIES_PER_TTL
        return self._renewed_s + self._ttl_s / RENEWALS_PER_TTL

    def _is_wedged(self, now_s: float) -> bool:
        return self._progress_limit_s is not None and now_s - self._progress_s > self._progress_limit_s

    def _overdue(self, now_s: float) -> str:
        if self._is_wedged(now_s):
            return f"its owner made no progress for {now_s - self._progress_s:.1f} s"
        return f"no renewal succeeded for {now_s - self._renewed_s:.1f} s, its TTL is {self._ttl_s:g} s"

    async def _wait(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.0)):
                await self.lost.wait()
