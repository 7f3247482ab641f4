"""The syntax of the expressions of an analysis: text in, a tree out, by recursive descent. Pure.

The grammar, loosest first; what a tree comes to is in `expressions`:

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


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands in the text."""

    value: Value


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured."""


@dataclass(frozen=True, slots=True)
class Part:
    """`whole[key]` or `whole.key`."""

    whole: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call:
    """One of `FUNCTIONS` with its arguments."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """`!` or `-` before an operand."""

    sign: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands with an operator between them."""

    sign: str
    left: Node
    right: Node


Node = Literal | Result | Part | Call | Unary | Binary


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, text, sign, end
    text: str
    position: int


class Parser:
    """Recursive descent over one text; every level of nesting is counted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        if len(text) > LENGTH_LIMIT:
            self._refuse(LENGTH_LIMIT, f"it has more than {LENGTH_LIMIT} characters", "shorten it")
        self._tokens = self._split()
        self._next = 0

    def whole(self) -> Node:
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

    def _deeper(self, parse: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            self._refuse(self._here.position, f"it is nested more than {DEPTH_LIMIT} deep", "split it")
        node = parse()
        self._depth -= 1
        return node

    def _either(self) -> Node:
        return self._deeper(lambda: self._chain(self._both, "||"))

    def _both(self) -> Node:
        return self._chain(self._negation, "&&")

    def _negation(self) -> Node:
        if self._takes("!"):
            return Unary("!", self._deeper(self._negation))
        left = self._sum()
        sign = self._takes("==", "!=", "<", "<=", ">", ">=")
        return Binary(sign, left, self._sum()) if sign else left

    def _sum(self) -> Node:
        return self._chain(lambda: self._chain(self._sign, "*", "/"), "+", "-")

    def _chain(self, parse: Callable[[], Node], *signs: str) -> Node:
        node = parse()
        while sign := self._takes(*signs):
            node = Binary(sign, node, parse())
        return node

    def _sign(self) -> Node:
        if self._takes("-"):
            return Unary("-", self._deeper(self._sign))
        node = self._primary()
        while sign := self._takes("[", "."):
            if sign == "[":
                node = Part(node, self._either())
                self._needs("]")
            elif self._here.kind == "name":
                node = Part(node, Literal(self._here.text))
                self._next += 1
            else:
                self._refuse_here("the name of a field")
        return node

    def _primary(self) -> Node:
        token = self._here
        if self._takes("("):
            node = self._either()
            self._needs(")")
            return node
        if token.kind not in ("number", "text", "name") and token.text != "$":
            self._refuse_here("a value")
        self._next += 1
        if token.kind == "number":
            return Literal(float(token.text) if re.search(r"[.eE]", token.text) else int(token.text))
        if token.kind == "text":
            return Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL))
        if token.text in _CONSTANTS:
            return Literal(_CONSTANTS[token.text])
        if token.text in (_RESULT, "$"):
            return Result()
        if token.text in FUNCTIONS:
            return self._call(token)
        known = ", ".join([_RESULT, *_CONSTANTS, *FUNCTIONS])
        self._refuse(token.position, f"{token.text[:60]!r} is not known", f"known are {known}; texts stand in quotes")

    def _call(self, token: _Token) -> Node:
        self._needs("(")
        arguments = [self._either()]
        while self._takes(","):
            arguments.append(self._either())
        self._needs(")")
        count = FUNCTIONS[token.text]
        if len(arguments) != count:
            self._refuse(token.position, f"{token.text} takes {count} value{'s' if count > 1 else ''}")
        return Call(token.text, tuple(arguments))
