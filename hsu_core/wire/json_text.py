"""Strict JSON with line numbers: what the standard reader lets pass is refused here.

Duplicate keys, NaN and Infinity, lone surrogates and integers beyond 2^53 mean different things to
different readers, so none of them gets in. Gives the same nodes as `yaml_text`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

from hsu_core.model.errors import Fault
from hsu_core.wire.tree import DEPTH_LIMIT, EXACT_INTEGER_LIMIT, NODE_LIMIT, Node, WrittenFloat, refuse

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: tuple[tuple[str, Any], ...] = (("true", True), ("false", False), ("null", None))


class JsonReader:
    """Reads one JSON document into nodes; `faults` has what is wrong but does not stop the reading."""

    def __init__(self, text: str, file: str) -> None:
        self.faults: list[Fault] = []
        self.is_beyond_limits = False
        self._text = text
        self._file = file
        self._at = 0
        self._count = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def read(self) -> Node:
        """Return the root. Raises InvalidManifest."""
        root = self._value(1)
        self._skip()
        if self._at != len(self._text):
            self._stop("there is text after the end of the document", "keep one JSON document in the file")
        return root

    def _line(self, at: int) -> int:
        return bisect_right(self._newlines, at - 1) + 1

    def _stop(self, text: str, fix: str) -> NoReturn:
        raise refuse(self._file, self._line(self._at), text, fix)

    def _skip(self) -> str:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _value(self, depth: int) -> Node:
        first = self._skip()
        self._count += 1
        self.is_beyond_limits = self._count > NODE_LIMIT or depth > DEPTH_LIMIT
        if self._count > NODE_LIMIT:
            self._stop(f"the document has more than {NODE_LIMIT} values", "split it")
        if depth > DEPTH_LIMIT:
            self._stop(f"values are nested deeper than {DEPTH_LIMIT}", "flatten the document")
        line = self._line(self._at)
        if first == "{":
            return self._object(depth, line)
        if first == "[":
            return self._array(depth, line)
        if first == '"':
            return Node(self._string(), line)
        for word, value in _WORDS:
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return Node(value, line)
        return Node(self._number(), line)

    def _string(self) -> str:
        text: str
        try:
            text, self._at = scanstring(self._text, self._at + 1, True)
        except JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            self._stop(f"the text is not valid JSON: {error.msg}", "escape or close it")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                self._stop("a text holds half of a surrogate pair", "write the whole character")
        if "\x00" in text:
            self._stop("a text holds the character NUL", "remove it: programs cannot be given it")
        return text

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self._at)
        if match is None or len(match.group()) > 400:
            found = self._text[self._at : self._at + 12].split("\n")[0]
            self._stop(
                f"expected a value, found {found!r}" if found else "the document ends early",
                "write an object, list, text in double quotes, number, true, false or null",
            )
        written = match.group()
        if match.group(1) or match.group(2):
            number = WrittenFloat(written)
            number.text = written
            if number in (float("inf"), float("-inf")):
                self._stop(f"number {written[:40]} is too large", "write a smaller one")
            self._at = match.end()
            return number
        if abs(int(written)) > EXACT_INTEGER_LIMIT:
            self._stop(f"integer {written[:40]} is beyond 2^53", "write it as text")
        self._at = match.end()
        return int(written)

    def _object(self, depth: int, line: int) -> Node:
        node = Node(None, line, pairs={})
        pairs: dict[str, tuple[int, Node]] = {}
        node.pairs = pairs
        self._at += 1
        if self._skip() == "}":
            self._at += 1
            return node
        while True:
            if self._skip() != '"':
                self._stop("expected a key in double quotes", 'write "key": value')
            key_line = self._line(self._at)
            key = self._string()
            if self._skip() != ":":
                self._stop(f"expected `:` after key {key[:40]!r}", 'write "key": value')
            self._at += 1
            child = self._value(depth + 1)
            if key in pairs:
                text = f"key {key[:40]!r} stands twice, first in line {pairs[key][0]}"
                self.faults.append(Fault(path="", text=text, fix="remove one", file=self._file, line=key_line))
            pairs[key] = (key_line, child)
            if not self._goes_on("}"):
                return node

    def _array(self, depth: int, line: int) -> Node:
        items: list[Node] = []
        self._at += 1
        if self._skip() == "]":
            self._at += 1
            return Node(None, line, items=items)
        while True:
            items.append(self._value(depth + 1))
            if not self._goes_on("]"):
                return Node(None, line, items=items)

    def _goes_on(self, end: str) -> bool:
        mark = self._skip()
        if mark not in (",", end):
            self._stop(f"expected `,` or `{end}`", "close the list or object")
        self._at += 1
        return mark == ","
