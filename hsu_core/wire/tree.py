"""A document as plain data with the line of every value: what both text readers give.

Readers (`yaml_text`, `json_text`) build `Node`s, `flatten` turns them into data and a map from path to
line. The limits are here, because both readers keep them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsu_core.model.errors import Fault, InvalidManifest

Path = tuple[str | int, ...]
"""Keys and indexes from the root of a document."""

SIZE_LIMIT_BYTES = 2**20
"""Largest text: below etcd's 1.5 MiB request limit, which a stored revision has to pass."""

DEPTH_LIMIT = 32
"""Deepest nesting; the manifest itself needs 9."""

NODE_LIMIT = 50_000
"""Most values after aliases and merge keys are expanded: bounds time and memory of every later step."""

EXACT_INTEGER_LIMIT = 2**53
"""Beyond it a JSON reader in another language gets a different number."""


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_PREFIXED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class WrittenInt(int):
    """An integer that remembers how it was written (`0x10`)."""

    text: str


class WrittenFloat(float):
    """A float that remembers how it was written: version 1.10 is not 1.1."""

    text: str


@dataclass(slots=True)
class Node:
    """One value with its line (from 1), its size in nodes and its height, aliases expanded."""

    value: Any
    line: int
    count: int = 1
    height: int = 1
    pairs: dict[str, tuple[int, Node]] | None = None
    items: list[Node] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data and where each value stands in `file`."""

    data: Any
    file: str
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Return the line of `path`, or of its nearest known parent; 0 when nothing is known."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


def flatten(root: Node, file: str) -> Document:
    """Return the tree as plain data with its lines. A key's line is the line of the key."""
    lines: dict[Path, int] = {}

    def visit(node: Node, path: Path, line: int) -> Any:
        lines[path] = line
        if node.pairs is not None:
            return {key: visit(child, (*path, key), at) for key, (at, child) in node.pairs.items()}
        if node.items is not None:
            return [visit(child, (*path, index), child.line) for index, child in enumerate(node.items)]
        return node.value

    return Document(visit(root, (), root.line), file, lines)


def resolve_scalar(text: str) -> Any:
    """Return a plain scalar by the YAML 1.2 core rules, without leading zeros: `no`, 010, 12:30 are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > 400 or text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _written(WrittenInt(text), text) if text[0] == "+" or text == "-0" else int(text)
    if _PREFIXED.fullmatch(text):
        return _written(WrittenInt(int(text, 0)), text)
    if _FLOAT.fullmatch(text):
        number = WrittenFloat(text)
        return _written(number, text) if math.isfinite(number) else text
    return text


def _written(number: Any, text: str) -> Any:
    number.text = text
    return number


def text_of(value: Any) -> str:
    """Return a scalar as it was written: 1.10 stays 1.10, true is `true`, nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.text if isinstance(value, WrittenInt | WrittenFloat) else str(value)


def dotted(path: Path, data: Any = None) -> str:
    """Return a path for people: `workers[web].unit.managed`. List items with an `id` are shown by it."""
    text, here = "", data
    for part in path:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list) and part < len(here) else None
            name = here.get("id") if isinstance(here, dict) else None
            text += f"[{name if isinstance(name, str) and 0 < len(name) <= 64 else part}]"
        else:
            here = here.get(part) if isinstance(here, dict) else None
            text += f".{part[:80]}" if text else part[:80]
    return text


def refuse(file: str, line: int, text: str, fix: str, path: str = "") -> InvalidManifest:
    """Return the error for a text that cannot be read at all."""
    fault = Fault(path=path, text=text, fix=fix, file=file, line=line)
    return InvalidManifest(f"read {file}", "1 fault", "", faults=(fault,))


def decode(text: bytes | str, file: str) -> str:
    """Return the text, UTF-8 decoded, within the size limit. Raises InvalidManifest."""
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > SIZE_LIMIT_BYTES:
        raise refuse(file, 0, f"the file has {size} bytes, the limit is {SIZE_LIMIT_BYTES}", "split it")
    try:
        content = text.encode("utf-8") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        line = str(error.object)[: error.start].count("\n") + 1
        raise refuse(file, line, "half of a surrogate pair", "write the whole character") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise refuse(file, line, f"byte {error.start} is not UTF-8", "save the file with UTF-8 encoding") from error
