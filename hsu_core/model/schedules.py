"""When a scheduled worker runs, as its manifest says it: cron's five fields. Pure; the agent finds the next run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsu_core.model.errors import InvalidInput

NAMED: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))

EXAMPLE = 'write for example "*/5 * * * *", "30 2 * * mon-fri" or "@daily"'


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """Runs at the times of `expression`, one at a time. `timezone` empty: UTC.

    Runs that were missed (host or agent down, the run before still going) are not made up for, but for the latest
    of them with `is_catching_up`.
    """

    expression: str
    timezone: str = ""
    is_catching_up: bool = False


@dataclass(frozen=True, slots=True)
class Cron:
    """The values that each field allows. `is_any_*`: the field begins with `*`."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    is_any_hour: bool
    is_any_day: bool
    is_any_weekday: bool

    def has_day(self, month: int, day: int, weekday: int) -> bool:
        """Return whether a day (weekday 0: Sunday) is one; if both day fields are limited, one of them is enough."""
        if month not in self.months:
            return False
        if self.is_any_day or self.is_any_weekday:
            return day in self.days and weekday in self.weekdays
        return day in self.days or weekday in self.weekdays


def parse_cron(expression: str) -> Cron:
    """Return the meaning of five fields, or of a name such as @daily. Raises InvalidInput."""
    text = expression.strip().lower()
    parts = NAMED.get(text, text).split()
    if len(parts) != len(FIELDS) or (text.startswith("@") and text not in NAMED):
        why = f"{expression[:60]!r} has {len(parts)} fields instead of 5"
        if text.startswith("@"):
            why = f"{expression[:60]!r} is none of {', '.join(NAMED)}"
        raise InvalidInput("read the schedule", why, EXAMPLE)
    minutes, hours, days, months, weekdays = (_field(part, *field) for part, field in zip(parts, FIELDS, strict=True))
    found = Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        is_any_hour=parts[1].startswith("*"),
        is_any_day=parts[2].startswith("*"),
        is_any_weekday=parts[4].startswith("*"),
    )
    has_only_days = found.is_any_weekday or found.is_any_day
    if has_only_days and not any(min(found.days) <= LONGEST_MONTHS[month - 1] for month in found.months):
        raise InvalidInput("read the schedule", f"{expression[:60]!r} names a day that no such month has", EXAMPLE)
    return found


def _field(text: str, name: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, slash, step_text = item.partition("/")
        if slash and not (step_text.isascii() and step_text.isdigit() and 0 < int(step_text[:9]) <= high):
            raise _wrong(item, name, f"the step is a number from 1 to {high}")
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = low, high if high != 7 else 6
        else:
            first = _value(first_text, item, name, low, high)
            last = _value(last_text, item, name, low, high) if dash else high if slash else first
        if last < first:
            raise _wrong(item, name, "the range ends before it begins")
        values.update(range(first, last + 1, int(step_text) if slash else 1))
    return values


def _value(text: str, item: str, name: str, low: int, high: int) -> int:
    names = {"month": (MONTHS, 1), "day of week": (WEEKDAYS, 0)}.get(name)
    if names is not None and text in names[0]:
        return names[0].index(text) + names[1]
    if text.isascii() and text.isdigit() and len(text) < 4 and low <= int(text) <= high:
        return int(text)
    raise _wrong(item, name, f"write {low} to {high}" + (" or names" if names is not None else ""))


def _wrong(item: str, name: str, why: str) -> InvalidInput:
    return InvalidInput("read the schedule", f"{item[:40]!r} is not a {name}: {why}", EXAMPLE)
