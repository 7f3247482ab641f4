"""Who may do what: roles and the permissions they hold, as data. Pure.

Default deny: a role or permission that is not in the table gets nothing. A route names exactly one
permission; a new role is a new row.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Permission(StrEnum):
    """What a route or message asks for."""

    PUBLIC = "public"  # liveness and the like: no credential needed
    READ = "read"
    WRITE = "write"  # deploy, scale, restart, stop
    ADMIN = "admin"  # nodes, tokens, backup
    NODE = "node"  # a node's session: its own assignments and statuses


class Role(StrEnum):
    """What a credential is bound to. A request without credential has no role."""

    ADMIN = "admin"
    NODE = "node"


_P = Permission

PERMISSIONS: Mapping[str, frozenset[Permission]] = {
    Role.ADMIN: frozenset({_P.PUBLIC, _P.READ, _P.WRITE, _P.ADMIN}),
    Role.NODE: frozenset({_P.PUBLIC, _P.NODE}),
}
"""An admin is not a node: its credential must not report statuses in a node's name."""


def is_allowed(role: str | None, permission: str) -> bool:
    """Return whether `role` (None: no credential) holds `permission`; unknown names hold nothing."""
    if permission == Permission.PUBLIC:
        return True
    return role is not None and permission in PERMISSIONS.get(role, frozenset())
