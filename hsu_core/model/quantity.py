"""Quantities people write: sizes (512MB, 1GiB), processor shares (250m, 1.5), durations (1m30s, 3d).

Parse to one unit (bytes, milli-cores, seconds) and back to a short text. Pure.
"""

from __future__ import annotations

import re

from hsu_core.model.errors import InvalidInput

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "T": 10**12,
    "TB": 10**12,
    "KI": 2**10,
    "KIB": 2**10,
    "MI": 2**20,
    "MIB": 2**20,
    "GI": 2**30,
    "GIB": 2**30,
    "TI": 2**40,
    "TIB": 2**40,
}
_DURATION_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_CPU = re.compile(r"^\s*(\d+(?:\.\d+)?)(m?)\s*$", re.ASCII)

SIZE_LIMIT_BYTES = 2**60
"""One exbibyte: anything larger is a typing error."""

DURATION_LIMIT_S = 10 * 365 * 86400.0
"""Ten years: anything longer is a typing error."""

CPU_LIMIT_MILLI = 1_000_000
"""A thousand cores on one host: anything more is a typing error."""


def _refuse(kind: str, text: object, example: str) -> InvalidInput:
    return InvalidInput(
        f"read {str(text)[:40]!r} as a {kind}", "", f"write for example {example}", code=f"quantity.{kind}"
    )


def parse_size(text: str | int | float) -> int:
    """Return bytes. MB is 10^6, MiB is 2^20; a bare number is bytes. Raises InvalidInput."""
    match = _NUMBER.match(str(text)) if not isinstance(text, bool) else None
    factor = _SIZE_UNITS.get(match.group(2).upper()) if match else None
    if match is None or factor is None or len(match.group(1)) > 30:
        raise _refuse("size", text, "512MB or 1GiB")
    size_bytes = int(float(match.group(1)) * factor) if "." in match.group(1) else int(match.group(1)) * factor
    if size_bytes > SIZE_LIMIT_BYTES:
        raise _refuse("size", text, "512MB or 1GiB")
    return size_bytes


def parse_cpu(text: str | int | float) -> int:
    """Return milli-cores: 250m is 250, 1.5 is 1500. Raises InvalidInput."""
    match = _CPU.match(str(text)) if not isinstance(text, bool) else None
    if match is None or len(match.group(1)) > 30:
        raise _refuse("cpu", text, "250m or 1.5")
    milli = round(float(match.group(1)) * (1 if match.group(2) else 1000))
    if milli > CPU_LIMIT_MILLI:
        raise _refuse("cpu", text, "250m or 1.5")
    return milli


def parse_duration(text: str | int | float) -> float:
    """Return seconds. Go's form with days: 300ms, 1m30s, 3d; a bare number is seconds. Raises InvalidInput."""
    if isinstance(text, bool):
        raise _refuse("duration", text, "30s or 1m30s")
    if isinstance(text, int | float):
        seconds = float(text)
    else:
        compact = text.strip()[:100]
        parts = _DURATION_PART.findall(compact)
        if compact.isascii() and re.fullmatch(r"\d+(\.\d+)?", compact):
            seconds = float(compact)
        elif parts and "".join(number + unit for number, unit in parts) == compact:
            seconds = sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts)
        else:
            raise _refuse("duration", text, "30s or 1m30s")
    if not 0 <= seconds <= DURATION_LIMIT_S:
        raise _refuse("duration", text, "30s or 1m30s")
    return seconds


def parse_percent_or_count(text: str | int) -> tuple[int, bool]:
    """Return (number, is_percent) of `25%` or `2`. Raises InvalidInput."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(%?)\s*", str(text), re.ASCII) if not isinstance(text, bool) else None
    if match is None:
        raise _refuse("count", text, "2 or 25%")
    return int(match.group(1)), bool(match.group(2))


def format_size(size_bytes: int) -> str:
    """Return a short text with a binary unit, such as 1.5GiB."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g}{unit}"
    return f"{size_bytes}B"


def format_cpu(milli: int) -> str:
    """Return 250m or 1.5, whichever a person would write."""
    return f"{milli}m" if milli % 100 else f"{milli / 1000:g}"


def format_duration(seconds: float) -> str:
    """Return the two largest units that matter: 1m30s, 3d, 250ms."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = int(seconds)
    parts = [
        (whole // 86400, "d"),
        (whole % 86400 // 3600, "h"),
        (whole % 3600 // 60, "m"),
        (whole % 60, "s"),
    ]
    first = next(index for index, (number, _) in enumerate(parts) if number)
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number)
