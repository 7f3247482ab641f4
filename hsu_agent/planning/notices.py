"""What a worker says by itself (the sd_notify protocol of systemd), and what follows from it. Pure.

Read are READY, STATUS, WATCHDOG and STOPPING; other words of the protocol are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hsu_agent.planning.health import Outcome, ProbeKind

STATUS_LIMIT = 200
"""Longest status that is shown, in characters."""

WATCHDOG_MARGIN = 0.1
"""Part of the watchdog's time that a sign of life may be late: timers of busy hosts are."""


@dataclass(frozen=True, slots=True)
class Notices:
    """What one process has said. `beat_s` is the monotonic time of its last sign of life.

    `is_adopted`: an earlier agent started it, and what it said to that agent is not known.
    """

    run: str
    beat_s: float
    is_adopted: bool = False
    is_ready: bool = False
    is_stopping: bool = False
    is_triggered: bool = False
    status: str = ""


def parse(payload: bytes) -> dict[str, str]:
    """Return the fields of a message; lines that are no `NAME=value` are passed over."""
    lines = payload.decode("utf-8", "replace").splitlines()
    return {name: value for name, mark, value in (line.partition("=") for line in lines) if mark and name}


def heard(before: Notices, fields: Mapping[str, str], now_s: float) -> Notices:
    """Return the notices after one more message."""
    after = before
    if "STATUS" in fields:
        text = "".join(letter for letter in fields["STATUS"] if letter.isprintable())
        after = replace(after, status=text[:STATUS_LIMIT])
    if fields.get("READY") == "1":
        after = replace(after, is_ready=True, is_stopping=False, beat_s=now_s)
    if fields.get("STOPPING") == "1":
        after = replace(after, is_stopping=True, beat_s=now_s)
    if fields.get("WATCHDOG") == "1":
        after = replace(after, beat_s=now_s)
    if fields.get("WATCHDOG") == "trigger":
        after = replace(after, is_triggered=True)
    return after


def outcome(notices: Notices, kind: ProbeKind, period_s: float, since_s: float, now_s: float) -> Outcome | None:
    """Return the outcome of a notice check made since `since_s`; None where nothing can be said.

    Nothing can be said of the readiness of a process that an earlier agent started and that is silent since: what
    was written down of it holds.
    """
    said = f" (its status: {notices.status})" if notices.status else ""
    if kind is ProbeKind.LIVENESS:
        if notices.is_triggered:
            return Outcome(False, f"notify: the worker asked for its restart, WATCHDOG=trigger{said}")
        silent_s = now_s - max(notices.beat_s, since_s)
        if silent_s > period_s * (1 + WATCHDOG_MARGIN):
            return Outcome(False, f"notify: no WATCHDOG=1 for {silent_s:.1f} s, wanted every {period_s:g} s{said}")
        return Outcome(True, f"notify: alive{said}")
    if notices.is_stopping:
        return Outcome(False, f"notify: the worker said STOPPING=1{said}")
    if notices.is_ready:
        return Outcome(True, f"notify: ready{said}")
    if notices.is_adopted and kind is ProbeKind.READINESS:
        return None
    return Outcome(False, f"notify: the worker has not said READY=1{said}")


def next_look_s(notices: Notices, kind: ProbeKind, period_s: float, since_s: float, now_s: float) -> float:
    """Return how long to wait before the outcome can change by itself, in seconds."""
    if kind is not ProbeKind.LIVENESS:
        return period_s
    due_s = max(notices.beat_s, since_s) + period_s * (1 + WATCHDOG_MARGIN) - now_s
    return due_s + period_s / 100 if due_s > 0 else period_s
