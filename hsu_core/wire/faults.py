"""From pydantic's errors to faults with file, line, dotted path and suggestion: all of a file at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hsu_core.model.errors import Fault
from hsu_core.wire.fields import nearest, shown
from hsu_core.wire.tree import Document, Path, dotted

FAULT_LIMIT = 100
"""A file with more faults than this is another kind of file; the rest is counted only."""


class FaultList:
    """Collects faults and warnings of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def fault(self, path: Path, text: str, fix: str = "") -> None:
        """Add a fault at `path`."""
        if self.is_full:
            return
        fault = self._at(path, text, fix, "manifest.invalid")
        if fault not in self.faults:
            self.faults.append(fault)

    def warn(self, path: Path, text: str, fix: str = "", code: str = "manifest.not-carried-out") -> None:
        """Add a warning at `path`."""
        if len(self.warnings) < FAULT_LIMIT:
            self.warnings.append(self._at(path, text, fix, code))

    def _at(self, path: Path, text: str, fix: str, code: str) -> Fault:
        return Fault(
            path=dotted(path, self.document.data),
            text=text,
            fix=fix,
            file=self.document.file,
            line=self.document.line(path),
            code=code,
        )

    @property
    def is_full(self) -> bool:
        """Return whether further faults would not be kept: loops over a whole document end then."""
        return len(self.faults) >= FAULT_LIMIT

    def sorted_faults(self) -> list[Fault]:
        """Return the faults in the order of the file."""
        return sorted(self.faults, key=lambda fault: (fault.line, fault.path))

    def check(self, model: type[_M]) -> _M | None:
        """Return the document as `model`, or None after adding every fault of it."""
        try:
            return model.model_validate(self.document.data)
        except ValidationError as error:
            for details in error.errors(include_url=False)[:FAULT_LIMIT]:
                self._add(model, details)
            return None

    def _add(self, model: type[BaseModel], details: ErrorDetails) -> None:
        path = tuple(part for part in details["loc"] if part != "[key]")
        kind, context = details["type"], details.get("ctx", {})
        if kind == "wrong":
            self.fault(path, str(context.get("text", "")), str(context.get("fix", "")))
        elif kind == "extra_forbidden":
            known = known_keys(model, path[:-1])
            near = nearest(str(path[-1]), known)
            fix = f"did you mean {near}?" if near else f"known keys here: {', '.join(known)}"
            self.fault(path, f"unknown key {str(path[-1])[:60]!r}", fix)
        elif kind == "missing":
            self.fault(path[:-1], f"key {path[-1]!r} is missing", f"add {path[-1]}")
        elif kind in ("model_type", "dict_type", "model_attributes_type"):
            self.fault(
                path, f"needs a map of keys, found {shown(details['input'])}", "write `key: value` lines below it"
            )
        elif kind == "list_type":
            self.fault(
                path, f"needs a list, found {shown(details['input'])}", "write `- item` lines below it, or [a, b]"
            )
        else:
            self.fault(path, details["msg"])


_M = typing.TypeVar("_M", bound=BaseModel)


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that the map at `path` may have."""
    here: list[Any] = [model]
    for part in path:
        step: list[Any] = []
        for annotation in here:
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                known = annotation.model_fields.get(str(part))
                step += list(_unwrapped(known.annotation)) if known else []
            else:
                step += [leaf for inner in typing.get_args(annotation)[-1:] for leaf in _unwrapped(inner)]
        here = step
    models = [item for item in here if isinstance(item, type) and issubclass(item, BaseModel)]
    return [name for item in models for name in item.model_fields]


def _unwrapped(annotation: Any) -> Iterator[Any]:
    """Give the types that matter in an annotation: models, lists and maps, without Optional and Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _unwrapped(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _unwrapped(inner)
    else:
        yield annotation
