"""The version of this installation."""

from __future__ import annotations

import importlib.metadata


def program_version() -> str:
    """Return the version of the installed distribution (0: it runs from a folder that was never installed)."""
    try:
        return importlib.metadata.version("hsu-cluster")
    except importlib.metadata.PackageNotFoundError:
        return "0"
