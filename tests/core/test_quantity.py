"""Quantities: what people write, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_core.model.errors import InvalidInput
from hsu_core.model.quantity import (
    format_cpu,
    format_duration,
    format_size,
    parse_cpu,
    parse_duration,
    parse_percent_or_count,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MB", 512_000_000),
        ("1GiB", 2**30),
        ("1.5KiB", 1536),
        (7, 7),
        ("7", 7),
        ("10 MiB", 10 * 2**20),
        ("2g", 2 * 10**9),
    ],
)
def test_sizes(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(("text", "milli"), [("250m", 250), ("1.5", 1500), (2, 2000), (0.1, 100)])
def test_processor_shares(text: str | float, milli: int) -> None:
    assert parse_cpu(text) == milli


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3d", 259_200), ("1m30s", 90), ("300ms", 0.3), ("1.5h", 5400), (5, 5), ("5", 5), ("0s", 0), ("2us", 2e-6)],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "abc", "-1", "1x", "1m 30s", "30sec", True, "1e9", "٣s", "9999999d", "nan"])
def test_wrong_durations_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidInput, match="30s or 1m30s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "12XB", "-5MB", "1,5GB", True, "9999999TiB", "inf"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"quantity\.size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "12c", "-1", True, "99999999"])
def test_wrong_processor_shares_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"quantity\.cpu"):
        parse_cpu(text)


def test_percent_or_count() -> None:
    assert parse_percent_or_count("25%") == (25, True)
    assert parse_percent_or_count(2) == (2, False)
    with pytest.raises(InvalidInput):
        parse_percent_or_count("2.5%")


@given(st.integers(0, 10**15))
def test_a_formatted_size_is_close_to_what_it_says(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.001, abs=1)


@given(st.integers(0, 999_999))
def test_a_formatted_share_is_exact(milli: int) -> None:
    assert parse_cpu(format_cpu(milli)) == milli


@given(st.floats(0, 10**7))
def test_a_formatted_duration_can_be_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.001)
