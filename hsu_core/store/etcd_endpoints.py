"""Which etcd member to ask next, and whether its answer may be believed: pure, clocks are arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from hsu_core.model.errors import InvalidInput, StoreError
from hsu_core.store.etcd_codec import Header
from hsu_core.store.etcd_errors import CLUSTER_CHANGED, STALE_ANSWER

COOL_DOWN_S = 2.0
COOL_DOWN_LIMIT_S = 30.0
"""A failed endpoint is asked last for this long, doubling while it keeps failing."""


class Endpoints:
    """The ordered endpoints: one is current, failed ones cool down."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Check and take the URLs. Raises InvalidInput."""
        self.urls = tuple(dict.fromkeys(url.rstrip("/") for url in urls))
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
                raise InvalidInput(
                    "use the etcd endpoints", f"{url!r} is not a URL of a server", "write it as https://HOST:2379"
                )
        if not self.urls:
            raise InvalidInput("use the etcd endpoints", "none is given", "give at least one https://HOST:2379")
        self._current = self.urls[0]
        self._cooling_until_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def order(self, now_s: float) -> list[str]:
        """Return every endpoint, the one to ask first in front, cooling ones last."""
        start = self.urls.index(self._current)
        rotated = [*self.urls[start:], *self.urls[:start]]
        return sorted(rotated, key=lambda url: max(0.0, self._cooling_until_s.get(url, 0.0) - now_s))

    def is_cooling(self, url: str, now_s: float) -> bool:
        """Return whether the endpoint has failed lately."""
        return self._cooling_until_s.get(url, 0.0) > now_s

    def fail(self, url: str, now_s: float) -> None:
        """Let an endpoint cool down and make the best other one current; a burst counts as one failure."""
        if not self.is_cooling(url, now_s):
            self._failures[url] = self._failures.get(url, 0) + 1
        doublings = min(self._failures[url] - 1, 10)
        self._cooling_until_s[url] = now_s + min(COOL_DOWN_S * 2**doublings, COOL_DOWN_LIMIT_S)
        if url == self._current:
            self._current = self.order(now_s)[0]

    def succeed(self, url: str) -> None:
        """Note that an endpoint answered well, and stay with it."""
        self._cooling_until_s.pop(url, None)
        self._failures.pop(url, None)
        self._current = url


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the cluster was known to be when a request was sent."""

    revision: int
    raft_term: int


class AnswerGuard:
    """Refuses answers of another cluster, and answers that go back in time.

    A linearizable answer is never behind what was known when its request was sent; one that is
    comes from a member restored from a backup or cut off with forged state (Patroni guards so too).
    """

    def __init__(self) -> None:
        self.cluster_id = ""
        self._revision = 0
        self._raft_term = 0

    @property
    def revision(self) -> int:
        """Return the highest revision seen."""
        return self._revision

    def mark(self) -> Mark:
        """Return what is known now; taken before a request is sent."""
        return Mark(self._revision, self._raft_term)

    def check(self, what: str, header: Header, mark: Mark | None, endpoint: str) -> None:
        """Raise StoreError for an answer not to be believed; `mark` None: it need not be linearizable."""
        if not header.cluster_id:
            return
        if self.cluster_id and header.cluster_id != self.cluster_id:
            raise StoreError(
                what,
                f"{endpoint} belongs to etcd cluster {header.cluster_id}, until now it was {self.cluster_id}",
                "correct the endpoints; after a rebuild of etcd restart this program",
                code=CLUSTER_CHANGED,
            )
        if mark is not None and (header.revision < mark.revision or header.raft_term < mark.raft_term):
            raise StoreError(
                what,
                f"{endpoint} answers at revision {header.revision}, term {header.raft_term}, although revision "
                f"{mark.revision}, term {mark.raft_term} was seen before",
                "check that member; after etcd was restored from a backup restart this program",
                code=STALE_ANSWER,
            )
        self.cluster_id = header.cluster_id
        self._revision = max(self._revision, header.revision)
        self._raft_term = max(self._raft_term, header.raft_term)
