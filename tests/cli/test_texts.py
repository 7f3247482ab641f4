"""Small pure parts: YAML and JSON output, columns, ages, suggestions, hoisted options."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hsu_cluster.cli.encode import to_json, to_yaml
from hsu_cluster.cli.layout import columns, row
from hsu_cluster.cli.log_lines import LINE_LIMIT, whole_lines
from hsu_cluster.cli.main import hoisted
from hsu_cluster.cli.text import age, close_to, count, shown
from tests.cli.documents import instance, listed

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_yaml_reads_back_as_the_same_document(document: Any) -> None:
    assert yaml.safe_load(to_yaml(document)) == document


def test_yaml_is_written_for_people() -> None:
    text = to_yaml(listed(instance(reason="", ports={"http": 20000})))
    assert text.splitlines()[:4] == ["items:", "  - id: shop/web.0", "    namespace: default", "    app: shop"]
    assert "    ports:\n      http: 20000" in text


@given(JSON)
def test_json_is_the_document_unchanged_and_safe_for_a_terminal(document: Any) -> None:
    text = to_json(document)
    assert json.loads(text) == document
    assert text.isascii()
    assert all(char.isprintable() or char == "\n" for char in text.replace("\x7f", ""))


def test_columns_that_say_nothing_are_left_out() -> None:
    lines = columns(("NAME", "EMPTY", "COUNT"), [row("a", "", 1), row("long name", None, 22)])
    assert [line.plain for line in lines] == ["NAME        COUNT", "a           1", "long name   22"]


def test_columns_align_wide_characters() -> None:
    lines = columns(("NAME", "COUNT"), [row("店", 1), row("ab", 2)])
    assert [line.plain for line in lines] == ["NAME   COUNT", "店     1", "ab     2"]


@pytest.mark.parametrize(
    ("since", "told"), [(None, "-"), (0.0, "-"), (100.0, "0s"), (95.0, "5s"), (200.0, "0s"), (40.0, "1m")]
)
def test_ages(since: float | None, told: str) -> None:
    assert age(since, 100.0) == told


@given(st.text())
def test_shown_text_is_printable(text: str) -> None:
    assert shown(text).isprintable()


def test_counts_and_suggestions() -> None:
    assert (count(1, "app"), count(0, "app"), count(2, "app")) == ("1 app", "0 apps", "2 apps")
    assert close_to("instnaces", ["apps", "instances"]) == "instances"
    assert close_to("xyz", ["apps", "instances"]) == ""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["get", "apps", "--server", "http://a"], (["--server", "http://a"], ["get", "apps"])),
        (["get", "--server=http://a", "apps"], (["--server=http://a"], ["get", "apps"])),
        (["get", "apps", "--server"], (["--server"], ["get", "apps"])),
        (["get", "--", "--server", "x"], ([], ["get", "--", "--server", "x"])),
        (["--context", "a", "status", "--token-file", "t"], (["--context", "a", "--token-file", "t"], ["status"])),
    ],
)
def test_connection_options_may_stand_anywhere(given: list[str], wanted: tuple[list[str], list[str]]) -> None:
    assert hoisted(given) == wanted


async def _lines(*chunks: str) -> list[str]:
    async def stream() -> Any:
        for chunk in chunks:
            yield chunk

    return [line async for line in whole_lines(stream())]


def test_log_chunks_become_whole_lines() -> None:
    assert asyncio.run(_lines("one\ntw", "o\r\n", "\nthree")) == ["one", "two", "", "three"]
    long = asyncio.run(_lines("x" * LINE_LIMIT + "y", "y\nz"))
    assert [len(line) for line in long] == [LINE_LIMIT, 2, 1]
