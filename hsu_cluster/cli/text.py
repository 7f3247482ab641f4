"""Small texts for people: escaped server text, ages, counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from hsu_core.model.quantity import format_duration

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: object, *, keep: str = "") -> str:
    """Return server text safe for a terminal: control and invisible characters are escaped, those in `keep` stay."""
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in str(text))


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    number = ord(char)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def age(since: float | None, now: float) -> str:
    """Return how long ago `since` was (both seconds since 1970), `-` when it never happened."""
    if since is None or since <= 0:
        return "-"
    seconds = max(0.0, now - since)
    return format_duration(float(int(seconds))) if seconds >= 1 else "0s"


def count(number: int, noun: str) -> str:
    """Return `1 instance`, `2 instances`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def close_to(word: str, known: Iterable[str]) -> str:
    """Return the known word nearest to a mistyped one, or an empty text."""
    return next(iter(get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)), "")
