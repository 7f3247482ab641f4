"""The conditions of an analysis: small expressions over `result`, read by a parser of our own. Pure.

No text of a user is ever run as Python. Both sides need this: a deploy checks a condition's form, the leader works it
out over what was measured. The grammar is in `expression_syntax`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hsu_core.model.expression_syntax import FUNCTIONS as FUNCTIONS
from hsu_core.model.expression_syntax import (
    Binary,
    Call,
    Literal,
    Node,
    Parser,
    Part,
    Result,
    Unary,
)
from hsu_core.model.expression_syntax import InvalidExpression as InvalidExpression
from hsu_core.model.expression_syntax import Value as Value


class _Missing(InvalidExpression):
    """A field or an item that is not there: `default` has an answer to this."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read."""

    text: str
    root: Node

    def value(self, result: Value) -> Value:
        """Return what it comes to for this `result`. Raises InvalidExpression where that makes no sense."""
        try:
            return _value(self.root, result)
        except (OverflowError, RecursionError) as error:
            raise InvalidExpression(f"a number is too large or a value too deep ({error})"[:200]) from error

    def holds(self, result: Value) -> bool:
        """Return whether the condition holds for this `result`. Raises InvalidExpression if it is no condition."""
        found = self.value(result)
        if not isinstance(found, bool):
            raise InvalidExpression(f"it comes to {_shown(found)}, not to true or false", "compare it with something")
        return found


def parse_expression(text: str) -> Expression:
    """Return the expression in `text`. Raises InvalidExpression with the position of what is wrong."""
    return Expression(text, Parser(text).whole())


def parse_path(text: str) -> Expression:
    """Return what `$.data.items[0]["some-key"]` takes of `result`; an empty text: all of it.

    Raises InvalidExpression with the position of what is wrong.
    """
    if not text:
        return Expression(text, Result())
    if not text.startswith("$"):
        raise InvalidExpression("a path begins with $", "write for example $.data.ok", text=text)
    root = Parser(text).whole()
    node: Node = root
    while isinstance(node, Part) and isinstance(node.key, Literal):
        node = node.whole
    if not isinstance(node, Result):
        raise InvalidExpression("a path has only names and numbers", 'write for example $.items[0]["a-b"]', text=text)
    return Expression(text, root)


def _value(node: Node, result: Value) -> Value:
    match node:
        case Literal(value=value):
            return value
        case Result():
            return result
        case Part(whole=whole, key=key):
            return _part(_value(whole, result), _value(key, result))
        case Call(name=name, arguments=arguments):
            return _called(name, arguments, result)
        case Unary(sign="!", operand=operand):
            return not _truth(_value(operand, result), "not")
        case Unary(operand=operand):
            return -_number(_value(operand, result), "-")
        case Binary(sign="&&", left=left, right=right):
            return _truth(_value(left, result), "and") and _truth(_value(right, result), "and")
        case Binary(sign="||", left=left, right=right):
            return _truth(_value(left, result), "or") or _truth(_value(right, result), "or")
        case Binary(sign=sign, left=left, right=right):
            return _combined(sign, _value(left, result), _value(right, result))


def _combined(sign: str, left: Value, right: Value) -> Value:
    if sign in ("==", "!="):
        return _is_equal(left, right) == (sign == "==")
    if sign in ("<", "<=", ">", ">="):
        return _compared(sign, left, right)
    first, second = _number(left, sign), _number(right, sign)
    if sign == "+":
        return first + second
    if sign == "-":
        return first - second
    if sign == "*":
        return first * second
    if second == 0:
        raise InvalidExpression("a division by 0", "test the divisor first, or use a difference")
    return first / second


def _compared(sign: str, left: Value, right: Value) -> bool:
    is_comparable = (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))
    if not is_comparable:
        listed = next((value for value in (left, right) if isinstance(value, list)), None)
        fix = "write result[0] for the first item" if listed is not None else "compare numbers, or texts"
        raise InvalidExpression(f"{_shown(left)} {sign} {_shown(right)} compares different kinds", fix)
    if sign == "<":
        return bool(left < right)
    if sign == "<=":
        return bool(left <= right)
    return bool(left > right) if sign == ">" else bool(left >= right)


def _is_equal(left: Value, right: Value) -> bool:
    """Return whether both are the same; true is not 1, 1 is 1.0, not a number is nothing's equal."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Value, sign: str) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidExpression(f"{sign} needs numbers, found {_shown(value)}", "number(...) reads a text as one")
    return value


def _truth(value: Value, word: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidExpression(f"{word} needs true or false, found {_shown(value)}", "compare it with something")
    return value


def _part(whole: Value, key: Value) -> Value:
    if isinstance(whole, dict):
        if not isinstance(key, str):
            raise InvalidExpression(f"a map has names, not {_shown(key)}", 'write result["name"]')
        if key not in whole:
            names = ", ".join(str(name)[:30] for name in list(whole)[:8]) or "none"
            raise _Missing(f"there is no field {key[:60]!r} (there are {names})", "default(..., 0) gives one")
        return whole[key]
    if isinstance(whole, list):
        if not isinstance(key, int) or isinstance(key, bool):
            raise InvalidExpression(f"a list has numbers, not {_shown(key)}", "write result[0]")
        if not 0 <= key < len(whole):
            raise _Missing(f"there is no item {key} in a list of {len(whole)}", "default(..., 0) gives one")
        return whole[key]
    raise _Missing(f"{_shown(whole)} has no parts, so no {str(key)[:60]!r}", "look at what was measured")


def _called(name: str, arguments: tuple[Node, ...], result: Value) -> Value:
    if name == "default":
        try:
            found = _value(arguments[0], result)
        except _Missing:
            found = None
        is_nothing = found is None or (isinstance(found, float) and math.isnan(found))
        return _value(arguments[1], result) if is_nothing else found
    value = _value(arguments[0], result)
    if name == "isNull":
        return value is None
    if name == "len":
        if not isinstance(value, list | dict | str):
            raise InvalidExpression(f"len needs a list, a map or a text, found {_shown(value)}")
        return len(value)
    if name == "number":
        return value if _is_number(value) else _read_number(value)
    number = _number(value, name)
    return math.isnan(number) if name == "isNaN" else math.isinf(number)


def _read_number(value: Value) -> float:
    try:
        if isinstance(value, str) and len(value) <= 100:
            return float(value)
    except ValueError:
        pass
    raise InvalidExpression(f"{_shown(value)} is not a number", "look at what was measured")


def _shown(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, str):
        return repr(value[:40])
    return f"{value:g}" if isinstance(value, float) or abs(value) < 10**15 else "a large number"
