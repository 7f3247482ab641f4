"""Rules of the strict JSON reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire.yaml_text import load_document


def refusal(text: str, file: str = "x.json") -> str:
    with pytest.raises(InvalidManifest) as caught:
        load_document(text, file)
    assert caught.value.faults[0].fix
    return str(caught.value.faults[0])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"a": 1,\n "a": 2}', "x.json:2: key 'a' stands twice, first in line 1"),
        ('{"a": NaN}', "expected a value, found 'NaN}'"),
        ('{"a": Infinity}', "expected a value"),
        ('{"a": -Infinity}', "expected a value"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ('{"a": 9007199254740993}', "beyond 2^53"),
        ('{"a": -9007199254740993}', "beyond 2^53"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 01}', "expected `,` or `}`"),
        ('{"a": 1,}', "expected a key in double quotes"),
        ('{"a": [1,]}', "expected a value"),
        ("{'a': 1}", "expected a key in double quotes"),
        ('{"a" 1}', "expected `:` after key 'a'"),
        ('{"a": "x', "Unterminated string"),
        ('{"a": "x\ny"}', "Invalid control character"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": 1} x', "text after the end"),
        ('{"a": \n\n', "x.json:3: the document ends early"),
        ('{"a":' * 40, "nested deeper than 32"),
        ('{"a": 0x10}', "expected `,` or `}`"),
        ('{"a": // no\n 1}', "expected a value"),
    ],
)
def test_what_json_does_not_allow_is_refused(text: str, part: str) -> None:
    assert part in refusal(text)


def test_json_is_recognised_by_its_start() -> None:
    assert "beyond 2^53" in refusal('{"a": 9007199254740993}', "request")
    assert load_document('{"a": "\\ud83d\\ude00"}', "shop.yaml").data == {"a": "😀"}


def test_flow_style_yaml_in_a_yaml_file_is_yaml() -> None:
    assert load_document('{"a": b, c: no}', "x.yaml").data == {"a": "b", "c": "no"}


def test_lines_are_known() -> None:
    document = load_document('{\n "a": [\n  1,\n  {"b": 2}]}', "x.json")
    assert (document.line(("a",)), document.line(("a", 1, "b"))) == (2, 4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_every_json_value_is_read_as_the_standard_reader_reads_it(
    tree: Any, is_ascii: bool, indent: int | None
) -> None:
    assert load_document(json.dumps(tree, ensure_ascii=is_ascii, indent=indent), "x.json").data == tree
