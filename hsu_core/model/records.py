"""Small records of the cluster itself: identity, masters, tokens, events. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """Who this cluster is. A wiped or restored store gets a new `incarnation`: old epochs do not count there."""

    incarnation: str
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class MasterAdvert:
    """A master and where it is reached (`url` of its API); `since` (seconds since 1970) tells its processes apart.

    `lease_ttl_s`: in the leader key, the TTL of the lease that it hangs on (0: a release that does not tell).
    """

    name: str
    url: str
    version: str = ""
    since: float = 0.0
    lease_ttl_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A credential: only its SHA-256 (hex) is kept. `role`: admin or node."""

    id: str
    role: str
    sha256: str
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened, for people. `code` is a CamelCase word, `text` a sentence."""

    at: float
    code: str
    subject: str
    text: str
    namespace: str = ""
    app: str = ""
    node: str = ""
    actor: str = ""
