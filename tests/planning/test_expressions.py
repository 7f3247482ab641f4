"""Conditions of an analysis: what they come to, what is refused, and that nothing else is ever raised."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsu_core.model.expression_syntax import DEPTH_LIMIT, LENGTH_LIMIT
from hsu_core.model.expressions import InvalidExpression, parse_expression, parse_path

ANSWER: Any = {"exit_code": 0, "output": {"ok": True, "codes": [200, 503], "a-b": "x"}, "none": None}


@pytest.mark.parametrize(
    ("text", "result", "expected"),
    [
        ("result", 5, 5),
        ("result < 0.05", 0.01, True),
        ("result[0] >= 0.95", [0.95], True),
        ("result[0] >= 0.95 and len(result) == 1", [0.5], False),
        ("result > 1 or result < -1", -2, True),
        ("result > 1 || result < -1 && false", 2, True),
        ("(result > 1 || result < -1) && false", 2, False),
        ("not result == 1", 2, True),
        ("!(result == 1)", 1, False),
        ("not not true", None, True),
        ("1 + 2 * 3 - 4 / 2", None, 5),
        ("(1 + 2) * 3", None, 9),
        ("10 - 2 - 3", None, 5),
        ("-result + - -2", 3, -1),
        (".5 + 1e1", None, 10.5),
        ("result.exit_code == 0", ANSWER, True),
        ("result.output.codes[1]", ANSWER, 503),
        ("result.output['a-b'] == \"x\"", ANSWER, True),
        ("result.output.ok", ANSWER, True),
        ("'it\\'s' == \"it's\"", None, True),
        ("'a' < 'b'", None, True),
        ("result == null", None, True),
        ("result.none == nil", ANSWER, True),
        ("1 == 1.0", None, True),
        ("true == 1", None, False),
        ("result != 'x'", 7, True),
        ("isNaN(result)", math.nan, True),
        ("isInf(result)", -math.inf, True),
        ("result == result", math.nan, False),
        ("isNull(result)", 0, False),
        ("number(result) > 3", "3.5", True),
        ("default(result.missing, 7)", ANSWER, 7),
        ("default(result[3], 7)", [1], 7),
        ("default(result, 0) == 0", math.nan, True),
        ("default(result.none, 1 + 1)", ANSWER, 2),
        ("default(result.exit_code, 7)", ANSWER, 0),
        ("len(result)", "abc", 3),
        ("false and result.missing", ANSWER, False),
        ("true or result.missing", ANSWER, True),
    ],
)
def test_an_expression_comes_to_what_it_says(text: str, result: Any, expected: Any) -> None:
    found = parse_expression(text).value(result)
    assert found == expected
    assert type(found) is type(expected) or not isinstance(found, bool)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("result <", 8),
        ("result < < 1", 9),
        ("(result", 7),
        ("result)", 6),
        ("reslt < 1", 0),
        ("result < 1 < 2", 11),
        ("result = 1", 7),
        ("result ; 1", 7),
        ("'open", 0),
        ("len()", 4),
        ("len(1, 2)", 0),
        ("result.", 7),
        ("result.1", 6),
        ("result[1", 8),
        ("__import__('os')", 0),
        ("result.__class__(1)", 16),
        ("lambda: 1", 6),
        ("\u00a0", 0),
        ("(" * (DEPTH_LIMIT + 1) + "1" + ")" * (DEPTH_LIMIT + 1), DEPTH_LIMIT),
        ("1+" * 450 + "1", 200),
        (" " * LENGTH_LIMIT + "1", LENGTH_LIMIT),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_position(text: str, position: int) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse_expression(text)
    assert caught.value.position == position
    assert f"(character {position + 1})" in caught.value.why


@pytest.mark.parametrize(
    ("text", "result", "why"),
    [
        ("result < 1", [0.5], "a list of 1 < 1 compares different kinds"),
        ("result < 1", "0.5", "'0.5' < 1 compares different kinds"),
        ("result[0] < 1", [], "there is no item 0 in a list of 0"),
        ("result.a < 1", {"b": 1}, "there is no field 'a' (there are b)"),
        ("result.a < 1", None, "null has no parts"),
        ("result[true]", [1], "a list has numbers, not true"),
        ("result / 0", 1, "a division by 0"),
        ("result + 1", "1", "+ needs numbers"),
        ("result and true", 1, "and needs true or false, found 1"),
        ("len(result)", 1, "len needs a list"),
        ("number(result)", "many", "'many' is not a number"),
        ("result * 1.5", 10**400, "a number is too large"),
    ],
)
def test_what_makes_no_sense_for_a_result_is_refused(text: str, result: Any, why: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse_expression(text).value(result)
    assert why in caught.value.why


def test_a_condition_comes_to_true_or_false_or_is_none() -> None:
    assert parse_expression("result == 1").holds(1)
    with pytest.raises(InvalidExpression, match="it comes to 1, not to true or false"):
        parse_expression("result").holds(1)


def test_a_path_takes_a_part_of_an_answer() -> None:
    assert parse_path("").value(ANSWER) is ANSWER
    assert parse_path("$").value(ANSWER) is ANSWER
    assert parse_path('$.output["a-b"]').value(ANSWER) == "x"
    assert parse_path("$.output.codes[0]").value(ANSWER) == 200


@pytest.mark.parametrize("text", ["data.ok", "$.a + 1", "$.a[$.b]", "$.a-b", "$..a", "len($)", "$.a["])
def test_a_path_is_names_and_numbers(text: str) -> None:
    with pytest.raises(InvalidExpression):
        parse_path(text)


_SIGNS = "( ) [ ] . , + - * / < <= == != ! && || 0 1.5 1e999 'a' \"b\" field $"
_NAMES = "result len isNaN default number and or not true null"
_WORDS = st.sampled_from([*_NAMES.split(" "), *_SIGNS.split(" ")])
_RESULTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.one_of(st.lists(_WORDS, max_size=40).map(" ".join), st.text(max_size=60)), _RESULTS)
def test_nothing_is_raised_but_its_own_error(text: str, result: Any) -> None:
    for read in (parse_expression, parse_path):
        with contextlib.suppress(InvalidExpression):
            read(text).value(result)
