"""The next run of a schedule. Pure: the offset of a time zone from UTC is asked of the caller."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hsu_core.model.schedules import Cron, ScheduleSpec

OffsetAt = Callable[[float], float]
"""Seconds by which local time is ahead of UTC at a time (seconds since 1970)."""

DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60

LONGEST_GAP_DAYS = 366 * 9
"""A 29 February may be eight years away."""

LATE_S = 90.0
"""A run that is this late was missed: the host slept, or the clock was set forward."""

SET_BACK_LIMIT_S = 3 * HOUR_S
"""If the clock was set back by more, the last run does not hold up the next ones until the clock is there again."""


@dataclass(frozen=True, slots=True)
class NextRun:
    """When an instance runs next (seconds since 1970). `is_taken`: the time has come; the run goes on or is over."""

    schedule: ScheduleSpec
    at: float
    is_taken: bool = False


def next_run_at(cron: Cron, after_at: float, offset_at: OffsetAt) -> float:
    """Return the first time of the schedule in a minute after that of `after_at` (infinite: never).

    A local time that the clock skips is that much later. One that comes twice counts once, but for schedules of
    every hour, which go on by elapsed time.
    """
    after_minute = math.floor(after_at / MINUTE_S) * MINUTE_S
    start = math.floor((after_minute + offset_at(after_minute) - SET_BACK_LIMIT_S) / HOUR_S) * HOUR_S
    for hour in _hours(cron, start):
        found = [
            at
            for minute in cron.minutes
            for at in _instants(hour + minute * MINUTE_S, offset_at, cron.is_any_hour)
            if at > after_minute
        ]
        if found:
            return min(found)
    return math.inf


def base_at(now_at: float, last_at: float, is_catching_up: bool) -> float:
    """Return the time after which the next run is looked for; `last_at` is that of the last run (0: none)."""
    if not last_at or last_at - now_at > SET_BACK_LIMIT_S:
        return now_at
    return last_at if is_catching_up else max(now_at, last_at)


def _hours(cron: Cron, start: int) -> Iterator[int]:
    """Yield the hours of the schedule from `start` on, in local seconds."""
    first_day = start // DAY_S
    for day in range(first_day, first_day + LONGEST_GAP_DAYS):
        month, day_of_month = _month_and_day(day)
        if cron.has_day(month, day_of_month, (day + 4) % 7):  # 1 January 1970 was a Thursday
            for hour in cron.hours:
                if day * DAY_S + hour * HOUR_S >= start:
                    yield day * DAY_S + hour * HOUR_S


def _instants(local: int, offset_at: OffsetAt, is_every: bool) -> list[float]:
    """Return the times at which the clocks show `local`, a single one unless `is_every`."""
    before, after = offset_at(local - DAY_S), offset_at(local + DAY_S)
    found = sorted({local - offset for offset in (before, after) if offset_at(local - offset) == offset})
    if not found:
        return [local - before]
    return found if is_every else found[:1]


def _month_and_day(day: int) -> tuple[int, int]:
    """Return month and day of a day since 1970 (Howard Hinnant's civil_from_days)."""
    of_era = (day + 719_468) % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    part = (5 * of_year + 2) // 153
    return part + 3 if part < 10 else part - 9, of_year - (153 * part + 2) // 5 + 1
