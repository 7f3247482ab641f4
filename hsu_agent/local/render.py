"""Answers of the agent as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hsu_core.model.enforcement import FieldSupport

Document = Mapping[str, Any]

HEAD = ("INSTANCE", "STATE", "READY", "PID", "RESTARTS", "AGE", "PORTS", "REASON")
TOP_HEAD = ("INSTANCE", "STATE", "PID", "CPU", "MEMORY", "PROCESSES", "RESTARTS", "AGE")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> str:
    """Return columns as wide as their longest text, two spaces apart; `width` 0: lines of any length.

    A line that is longer than `width` is cut and ends in an ellipsis: that is the last column, the reason.
    """
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(_cut(line.rstrip(), width) for line in lines)


def _cut(line: str, width: int) -> str:
    return line if not width or len(line) <= width else f"{line[: width - 1]}…"


def status_table(answer: Document, width: int = 0) -> str:
    """Return the table of `hsu-agent status`, for a terminal with `width` columns (0: of any width)."""
    rows = [
        (
            plain(each["id"]),
            each["state"],
            "yes" if each["ready"] else "no",
            str(each["pid"] or "-"),
            str(each["restarts"]),
            age(each["started_at"], answer["now"]),
            " ".join(f"{name}:{number}" for name, number in sorted(each["ports"].items())) or "-",
            plain(_reason(each)),
        )
        for each in answer["instances"]
    ]
    return table(HEAD, rows, width) if rows else "this agent has no workers"


def support_table(supports: Sequence[FieldSupport]) -> str:
    """Return the table of `hsu-agent doctor`."""
    return table(("LIMIT", "HELD BY", "REASON"), [(each.name, str(each.how), plain(each.reason)) for each in supports])


def top_table(answer: Document) -> str:
    """Return the table of `hsu-agent top`, the busiest first."""
    found = sorted(answer["instances"], key=lambda each: (-each.get("usage", {}).get("cpu_percent", 0), each["id"]))
    rows = [
        (
            plain(each["id"]),
            each["state"],
            str(each["pid"] or "-"),
            f"{use.get('cpu_percent', 0):.1f}%" if use else "-",
            size(use.get("memory_bytes")),
            str(int(use["processes"])) if "processes" in use else "-",
            str(each["restarts"]),
            age(each["started_at"], answer["now"]),
        )
        for each in found
        for use in (each.get("usage", {}),)
    ]
    return table(TOP_HEAD, rows) if rows else "this agent has no workers"


def event_lines(events: Sequence[Document], now: float) -> str:
    """Return events, oldest first, a line each."""
    rows = [(f"{age(each['at'], now)} ago", each["code"], plain(each["text"])) for each in events]
    return table(("WHEN", "CODE", "WHAT"), rows) if rows else "nothing has happened since the agent was started"


def details(each: Document, events: Sequence[Document], now: float) -> str:
    """Return everything about one instance."""
    last = each["last_exit"]
    ended = "-"
    if last:
        ended = f"signal {last['signal']}" if last["signal"] else f"code {last['code']}"
        ended = last["reason"] or "nobody saw it" if last["code"] is None and not last["signal"] else ended
        ended += f", {age(last['at'], now)} ago"
        if last.get("cpu_s") is not None:
            ended += f"; it used {last['cpu_s']:.2f} s of processor time and at most {size(last['max_rss_bytes'])}"
    pairs = [
        ("Instance", plain(each["id"])),
        ("Namespace", each["namespace"]),
        ("State", each["state"]),
        ("Ready", "yes" if each["ready"] else "no"),
        ("Reason", plain(_reason(each)) or "-"),
        ("Process", str(each["pid"] or "-")),
        ("Started", f"{age(each['started_at'], now)} ago" if each["started_at"] else "-"),
        ("Restarts", str(each["restarts"])),
        ("Breaker", each["breaker"]),
        ("Last exit", plain(ended)),
        ("Ports", " ".join(f"{name}:{number}" for name, number in sorted(each["ports"].items())) or "-"),
    ]
    width = max(len(name) for name, _ in pairs) + 2
    lines = [f"{name}:".ljust(width) + value for name, value in pairs]
    return "\n".join([*lines, "", "Events", event_lines(events, now)])


def change_lines(answer: Document, is_dry: bool) -> str:
    """Return what a reload changes or has changed."""
    lines = [f"warning: {plain(text)}" for text in answer["warnings"]]
    for change in answer["changes"]:
        text = f"{change['change']:8} {change['worker']}"
        if change["change"] == "changed":
            text += f" ({', '.join(change['keys'])})" if change["keys"] else ""
            text += ": is restarted" if change["is_restart"] else ": no restart needed"
        lines.append(text)
    if not answer["changes"]:
        lines.append("nothing differs")
    elif is_dry:
        lines.append("nothing was changed (--dry-run)")
    return "\n".join(lines)


def age(since: float | None, now: float) -> str:
    """Return the time since then in its largest unit: `5s`, `12m`, `3h`, `2d`."""
    if since is None:
        return "-"
    seconds = max(0, int(now - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: float | None) -> str:
    """Return bytes in their unit: `12.5 MiB`."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def plain(text: str) -> str:
    """Return text that cannot steer a terminal: control characters are written out."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def _reason(each: Document) -> str:
    reason = str(each["reason"])
    return f"{reason} (breaker {each['breaker']})" if each["breaker"] != "closed" else reason
