"""The conditions of an analysis: small expressions over `result`, read by a parser of our own. Pure.

No text of a user is ever run as Python. Both sides need this: a deploy checks a condition's form, the leader works it
out over what was measured. The grammar, loosest first:

    condition  = both { ("or" | "||") both }
    both       = negation { ("and" | "&&") negation }
    negation   = ("not" | "!") negation | comparison
    comparison = sum [ ("==" | "!=" | "<" | "<=" | ">" | ">=") sum ]
    sum        = product { ("+" | "-") product }
    product    = sign { ("*" | "/") sign }
    sign       = "-" sign | value { "[" condition "]" | "." NAME }
    value      = NUMBER | TEXT | true | false | null | result | FUNCTION "(" condition { "," condition } ")"
               | "(" condition ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from hsu_core.model.errors import InvalidInput

LENGTH_LIMIT = 1000
"""Longest expression, in characters: a longer one is not one that a person wrote."""

DEPTH_LIMIT = 24
"""Deepest nesting of an expression; real ones have three or four."""

TOKENS_LIMIT = 200
"""Most words and signs of an expression: bounds how deep working it out goes."""

Value = Any
"""What JSON can say: None, bool, int, float, str, list, dict."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<sign>\|\||&&|[=!<>]=|[-+*/()<>!,.$]|\[|\])"
    r"|(?P<end>$))",
    re.ASCII | re.DOTALL,
)
_BLANKS = " \t\n\r\f\v"
_WORDS: Mapping[str, str] = {"or": "||", "and": "&&", "not": "!"}
_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False, "null": None, "nil": None}
_RESULT = "result"

FUNCTIONS: Mapping[str, int] = {"len": 1, "isNaN": 1, "isInf": 1, "isNull": 1, "number": 1, "default": 2}
"""What can be called, with the number of arguments."""


class InvalidExpression(InvalidInput):
    """An expression that cannot be read, or not be worked out; `position` is where, in characters from 0."""

    code = "analysis.expression"

    def __init__(self, why: str, fix: str = "", *, position: int = 0, text: str = "") -> None:
        super().__init__(f"read the expression {text[:80]!r}" if text else "work out the expression", why, fix)
        self.position = position


class _Missing(InvalidExpression):
    """A field or an item that is not there: `default` has an answer to this."""


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class _Result:
    pass


@dataclass(frozen=True, slots=True)
class _Part:
    whole: _Node
    key: _Node


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Unary:
    sign: str
    operand: _Node


@dataclass(frozen=True, slots=True)
class _Binary:
    sign: str
    left: _Node
    right: _Node


