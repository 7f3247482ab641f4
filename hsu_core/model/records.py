"""Small records of the cluster itself: identity, masters, tokens, events. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """Who this cluster is. A wiped or restored store gets a new `incarnation`: old epochs do not count there.

    `former`: the incarnation before it ("": none). `held`: why nothing is planned or ordered until an administrator
    accepts the restore ("": it is not held). `accepted`: other incarnations whose nodes may be given orders here: their
    workers are then ended or kept as this cluster's orders say. `store_id`: the store's own identity.
    """

    incarnation: str
    created_at: float = 0.0
    former: str = ""
    held: str = ""
    accepted: tuple[str, ...] = ()
    store_id: str = ""


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
