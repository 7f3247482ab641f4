"""Values of other process managers' files: read by their rules, written by ours. A wrong value is a fault and None."""

from __future__ import annotations

import re

from hsu_core.model.quantity import DURATION_LIMIT_S, SIZE_LIMIT_BYTES
from hsu_core.wire.fields import SIGNALS, shown
from hsu_core.wire.foreign import Notes, Place

_SIGNAL_NUMBERS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 9: "SIGKILL", 10: "SIGUSR1", 12: "SIGUSR2", 13: "SIGPIPE",
    14: "SIGALRM", 15: "SIGTERM", 18: "SIGCONT", 28: "SIGWINCH",
}  # fmt: skip
"""Numbers of Linux on x86 and ARM of the signals that may stop a program."""

SMALLEST_SEGMENT_BYTES = 64 * 1024
SEGMENTS_LIMIT = 1000


def whole(text: object, low: int, high: int, place: Place, notes: Notes) -> int | None:
    """Return a whole number within bounds."""
    written = str(text).strip()
    if isinstance(text, bool) or not re.fullmatch(r"[-+]?[0-9]{1,18}", written):
        notes.fault(place, f"needs a whole number, found {shown(text)}", f"write one from {low} to {high}")
        return None
    if not low <= int(written) <= high:
        notes.fault(place, f"{written} is outside {low} to {high}", f"write one from {low} to {high}")
        return None
    return int(written)


def boolean(text: object, place: Place, notes: Notes) -> bool | None:
    """Return what true, yes, on, 1 and their opposites say."""
    word = str(text).strip().lower()
    if word in ("true", "yes", "on", "1", "y", "t"):
        return True
    if word in ("false", "no", "off", "0", "n", "f"):
        return False
    notes.fault(place, f"needs true or false, found {shown(text)}", "write true or false")
    return None


def signal_name(text: object, place: Place, notes: Notes) -> str | None:
    """Return the name of a signal from its name or number."""
    word = str(text).strip().upper()
    name = _SIGNAL_NUMBERS.get(int(word), "") if re.fullmatch(r"[0-9]{1,3}", word) else word
    name = name if not name or name.startswith("SIG") else f"SIG{name}"
    if name not in SIGNALS:
        notes.fault(place, f"{shown(text)} is not a signal to stop a program with", f"use one of {', '.join(SIGNALS)}")
        return None
    return name


def octal_mask(text: object, place: Place, notes: Notes) -> str:
    """Return a umask as three octal digits, or an empty text."""
    word = str(text).strip()
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", word) or int(word, 8) > 0o777:
        notes.fault(place, f"{shown(text)} is not a umask", "write an octal number such as 022")
        return ""
    return f"{int(word, 8):03o}"


def duration_text(seconds: float, place: Place, notes: Notes) -> str:
    """Return a time as a manifest says it: 90s, 1600ms; a fault and an empty text beyond ten years."""
    if not 0 <= seconds <= DURATION_LIMIT_S:
        notes.fault(place, f"{seconds:g} s is no time to wait", "write one from 0 to ten years")
        return ""
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    milliseconds = round(seconds * 1000, 3)
    return f"{milliseconds:.3f}".rstrip("0").rstrip(".") + "ms"


def size_text(size_bytes: int, place: Place, notes: Notes) -> str | int:
    """Return a size as a manifest says it: 50MiB, or the number of bytes; a fault beyond an exbibyte."""
    if not 0 <= size_bytes <= SIZE_LIMIT_BYTES:
        notes.fault(place, f"{size_bytes} bytes is no size", f"write one up to {SIZE_LIMIT_BYTES}")
        return 0
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return size_bytes


def segment_text(size_bytes: int, place: Place, notes: Notes) -> str | int:
    """Return the size of a log segment; ours have 64 KiB at least."""
    if 0 < size_bytes < SMALLEST_SEGMENT_BYTES:
        notes.warn(place, f"{size_bytes} bytes is too small for a segment, 64KiB is written")
        size_bytes = SMALLEST_SEGMENT_BYTES
    return size_text(size_bytes, place, notes)
