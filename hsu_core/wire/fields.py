"""Field types of the text forms: each says in a user's words what it needs.

Used by the models of manifest and settings. A number or boolean may also stand as text, because a
variable can hold it (`replicas: ${n}`); nothing else is coerced.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from hsu_core.model.errors import InvalidInput
from hsu_core.model.ids import is_name, is_node_name
from hsu_core.model.quantity import parse_cpu, parse_duration, parse_percent_or_count, parse_size
from hsu_core.wire import forms
from hsu_core.wire.forms import Takes
from hsu_core.wire.tree import resolve_scalar, text_of

SIGNALS = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGALRM", "SIGKILL", "SIGWINCH", "SIGCONT",
    "SIGPIPE", "SIGABRT",
)  # fmt: skip
"""Signals that a program can be asked to end by."""


COMPARISON_LIMIT = 500
"""Most words compared with an unknown one: a comparison takes some microseconds."""


class Strict(BaseModel):
    """A map with known keys only; an absent key and an empty one are both None."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def wrong(text: str, fix: str = "") -> PydanticCustomError:
    """Return the error of a value, with the fix for the fault made of it."""
    return PydanticCustomError("wrong", "{text}", {"text": text, "fix": fix})


def shown(value: Any) -> str:
    """Return a value as an error text shows it, shortened."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return repr(value)[:60] if isinstance(value, str) else text_of(value)[:60]


def _text(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return text_of(value)
    if not isinstance(value, str):
        raise wrong(f"needs text, found {shown(value)}", "write one value in quotes")
    return value


def _as_number(value: Any) -> Any:
    """Return the number a text holds, else the value unchanged."""
    number = resolve_scalar(value.strip()) if isinstance(value, str) else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return number if is_number else value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a validator of a whole number from `low` to `high`."""

    def convert(value: Any) -> int:
        value = _as_number(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(f"needs a whole number, found {shown(value)}", f"write one from {low} to {high}")
        if not low <= value <= high:
            raise wrong(f"{text_of(value)[:40]} is outside {low} to {high}", f"write one from {low} to {high}")
        return int(value)

    return convert


def _number(low: float, high: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        value = _as_number(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(f"needs a number, found {shown(value)}", f"write one from {low:g} to {high:g}")
        if not low <= value <= high:
            raise wrong(f"{text_of(value)[:40]} is outside {low:g} to {high:g}")
        return float(value)

    return convert


def _boolean(value: Any) -> bool:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        hint = "write true" if value in ("yes", "on", "y") else "write false" if value in ("no", "off", "n") else ""
        raise wrong(f"needs true or false, found {shown(value)}", hint or "write true or false")
    return value


def quantity(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a validator that turns InvalidInput of `parse` into a fault of the field."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str | int | float):
            raise wrong(f"needs one value, found {shown(value)}")
        try:
            return parse(_as_number(value))
        except InvalidInput as error:
            raise wrong(f"cannot {error.what}" + (f": {error.why}" if error.why else ""), error.fix) from error

    return convert


def choice(*allowed: str) -> Takes:
    """Return what takes one of these words; `_` is read as `-`."""

    def convert(value: Any) -> str:
        word = value.replace("_", "-") if isinstance(value, str) else value
        if word not in allowed:
            raise wrong(f"{shown(value)} is not known here", closest_fix(str(value), allowed))
        return str(word)

    return Takes(convert, forms.words(*allowed))


def closest_fix(word: str, allowed: tuple[str, ...] | list[str]) -> str:
    """Return the fix that names the nearest allowed word."""
    near = nearest(word, allowed)
    return f"did you mean {near}?" if near else f"write one of {', '.join(allowed[:12])}" if allowed else ""


def nearest(word: str, allowed: tuple[str, ...] | list[str]) -> str:
    """Return the allowed word most like `word`, or an empty text (also when there are too many to compare)."""
    if len(allowed) > COMPARISON_LIMIT:
        return ""
    found = difflib.get_close_matches(word[:100].lower(), [item.lower() for item in allowed], n=1, cutoff=0.6)
    return next((item for item in allowed if found and item.lower() == found[0]), "")


def _named(check: Callable[[str], bool], rule: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        text = _text(value)
        if not check(text):
            raise wrong(f"{shown(text)} is not a name", f"use {rule}, 1 to 64 of them")
        return text

    return convert


def _signal(value: Any) -> str:
    text = _text(value).upper()
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name not in SIGNALS:
        raise wrong(f"{shown(value)} is not a signal to stop a program with", closest_fix(name, SIGNALS))
    return name


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _pairs(value: Any) -> Any:
    """Return a map of texts from a map, or from a list of K=V."""
    if isinstance(value, list):
        pairs: dict[str, str] = {}
        for item in value:
            key, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
            if not equals or not key:
                raise wrong(f"{shown(item)} is not of the form NAME=value", "write NAME=value, or a map NAME: value")
            if key in pairs:
                raise wrong(f"{key[:60]} is set twice", "remove one")
            pairs[key] = text
        return pairs
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                raise wrong(f"{key[:60]} needs one value, found {shown(item)}", "write it in quotes")
            if not key or "=" in key:
                raise wrong(f"{key[:60]!r} cannot be a name", "use a name without `=`")
        return {key: text_of(item) for key, item in value.items()}
    raise wrong(f"needs a list of NAME=value or a map, found {shown(value)}", "write for example {LOG_LEVEL: info}")


def whole_number(low: int, high: int) -> Takes:
    """Return the annotation of a whole number from `low` to `high`."""
    return Takes(whole(low, high), forms.whole(low, high))


SIGNAL_FORM = forms.one_of(
    {"enum": list(SIGNALS)},
    forms.matching(f"^({forms.any_case('SIG')})?({forms.any_case(*(name[3:] for name in SIGNALS))})$"),
    forms.REFERENCE,
)

Text = Annotated[str, Takes(_text, forms.TEXT)]
Boolean = Annotated[bool, Takes(_boolean, forms.BOOLEAN)]
Name = Annotated[str, Takes(_named(is_name, "letters, digits, `_` and `-`"), forms.named("A-Za-z0-9_-"))]
NodeName = Annotated[str, Takes(_named(is_node_name, "letters, digits, `.`, `_` and `-`"), forms.named("A-Za-z0-9_.-"))]
Duration = Annotated[float, Takes(quantity(parse_duration), forms.DURATION)]
Size = Annotated[int, Takes(quantity(parse_size), forms.SIZE)]
Cpu = Annotated[int, Takes(quantity(parse_cpu), forms.CPU)]
PercentOrCount = Annotated[tuple[int, bool], Takes(quantity(parse_percent_or_count), forms.PERCENT_OR_COUNT)]
Signal = Annotated[str, Takes(_signal, SIGNAL_FORM)]
Port = Annotated[int, whole_number(1, 65535)]
Replicas = Annotated[int, whole_number(0, 10_000)]
Count = Annotated[int, whole_number(0, 1_000_000)]
Threshold = Annotated[int, whole_number(1, 1000)]
Percent = Annotated[int, whole_number(0, 100)]
Weight = Annotated[int, whole_number(-100, 100)]
Factor = Annotated[float, Takes(_number(1.0, 100.0), forms.number(1.0, 100.0))]
Positive = Annotated[float, Takes(_number(0.0, 1e15), forms.number(0.0, 1e15))]
Pairs = Annotated[dict[str, str], Takes(_pairs, forms.PAIRS)]
TextList = Annotated[list[Text], Takes(_one_or_more, forms.TEXT_LIST)]
