"""Values to bytes and back: msgpack of plain trees, with a schema version.

Rules that make a skew of one release harmless:
 - a field that equals its default is left out; a field that is absent gets its default;
 - an unknown field is ignored when reading, and kept when a record is written again over the
   bytes it was read from (`encode(value, over=previous)`);
 - SCHEMA grows only when an old program would misread new bytes; it then refuses them by name.

Of a union of dataclasses the class name stands in `kind`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, TypeVar

import msgpack

from hsu_core.model.errors import StoreError, TooLarge

SCHEMA = 1
"""Version of the stored and sent form."""

FRAME_LIMIT_BYTES = 4 * 1024 * 1024
"""Largest message accepted: the orders of one node with a few thousand instances are below 1 MiB."""

T = TypeVar("T")
Plain = Any


class Undecodable(StoreError):
    """Bytes that this version cannot read: damaged, or written by a newer release."""

    code = "wire.undecodable"
    status = 500


def to_plain(value: Any) -> Plain:
    """Return the tree of dicts, lists and scalars that stands for `value`."""
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            name: to_plain(item)
            for name, default in _fields(type(value))
            if (item := getattr(value, name)) != default or default is _REQUIRED
        } | ({"kind": type(value).__name__} if type(value).__name__ in _TAGGED else {})
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(to_plain(item) for item in value)  # the same value, the same bytes
    raise TypeError(f"the codec has no form for {type(value).__name__}")


def from_plain(kind: type[T], tree: Plain) -> T:
    """Return the `kind` that the tree stands for. Raises Undecodable."""
    try:
        return typing.cast(T, _reader(typing.cast(Any, kind))(tree))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise Undecodable(
            f"read a {getattr(kind, '__name__', kind)}", str(error)[:200], "was it written by a newer release?"
        ) from error


def encode(value: Any, *, over: bytes | None = None) -> bytes:
    """Return the bytes of a record; with `over` (what was read) its unknown fields are kept."""
    tree = to_plain(value)
    if over is not None:
        tree = _keep_unknown(type(value), tree, _unpack(over).get("d"))
    return typing.cast(bytes, msgpack.packb({"v": SCHEMA, "d": tree}, use_bin_type=True))


def decode(kind: type[T], payload: bytes) -> T:
    """Return the record in `payload`. Raises Undecodable."""
    return from_plain(kind, decode_plain(payload))


def decode_plain(payload: bytes) -> Plain:
    """Return the plain tree of a record, unknown fields included. Raises Undecodable."""
    document = _unpack(payload)
    if document.get("v") != SCHEMA:
        raise Undecodable("read a record", f"its schema is {document.get('v')!r}, this version reads {SCHEMA}")
    return document.get("d")


def _unpack(payload: bytes) -> dict[str, Any]:
    if len(payload) > FRAME_LIMIT_BYTES:
        raise TooLarge("read a message", f"{len(payload)} bytes are more than {FRAME_LIMIT_BYTES}")
    try:
        document = msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Undecodable("read a message", str(error)[:200]) from error
    if not isinstance(document, dict):
        raise Undecodable("read a message", f"it holds a {type(document).__name__}, not a map")
    return document


def _keep_unknown(kind: type, tree: Plain, previous: Plain) -> Plain:
    if not isinstance(previous, dict) or not isinstance(tree, dict):
        return tree
    known = {name for name, _ in _fields(kind)} | {"kind"}
    return {key: item for key, item in previous.items() if key not in known} | tree


_REQUIRED = object()
_TAGGED: set[str] = set()


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    _reader(kind)  # fills _TAGGED
    found = []
    for field in dataclasses.fields(kind):
        default: Any = _REQUIRED
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append((field.name, default))
    return tuple(found)


@cache
def _reader(kind: Any) -> Callable[[Plain], Any]:
    """Return the function that reads one type; built once per type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind in (int, str, bytes, bool):
        return _scalar_reader(kind)
    if kind is float:
        return lambda tree: float(_scalar_reader_any(tree, (int, float)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if origin in (types.UnionType, typing.Union):
        return _union_reader(arguments)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is frozenset:
        read_member = _reader(arguments[0])
        return lambda tree: frozenset(read_member(item) for item in tree)
    if origin is dict or (isinstance(origin, type) and issubclass(origin, typing.Mapping)):
        read_item = _reader(arguments[1])
        return lambda tree: {key: read_item(item) for key, item in tree.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(typing.cast(type, kind))
    raise TypeError(f"the codec has no form for {kind}")


def _scalar_reader_any(tree: Plain, kinds: tuple[type, ...]) -> Any:
    if not isinstance(tree, kinds):
        raise TypeError(f"{tree!r:.60} is not a {kinds[0].__name__}")
    return tree


def _scalar_reader(kind: Any) -> Callable[[Plain], Any]:
    if kind is Any:
        return lambda tree: tree
    return lambda tree: _scalar_reader_any(tree, (kind,))


def _tuple_reader(arguments: tuple[Any, ...]) -> Callable[[Plain], Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        read_item = _reader(arguments[0])
        return lambda tree: tuple([read_item(item) for item in tree])
    readers = [_reader(argument) for argument in arguments]
    return lambda tree: tuple([read(item) for read, item in zip(readers, tree, strict=True)])


def _union_reader(arguments: tuple[Any, ...]) -> Callable[[Plain], Any]:
    classes: list[Any] = [argument for argument in arguments if dataclasses.is_dataclass(argument)]
    scalars = tuple(argument for argument in arguments if argument in (int, str, float, bool, bytes))
    is_optional = type(None) in arguments
    if len(classes) > 1:
        _TAGGED.update(argument.__name__ for argument in classes)
    by_name = {argument.__name__: _reader(argument) for argument in classes}
    others = [a for a in arguments if a not in classes and a not in scalars and a is not type(None)]

    def read(tree: Plain) -> Any:
        if tree is None and is_optional:
            return None
        if isinstance(tree, dict) and by_name:
            return (by_name[tree["kind"]] if len(by_name) > 1 else next(iter(by_name.values())))(tree)
        if others:
            return _reader(others[0])(tree)
        return _scalar_reader_any(tree, (*scalars, int) if float in scalars else scalars)

    return read


def _dataclass_reader(kind: type) -> Callable[[Plain], Any]:
    hints = typing.get_type_hints(kind)
    readers: dict[str, Callable[[Plain], Any]] = {}
    for field in dataclasses.fields(kind):
        readers[field.name] = _reader(hints[field.name])

    def read(tree: Plain) -> Any:
        if not isinstance(tree, dict):
            raise TypeError(f"{kind.__name__} is not a map")
        return kind(**{name: readers[name](item) for name, item in tree.items() if name in readers})

    return read
