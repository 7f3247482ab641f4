"""Schedules: what the fields mean, and which time is next, also where clocks change."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_agent.planning import cron
from hsu_core.model.errors import InvalidInput
from hsu_core.model.schedules import parse_cron

BERLIN = ZoneInfo("Europe/Berlin")


def following(expression: str, after: str, count: int = 1, zone: str = "UTC") -> list[str]:
    """Return the next runs after a UTC time, in UTC."""
    found = []
    at = datetime.fromisoformat(after).replace(tzinfo=UTC).timestamp()

    def offset_at(when: float) -> float:
        offset = datetime.fromtimestamp(when, ZoneInfo(zone)).utcoffset()
        assert offset is not None
        return offset.total_seconds()

    for _ in range(count):
        at = cron.next_run_at(parse_cron(expression), at, offset_at)
        found.append(datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/5 * * * *", "2026-01-01 10:05"),
        ("@hourly", "2026-01-01 11:00"),
        ("@yearly", "2027-01-01 00:00"),
        ("30 2 * * mon-fri", "2026-01-02 02:30"),
        ("0 0 * * 7", "2026-01-04 00:00"),
        ("0 0 29 feb *", "2028-02-29 00:00"),
        ("0 12 13 * fri", "2026-01-02 12:00"),
        ("10-20/5,50 9 * JAN *", "2026-01-02 09:10"),
    ],
)
def test_the_next_run_of(expression: str, expected: str) -> None:
    assert following(expression, "2026-01-01 10:00:30") == [expected]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *",
     "@reboot", "a * * * *", "0 0 30 feb *", "* * * * mon-", "1,,2 * * * *"],
)  # fmt: skip
def test_a_wrong_schedule_is_refused_with_an_example(expression: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_cron(expression)
    assert caught.value.fix


def test_a_time_that_the_clock_skips_is_that_much_later_and_comes_once() -> None:
    assert following("30 2 * * *", "2026-03-28 12:00", 2, "Europe/Berlin") == ["2026-03-29 01:30", "2026-03-30 00:30"]


def test_a_time_that_comes_twice_counts_once_but_every_five_minutes_go_on() -> None:
    assert following("30 2 * * *", "2026-10-24 12:00", 2, "Europe/Berlin") == ["2026-10-25 00:30", "2026-10-26 01:30"]
    assert following("*/30 * * * *", "2026-10-25 00:10", 4, "Europe/Berlin") == [
        "2026-10-25 00:30",
        "2026-10-25 01:00",
        "2026-10-25 01:30",
        "2026-10-25 02:00",
    ]


@given(
    after=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),
    minutes=st.sampled_from(["*", "*/7", "0", "15,45", "59"]),
    hours=st.sampled_from(["*", "*/6", "2", "0-3"]),
)
def test_the_next_run_is_later_and_shows_the_wanted_time(after: datetime, minutes: str, hours: str) -> None:
    parsed = parse_cron(f"{minutes} {hours} * * *")
    at = after.replace(tzinfo=UTC).timestamp()

    def offset_at(when: float) -> float:
        offset = datetime.fromtimestamp(when, BERLIN).utcoffset()
        assert offset is not None
        return offset.total_seconds()

    found = cron.next_run_at(parsed, at, offset_at)
    assert math.floor(found / 60) > math.floor(at / 60)
    assert found - at <= timedelta(days=2).total_seconds()
    shown = datetime.fromtimestamp(found, BERLIN)
    assert shown.minute in parsed.minutes
    assert shown.hour in parsed.hours or (shown.hour == 3 and 2 in parsed.hours)


def test_a_clock_set_back_does_not_repeat_a_minute_and_holds_up_nothing_for_long() -> None:
    assert cron.base_at(now_at=1000.0, last_at=1600.0, is_catching_up=False) == 1600.0
    assert cron.base_at(now_at=1000.0, last_at=1e9, is_catching_up=False) == 1000.0
    assert cron.base_at(now_at=1000.0, last_at=10.0, is_catching_up=True) == 10.0
    assert cron.base_at(now_at=1000.0, last_at=10.0, is_catching_up=False) == 1000.0
