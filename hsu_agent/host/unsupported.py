"""Hosts that are not served yet: refused with the reason, never half done."""

from __future__ import annotations

import sys

from hsu_core.model.errors import NotSupported

_MISSING = {
    "darwin": "macOS has no pidfd and no cgroups; exits need kqueue, trees need libproc",
    "win32": "Windows needs job objects and wait handles in the place of signals and sessions",
}


def refuse_host(platform: str = sys.platform) -> NotSupported:
    """Return the error that says why workers cannot be run on this platform."""
    why = _MISSING.get(platform, f"{platform} has none of the kernel interfaces that are used")
    return NotSupported("run workers on this host", why, "run the agent on Linux 5.3 or newer", code="host.unsupported")
