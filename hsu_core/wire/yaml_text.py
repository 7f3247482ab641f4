"""Bounded YAML (and JSON) loading: hostile or surprising text is refused, in less than a second.

`yaml.safe_load` spends minutes on a merge-key bomb of 1 kB and shares memory for an alias bomb that
explodes at the first dump; it also reads `no` as False and 12:30:45 as 45045. So this works on parser
events: sizes are counted with aliases expanded, and scalars follow the YAML 1.2 core rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from hsu_core.model.errors import Fault, InvalidManifest
from hsu_core.wire.json_text import JsonReader
from hsu_core.wire.tree import (
    DEPTH_LIMIT,
    EXACT_INTEGER_LIMIT,
    NODE_LIMIT,
    Document,
    Node,
    decode,
    flatten,
    refuse,
    resolve_scalar,
)

_JSON_START = re.compile(r"\s*\{\s*[\"}]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_document(text: bytes | str, file: str) -> Document:
    """Return the data of a YAML or JSON text with the line of every value. Raises InvalidManifest.

    A text that starts like JSON is read by JSON's strict rules; a `.yaml` that then proves to be YAML in
    flow style is read as that.
    """
    content = decode(text, file)
    if file.endswith(".json") or _JSON_START.match(content):
        reader = JsonReader(content, file)
        try:
            return _document(reader, file)
        except InvalidManifest:
            if reader.is_beyond_limits or not file.endswith((".yaml", ".yml")):
                raise
    return _document(_YamlReader(content, file), file)


def _document(reader: JsonReader | _YamlReader, file: str) -> Document:
    root = reader.read()
    if reader.faults:
        raise InvalidManifest(f"read {file}", _count(reader.faults), "", faults=reader.faults)
    return flatten(root, file)


def _count(faults: list[Fault]) -> str:
    return f"{len(faults)} fault" + ("s" if len(faults) > 1 else "")


class _YamlReader:
    """Builds nodes from parser events; `faults` has what is wrong but does not stop the reading."""

    def __init__(self, text: str, file: str) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._total = 0

    def read(self) -> Node:
        """Return the root; an empty text is a null. Raises InvalidManifest."""
        loader = None
        try:
            loader = _LOADER(self._text)
            return self._document(self._events(loader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 0
            begin = error.context_mark
            start = f"(from line {begin.line + 1})" if begin and begin.line + 1 != line else ""
            why = " ".join(part for part in (error.context, start, error.problem) if part)
            raise refuse(self._file, line, f"not valid YAML: {why}", _hint(why)) from error
        except yaml.YAMLError as error:
            line = self._text[: getattr(error, "position", 0)].count("\n") + 1
            why = str(getattr(error, "reason", error))
            raise refuse(self._file, line, f"not valid YAML: {why}", "remove that character") from error
        finally:
            if loader is not None:
                loader.dispose()

    def _events(self, loader: Any) -> Iterator[Any]:
        while loader.check_event():
            yield loader.get_event()

    def _document(self, events: Iterator[Any]) -> Node:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise refuse(
                        self._file, _line(event), "a second document starts here",
                        "keep one document in a file",
                    )  # fmt: skip
                root = self._node(next(events), events, 1)
        return root if root is not None else Node(None, 1)

    def _grow(self, count: int, height: int, depth: int, line: int) -> None:
        self._total += count
        if self._total > NODE_LIMIT:
            raise refuse(
                self._file, line, f"more than {NODE_LIMIT} values, aliases and merge keys expanded",
                "split the file, or use fewer aliases",
            )  # fmt: skip
        if depth + height - 1 > DEPTH_LIMIT:
            raise refuse(self._file, line, f"values nested deeper than {DEPTH_LIMIT}", "flatten the document")

    def _fault(self, line: int, text: str, fix: str) -> None:
        if len(self.faults) < 100:
            self.faults.append(Fault(path="", text=text, fix=fix, file=self._file, line=line))

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            target = self._anchors.get(name)
            if target is None:
                raise refuse(
                    self._file, line, f"alias *{name[:40]} has no finished anchor before it",
                    f"define &{name[:40]} earlier; an anchor cannot hold itself",
                )  # fmt: skip
            self._grow(target.count, target.height, depth, line)
            return target
        self._grow(1, 1, depth, line)
        if event.tag is not None:
            self._fault(line, f"tag {event.tag[:60]!r} is not allowed", "remove it; quote the value for text")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, line), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(events, line, depth)
        else:
            node = self._mapping(events, line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, line: int) -> Any:
        value = str(event.value)
        if "\x00" in value:
            self._fault(line, "a text holds the character NUL", "remove it: programs cannot be given it")
        if event.style or event.tag is not None:  # the C parser gives a plain scalar the style ''
            return value
        scalar = resolve_scalar(value)
        if isinstance(scalar, int) and abs(scalar) > EXACT_INTEGER_LIMIT:
            self._fault(line, f"integer {value[:40]} is beyond 2^53", "write it in quotes")
        return scalar

    def _sequence(self, events: Iterator[Any], line: int, depth: int) -> Node:
        items: list[Node] = []
        node = Node(None, line, items=items)
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            child = self._node(event, events, depth + 1)
            items.append(child)
            node.count += child.count
            node.height = max(node.height, child.height + 1)
        return node

    def _mapping(self, events: Iterator[Any], line: int, depth: int) -> Node:
        pairs: dict[str, tuple[int, Node]] = {}
        merged: dict[str, tuple[int, Node]] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key_line = _line(event)
            is_merge = isinstance(event, yaml.ScalarEvent) and not event.style and event.value == "<<"
            key = self._node(event, events, depth + 1)
            child = self._node(next(events), events, depth + 1)
            if is_merge:
                self._merge(merged, child, key_line)
                continue
            if not isinstance(key.value, str):
                shown = "a list or map" if key.value is None and (key.pairs or key.items) else repr(key.value)
                self._fault(key_line, f"key {shown} is not text", "write the key in quotes")
                continue
            if key.value in pairs:
                first = pairs[key.value][0]
                self._fault(key_line, f"key {key.value[:40]!r} stands twice, first in line {first}", "remove one")
            pairs[key.value] = (key_line, child)
        node = Node(None, line, pairs={**merged, **pairs})
        for _, child in (node.pairs or {}).values():
            node.count += 1 + child.count
            node.height = max(node.height, child.height + 1)
        return node

    def _merge(self, merged: dict[str, tuple[int, Node]], child: Node, line: int) -> None:
        """Add the pairs of `<<: *base` or `<<: [*first, *second]`; the first to give a key wins."""
        for source in [child] if child.items is None else child.items:
            if source.pairs is None:
                self._fault(line, "a merge key `<<` needs a map, or a list of maps", "point it at a map")
                continue
            self._grow(source.count, 1, 1, line)
            for key, pair in source.pairs.items():
                merged.setdefault(key, pair)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _hint(why: str) -> str:
    if "\\t" in why or "cannot start any token" in why:
        return "indent with spaces, and put text with special characters in quotes"
    if "mapping values are not allowed" in why:
        return "put text that holds `: ` in quotes, or mend the indentation"
    return "mend the indentation, quotes or brackets here"


def dump_yaml(data: Any) -> str:
    """Return data as the text of a YAML file, keys in their order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
