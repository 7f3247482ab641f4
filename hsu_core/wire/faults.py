"""From pydantic's errors to faults with file, line, dotted path and suggestion: all of a file at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hsu_core.model.errors import Fault, InvalidManifest
from hsu_core.wire.fields import nearest, shown
from hsu_core.wire.tree import Document, Path, dotted

FAULT_LIMIT = 100
"""A file with more faults than this is another kind of file; the rest is counted only."""


class FaultList:
    """Collects faults and warnings of one document, stage by stage.

    A later stage looks at what an earlier one left over, so its faults at or above a place that is
    faulty already are consequences and are dropped (`end_stage`). Raises `error` when it is full.
    `is_lenient`: unknown keys are warnings, as HSU's own programs pass them over.
    """

    def __init__(
        self,
        document: Document,
        what: str,
        error: type[InvalidManifest] = InvalidManifest,
        *,
        is_lenient: bool = False,
    ) -> None:
        self._is_lenient = is_lenient
        self.document = document
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self._what = what
        self._error = error
        self._paths: set[Path] = set()
        self._touched: set[Path] = set()
        self._unknown_in: set[Path] = set()

    def fault(self, path: Path, text: str, fix: str = "") -> None:
        """Add a fault at `path`. Raises the refusal when there are too many."""
        if path in self._touched:
            return
        self.add(self._at(path, text, fix, "manifest.invalid"))
        self._paths.add(path)

    def add(self, fault: Fault) -> None:
        """Add a fault that has its place already (in another file). Raises the refusal when there are too many."""
        if fault not in self.faults:
            self.faults.append(fault)
        if len(self.faults) >= FAULT_LIMIT:
            raise self.refusal()

    def warn(self, path: Path, text: str, fix: str = "", code: str = "manifest.not-carried-out") -> None:
        """Add a warning at `path`."""
        if len(self.warnings) < FAULT_LIMIT:
            self.warnings.append(self._at(path, text, fix, code))

    def end_stage(self) -> None:
        """From now on drop faults at or above the places that have one."""
        self._touched |= {path[:length] for path in self._paths for length in range(1, len(path) + 1)}

    def is_touched(self, path: Path) -> bool:
        """Return whether an earlier stage found a fault at or below `path`, or an unknown key beside it."""
        return path in self._touched or path[:-1] in self._unknown_in

    def refusal(self) -> InvalidManifest:
        """Return the error with every fault, in the order of the file."""
        faults = sorted(self.faults, key=lambda fault: (fault.file != self.document.file, fault.line, fault.path))
        count = f"{len(faults)} fault{'' if len(faults) == 1 else 's'}"
        more = " and perhaps more" if len(faults) >= FAULT_LIMIT else ""
        return self._error(f"{self._what} {self.document.file}", count + more, "", faults=faults)

    def _at(self, path: Path, text: str, fix: str, code: str) -> Fault:
        return Fault(
            path=dotted(path, self.document.data),
            text=text,
            fix=fix,
            file=self.document.file,
            line=self.document.line(path),
            code=code,
        )

    def check(self, model: type[_M], path: Path = ()) -> _M | None:
        """Return the data at `path` as `model`, without the values that are wrong; None when that is not possible."""
        data = self.document.data
        for part in path:
            data = data[part]
        try:
            return model.model_validate(data)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[:FAULT_LIMIT]
        for details in wrong:
            self._add(model, path, details)
        try:
            return model.model_validate(_without(data, [details["loc"] for details in wrong]))
        except ValidationError:
            return None

    def _add(self, model: type[BaseModel], base: Path, details: ErrorDetails) -> None:
        inner = tuple(part for part in details["loc"] if part != "[key]")
        path = (*base, *inner)
        kind, context, found = details["type"], details.get("ctx", {}), shown(details["input"])
        if kind == "wrong":
            self.fault(path, str(context.get("text", "")), str(context.get("fix", "")))
        elif kind == "extra_forbidden":
            known = known_keys(model, inner[:-1])
            near = nearest(str(path[-1]), known)
            fix = f"did you mean {near}?" if near else f"known keys here: {', '.join(known)}"
            text = f"unknown key {str(path[-1])[:60]!r}"
            if self._is_lenient:
                self.warn(path, f"{text} is passed over", fix, "manifest.unknown-key")
                return
            self.fault(path, text, fix)
            self._unknown_in.add(path[:-1])
        elif kind == "missing":
            self.fault(path[:-1], f"key {path[-1]!r} is missing", f"add {path[-1]}")
        elif kind in ("model_type", "dict_type", "model_attributes_type"):
            self.fault(path, f"needs a map of keys, found {found}", "write `key: value` lines below it")
        elif kind == "list_type":
            self.fault(path, f"needs a list, found {found}", "write `- item` lines below it, or [a, b]")
        else:
            self.fault(path, details["msg"])


def _without(data: Any, places: list[tuple[int | str, ...]]) -> Any:
    """Return a copy of the data without the values at `places`; a list goes as a whole, so that no index moves."""
    if not isinstance(data, dict):
        return data
    here = {place[0] for place in places if len(place) == 1 or isinstance(place[1], int)}
    below: dict[int | str, list[tuple[int | str, ...]]] = {}
    for place in places:
        below.setdefault(place[0], []).append(place[1:])
    return {
        key: _without(value, below[key]) if key in below else value for key, value in data.items() if key not in here
    }


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
