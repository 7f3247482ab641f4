"""How values may be written, as JSON Schema: what the field types of `fields` take, for editors.

Each form stands beside the validator that reads it (`Takes`), so that `manifest_schema` is made from the models alone.
A form may take a little more than its validator (a size beyond an exbibyte), never less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Form = Mapping[str, Any]

REFERENCE: Form = {"type": "string", "pattern": r"\$\{", "description": "a variable: ${name}"}
"""A text with a variable may become anything that its place takes."""

WHOLE_TEXT = r"^\s*([-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)\s*$"
NUMBER_TEXT = (
    r"^\s*([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(\.[0-9]+)?)\s*$"
)
"""Numbers as YAML reads them, for where they stand in quotes."""


@dataclass(frozen=True, slots=True, eq=False)
class Takes:
    """An annotation of a field: `convert` reads what is written, `form` tells how that may be.

    `form` may be a function of the form of the annotated type, for short ways beside the long one.
    """

    convert: Callable[[Any], Any]
    form: Form | Callable[[Form], Form]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return what pydantic validates with: `convert` first, then the type."""
        return core_schema.no_info_before_validator_function(self.convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the form."""
        return dict(self.form(handler(schema)) if callable(self.form) else self.form)


def one_of(*forms: Form) -> Form:
    """Return what takes any of these forms."""
    return {"anyOf": [dict(form) for form in forms]}


def beside(*short: Form) -> Callable[[Form], Form]:
    """Return what puts short ways to write a value beside its own form."""
    return lambda long: one_of(*short, long)


def matching(pattern: str, description: str = "") -> Form:
    """Return the form of a text of this pattern (of ECMAScript and Python alike)."""
    form = {"type": "string", "pattern": pattern}
    return {**form, "description": description} if description else form


def whole(low: int, high: int) -> Form:
    """Return the form of a whole number within these bounds."""
    return one_of({"type": "integer", "minimum": low, "maximum": high}, matching(WHOLE_TEXT), REFERENCE)


def number(low: float, high: float) -> Form:
    """Return the form of a number within these bounds."""
    return one_of({"type": "number", "minimum": low, "maximum": high}, matching(NUMBER_TEXT), REFERENCE)


def amount(pattern: str, description: str, kind: str = "number") -> Form:
    """Return the form of a quantity: a bare number that is not negative, or a text with a unit."""
    plain = {"type": kind, "minimum": 0}
    return one_of(plain, matching(pattern, description), matching(NUMBER_TEXT), REFERENCE)


def words(*allowed: str) -> Form:
    """Return the form of one of these words, with `_` for `-` too."""
    both = dict.fromkeys((*allowed, *(word.replace("-", "_") for word in allowed)))
    return one_of({"enum": list(both)}, REFERENCE)


def any_case(*allowed: str) -> str:
    """Return the pattern of one of these words in any case; expressions of ECMAScript have no flag inside."""
    return "|".join("".join(f"[{letter.upper()}{letter.lower()}]" for letter in word) for word in allowed)


TEXT: Form = {"type": ["string", "number", "boolean"]}
BOOLEAN = one_of({"type": "boolean"}, {"enum": ["true", "false"]}, REFERENCE)
DURATION = amount(r"^\s*([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d))+\s*$", "such as 500ms, 10s, 1m30s; a number: seconds")
SIZE = amount(r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt]?[Ii]?[Bb]?)\s*$", "such as 512MB, 1GiB; a number: bytes")
CPU = amount(r"^\s*[0-9]+(\.[0-9]+)?m?\s*$", "processors: 1.5, or 250m for a quarter")
PERCENT_OR_COUNT = amount(r"^\s*[0-9]{1,9}\s*%?\s*$", "a number, or a part such as 25%", "integer")
TEXT_LIST = one_of({"type": "array", "items": TEXT}, {"type": ["string", "number"]})
PAIRS = one_of(
    {
        "type": "object",
        "propertyNames": {"pattern": "^[^=]+$"},
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    },
    {"type": "array", "items": one_of(matching("^[^=]+=", "NAME=value"), REFERENCE)},
)


def named(letters: str) -> Form:
    """Return the form of a name: up to 64 of these letters; numbers and booleans are read as text."""
    return one_of(matching(f"^[{letters}]{{1,64}}$"), {"type": ["number", "boolean"]}, REFERENCE)