_Node = _Literal | _Result | _Part | _Call | _Unary | _Binary


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read."""

    text: str
    root: _Node

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
    return Expression(text, _Parser(text).whole())


def parse_path(text: str) -> Expression:
    """Return what `$.data.items[0]["some-key"]` takes of `result`; an empty text: all of it.

    Raises InvalidExpression with the position of what is wrong.
    """
    if not text:
        return Expression(text, _Result())
    if not text.startswith("$"):
        raise InvalidExpression("a path begins with $", "write for example $.data.ok", text=text)
    root = _Parser(text).whole()
    node: _Node = root
    while isinstance(node, _Part) and isinstance(node.key, _Literal):
        node = node.whole
    if not isinstance(node, _Result):
        raise InvalidExpression("a path has only names and numbers", 'write for example $.items[0]["a-b"]', text=text)
    return Expression(text, root)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, text, sign, end
    text: str
    position: int


class _Parser:
    """Recursive descent; every level of nesting is counted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        if len(text) > LENGTH_LIMIT:
            self._refuse(LENGTH_LIMIT, f"it has more than {LENGTH_LIMIT} characters", "shorten it")
        self._tokens = self._split()
        self._next = 0

    def whole(self) -> _Node:
        """Return the root."""
        node = self._either()
        if self._here.kind != "end":
            self._refuse_here("an operator or the end")
        return node

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while True:
            match = _TOKEN.match(self._text, position)
            if match is None:
                at = len(self._text) - len(self._text[position:].lstrip(_BLANKS))
                self._refuse(at, f"{self._text[at]!r} has no meaning here", "texts stand in '...' or \"...\"")
            kind = str(match.lastgroup)
            sign = _WORDS.get(match[kind], "") if kind == "name" else ""
            tokens.append(_Token("sign" if sign else kind, sign or match[kind], match.start(kind)))
            if kind == "end":
                return tokens
            if len(tokens) > TOKENS_LIMIT:
                self._refuse(match.start(kind), f"it has more than {TOKENS_LIMIT} words and signs", "shorten it")
            position = match.end()

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, *signs: str) -> str:
        """Step over one of the signs and return it; an empty text if another token is here."""
        if self._here.kind != "sign" or self._here.text not in signs:
            return ""
        self._next += 1
        return self._tokens[self._next - 1].text

    def _needs(self, sign: str) -> None:
        if not self._takes(sign):
            self._refuse_here(repr(sign))

    def _refuse_here(self, wanted: str) -> NoReturn:
        found = "the end" if self._here.kind == "end" else repr(self._here.text[:30])
        self._refuse(self._here.position, f"found {found} where {wanted} should be")

    def _refuse(self, position: int, why: str, fix: str = "") -> NoReturn:
        text = f"{why} (character {position + 1})"
        raise InvalidExpression(text, fix, position=position, text=self._text)

    def _deeper(self, parse: Callable[[], _Node]) -> _Node:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            self._refuse(self._here.position, f"it is nested more than {DEPTH_LIMIT} deep", "split it")
        node = parse()
        self._depth -= 1
        return node

    def _either(self) -> _Node:
        return self._deeper(lambda: self._chain(self._both, "||"))

    def _both(self) -> _Node:
        return self._chain(self._negation, "&&")

    def _negation(self) -> _Node:
        if self._takes("!"):
            return _Unary("!", self._deeper(self._negation))
        left = self._sum()
        sign = self._takes("==", "!=", "<", "<=", ">", ">=")
        return _Binary(sign, left, self._sum()) if sign else left

    def _sum(self) -> _Node:
        return self._chain(lambda: self._chain(self._sign, "*", "/"), "+", "-")

    def _chain(self, parse: Callable[[], _Node], *signs: str) -> _Node:
        node = parse()
        while sign := self._takes(*signs):
            node = _Binary(sign, node, parse())
        return node

    def _sign(self) -> _Node:
        if self._takes("-"):
            return _Unary("-", self._deeper(self._sign))
        node = self._primary()
        while sign := self._takes("[", "."):
            if sign == "[":
                node = _Part(node, self._either())
                self._needs("]")
            elif self._here.kind == "name":
                node = _Part(node, _Literal(self._here.text))
                self._next += 1
            else:
                self._refuse_here("the name of a field")
        return node

    def _primary(self) -> _Node:
        token = self._here
        if self._takes("("):
            node = self._either()
            self._needs(")")
            return node
        if token.kind not in ("number", "text", "name") and token.text != "$":
            self._refuse_here("a value")
        self._next += 1
        if token.kind == "number":
            return _Literal(float(token.text) if re.search(r"[.eE]", token.text) else int(token.text))
        if token.kind == "text":
            return _Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL))
        if token.text in _CONSTANTS:
            return _Literal(_CONSTANTS[token.text])
        if token.text in (_RESULT, "$"):
            return _Result()
        if token.text in FUNCTIONS:
            return self._call(token)
        known = ", ".join([_RESULT, *_CONSTANTS, *FUNCTIONS])
        self._refuse(token.position, f"{token.text[:60]!r} is not known", f"known are {known}; texts stand in quotes")

    def _call(self, token: _Token) -> _Node:
        self._needs("(")
        arguments = [self._either()]
        while self._takes(","):
            arguments.append(self._either())
        self._needs(")")
        count = FUNCTIONS[token.text]
        if len(arguments) != count:
            self._refuse(token.position, f"{token.text} takes {count} value{'s' if count > 1 else ''}")
        return _Call(token.text, tuple(arguments))


def _value(node: _Node, result: Value) -> Value:
    match node:
        case _Literal(value=value):
            return value
        case _Result():
            return result
        case _Part(whole=whole, key=key):
            return _part(_value(whole, result), _value(key, result))
        case _Call(name=name, arguments=arguments):
            return _called(name, arguments, result)
        case _Unary(sign="!", operand=operand):
            return not _truth(_value(operand, result), "not")
        case _Unary(operand=operand):
            return -_number(_value(operand, result), "-")
        case _Binary(sign="&&", left=left, right=right):
            return _truth(_value(left, result), "and") and _truth(_value(right, result), "and")
        case _Binary(sign="||", left=left, right=right):
            return _truth(_value(left, result), "or") or _truth(_value(right, result), "or")
        case _Binary(sign=sign, left=left, right=right):
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


def _called(name: str, arguments: tuple[_Node, ...], result: Value) -> Value:
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
