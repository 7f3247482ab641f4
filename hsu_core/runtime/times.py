"""Times as people write them."""

from __future__ import annotations

from datetime import datetime

from hsu_core.model.errors import InvalidInput
from hsu_core.model.quantity import parse_duration


def since_of(text: str, now: float, option: str = "--since") -> float:
    """Return seconds since 1970 of `10m` (that long before `now`) or of a date, with or without time and zone.

    Raises InvalidInput, which names the `option`. A time without a zone is that of this host.
    """
    try:
        return max(0.0, now - parse_duration(text))
    except InvalidInput:
        try:
            return max(0.0, datetime.fromisoformat(text).timestamp())
        except (ValueError, OverflowError, OSError) as error:
            fix = "write for example 10m, 2026-01-31 or 2026-01-31T12:00:00Z"
            raise InvalidInput(f"read {option}", f"{text[:60]!r} is no time", fix) from error
