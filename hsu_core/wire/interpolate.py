"""Variables in a document: `${name}`, `${env:NAME}`, `${name:-fallback}`, `${name:?message}`, `$${` for `${`.

A text that is one reference takes the variable's value with its type (`replicas: ${n}`). Braces
without a dollar (`{port.http}`) belong to the node and are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import nearest, shown
from hsu_core.wire.tree import SIZE_LIMIT_BYTES, Document, Path, text_of

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_INSIDE = re.compile(
    r"\s*(?:(?P<env>env):)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*?)\s*(?::(?P<operator>[-?])(?P<rest>.*))?", re.DOTALL
)

DEPTH_LIMIT = 32
"""Longest chain of variables that refer to variables."""


REFERENCE_LIMIT = 20_000
"""Most references within texts of one document: bounds the time that a hostile one can take."""


class TooLong(Exception):
    """The expanded texts are longer than a whole document may be, or the references too many."""


class Interpolator:
    """Expands the references of one document.

    `values` has the document's variables with the caller's laid over them. `environment` None: this
    program must not read one (a master deploying somebody's file), so `${env:…}` is refused.
    """

    def __init__(self, values: Mapping[str, Any], environment: Mapping[str, str] | None, found: FaultList) -> None:
        self._values = values
        self._environment = environment
        self._found = found
        self._done: dict[str, Any] = {}
        self._open: list[str] = []
        self._left = SIZE_LIMIT_BYTES
        self._references = 0

    def tree(self, value: Any, path: Path) -> Any:
        """Return a copy of the data with every text expanded; faults are collected."""
        if isinstance(value, dict):
            return {key: self.tree(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [self.tree(child, (*path, index)) for index, child in enumerate(value)]
        return self.text(value, path) if isinstance(value, str) else value

    def text(self, text: str, path: Path) -> Any:
        """Return `text` expanded; a scalar of another type when it is one reference. Raises TooLong."""
        if "${" not in text:
            return text
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and whole.group(1) is not None:
            return self._spend(self._reference(whole.group(1), path))
        return self._spend(_REFERENCE.sub(lambda match: self._part(match, path), text))

    def file(self, text: str, file: str) -> str:
        """Return the content of `file` expanded line by line, so that faults name its line. Raises TooLong."""
        manifest = self._found
        expanded: list[str] = []
        for number, line in enumerate(text.split("\n"), start=1):
            self._found = FaultList(Document(None, file, {(): number}), "read")
            expanded.append(text_of(self.text(line, ())))
            for fault in self._found.faults:
                manifest.add(fault)
        self._found = manifest
        self._spend("\n".join(expanded))
        return "\n".join(expanded)

    def _spend(self, value: Any) -> Any:
        self._left -= len(value) if isinstance(value, str) else 8
        if self._left < 0:
            raise TooLong
        return value

    def _part(self, match: re.Match[str], path: Path) -> str:
        self._references += 1
        if self._references > REFERENCE_LIMIT:
            raise TooLong
        if match.group() == "$${":
            return "${"
        if match.group(1) is None:
            self._found.fault(path, "a reference `${` is not closed, or holds braces", "write $${ for a literal ${")
            return ""
        return str(self._spend(text_of(self._reference(match.group(1), path))))

    def _reference(self, inside: str, path: Path) -> Any:
        match = _INSIDE.fullmatch(inside)
        if match is None:
            self._found.fault(
                path,
                f"${{{inside[:60]}}} is not a reference",
                "write ${name}, ${env:NAME}, ${name:-fallback} or ${name:?message}, or $${ for a literal ${",
            )
            return ""
        name, rest = match["name"], match["rest"] or ""
        known, value = self._environment_value(name, path) if match["env"] else self._value(name, path)
        if known is None:
            return ""
        if match["operator"] and (not known or value is None or value == ""):
            if match["operator"] == "-":
                return rest
            self._found.fault(path, f"variable {name} is needed: {rest[:200] or 'it is not set'}", "set it")
            return ""
        if not known:
            self._unknown(name, bool(match["env"]), path)
        return value

    def _unknown(self, name: str, is_environment: bool, path: Path) -> None:
        if is_environment:
            fix = f"export {name}, or write ${{env:{name}:-fallback}}"
            self._found.fault(path, f"environment variable {name} is not set", fix)
            return
        near = nearest(name, list(self._values))
        self._found.fault(
            path,
            f"variable {name} is not set",
            f"did you mean {near}?"
            if near
            else f"add it to vars, write ${{env:{name}}}, or $${{{name}}} for literal text",
        )

    def _environment_value(self, name: str, path: Path) -> tuple[bool | None, Any]:
        if self._environment is None:
            self._found.fault(
                path,
                f"${{env:{name}}} cannot be read here: a master does not give its own environment to a manifest",
                "deploy with the command line, which reads yours, or use vars",
            )
            return None, ""
        return name in self._environment, self._environment.get(name, "")

    def _value(self, name: str, path: Path) -> tuple[bool | None, Any]:
        """Return (whether it is set, value); None instead of the first after a fault."""
        if name not in self._values:
            return False, ""
        if name in self._done:
            return True, self._done[name]
        if name in self._open:
            chain = " -> ".join([*self._open[self._open.index(name) :], name])
            self._found.fault(path, f"variables refer to each other: {chain}", "break the circle")
            return None, ""
        if len(self._open) >= DEPTH_LIMIT:
            self._found.fault(path, f"variables refer to each other more than {DEPTH_LIMIT} deep", "shorten the chain")
            return None, ""
        raw = self._values[name]
        if isinstance(raw, dict | list):
            self._found.fault(("vars", name), f"variable {name} is {shown(raw)}", "a variable holds one value")
            return None, ""
        self._open.append(name)
        value = self.text(raw, ("vars", name)) if isinstance(raw, str) else raw
        self._open.pop()
        self._done[name] = value
        return True, value


def escape(value: Any) -> Any:
    """Return a copy of expanded data whose texts expand to themselves."""
    if isinstance(value, dict):
        return {key: escape(child) for key, child in value.items()}
    if isinstance(value, list):
        return [escape(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
