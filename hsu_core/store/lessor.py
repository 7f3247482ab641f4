"""Book-keeping of the leases of a local store: time arrives as an argument, nothing is deleted here.

The store asks which leases have expired and deletes their keys in an ordinary commit.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Record:
    ttl_s: float
    deadline_s: float


class Lessor:
    """The leases that are alive, each with its TTL and its deadline on the caller's clock."""

    def __init__(self, randbits: Callable[[int], int] = secrets.randbits) -> None:
        self._randbits = randbits
        self._records: dict[int, _Record] = {}

    def load(self, ttls_s: Mapping[int, float], now_s: float) -> None:
        """Take over stored leases; each gets its full TTL anew, for nobody could renew meanwhile."""
        for lease, ttl_s in ttls_s.items():
            self.add(lease, ttl_s, now_s)

    def new_id(self, taken: Iterable[int]) -> int:
        """Return a random lease id (positive, 62 bits) that is neither alive nor in `taken`."""
        refused = set(taken)
        while True:
            lease = self._randbits(62)
            if lease and lease not in self._records and lease not in refused:
                return lease

    def add(self, lease: int, ttl_s: float, now_s: float) -> None:
        """Start a lease now."""
        self._records[lease] = _Record(ttl_s, now_s + ttl_s)

    def remove(self, lease: int) -> None:
        """Forget a lease; none is fine too."""
        self._records.pop(lease, None)

    def renew(self, lease: int, now_s: float) -> float | None:
        """Restart the TTL of a lease and return it in seconds, None if it is gone or expired."""
        record = self._records.get(lease)
        if record is None or record.deadline_s <= now_s:
            return None
        record.deadline_s = now_s + record.ttl_s
        return record.ttl_s

    def is_alive(self, lease: int, now_s: float) -> bool:
        """Return whether the lease exists and has not expired."""
        record = self._records.get(lease)
        return record is not None and record.deadline_s > now_s

    def expired(self, now_s: float) -> list[int]:
        """Return the leases whose deadline has passed, the longest overdue first."""
        due = [(record.deadline_s, lease) for lease, record in self._records.items() if record.deadline_s <= now_s]
        return [lease for _, lease in sorted(due)]

    def next_deadline_s(self) -> float | None:
        """Return when the next lease expires, None without leases."""
        return min((record.deadline_s for record in self._records.values()), default=None)
