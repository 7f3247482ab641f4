"""The words of a worker's `process` block. No meaning yet."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.model.attributes import IO_CLASSES, RLIMITS, UNLIMITED
from hsu_core.model.errors import InvalidInput
from hsu_core.model.quantity import parse_size
from hsu_core.wire import forms
from hsu_core.wire.fields import Boolean, Strict, Text, TextList, choice, closest_fix, shown, whole_number, wrong
from hsu_core.wire.forms import Takes

HIGHEST_CPU = 4095
"""More processors no kernel is built for (CONFIG_NR_CPUS of x86-64 is at most 8192, of distributions half of it)."""


def _umask(value: Any) -> int:
    """Return the mask of octal digits; a bare number is refused, since YAML may have read it as decimal."""
    if not isinstance(value, str) or not 1 <= len(value) <= 4 or set(value) - set("01234567") or int(value, 8) > 0o777:
        raise wrong(f"needs octal digits in quotes, found {shown(value)}", 'write for example "027"')
    return int(value, 8)


def _processors(value: Any) -> tuple[int, ...]:
    """Return processors from `0-3,6`, a number or a list of both."""
    found: set[int] = set()
    for part in value if isinstance(value, list) else str(value).split(","):
        first, dash, last = str(part).strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or isinstance(part, bool):
            raise wrong(f"{shown(part)} names no processors", 'write for example "0-3,6" or [0, 1]')
        low, high = int(first[:5]), int((last or first)[:5])
        if not low <= high <= HIGHEST_CPU:
            raise wrong(f"{shown(part)} is no range from 0 to {HIGHEST_CPU}", 'write for example "0-3"')
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _rlimits(value: Any) -> dict[str, tuple[int, int]]:
    """Return (soft, hard) by name from a map of sizes, `SOFT:HARD` or `unlimited`."""
    if not isinstance(value, dict):
        raise wrong(f"needs a map, found {shown(value)}", "write for example {nofile: 4096, core: 0}")
    found: dict[str, tuple[int, int]] = {}
    for key, item in value.items():
        name = str(key).lower().removeprefix("rlimit_").removeprefix("limit")
        if name not in RLIMITS:
            raise wrong(f"{shown(key)} is no limit of the kernel", closest_fix(name, RLIMITS))
        soft, colon, hard = str(item).partition(":") if isinstance(item, str | int) else ("", "", "")
        found[name] = (_amount(name, soft), _amount(name, hard if colon else soft))
        soft_amount, hard_amount = found[name]
        if hard_amount != UNLIMITED and not 0 <= soft_amount <= hard_amount:
            raise wrong(f"the soft limit of {name} is above the hard one", "write SOFT:HARD, the smaller one first")
    return found


def _amount(name: str, text: str) -> int:
    if text.strip() in ("unlimited", "infinity"):
        return UNLIMITED
    try:
        return parse_size(int(text) if text.strip().isdecimal() else text)
    except InvalidInput as error:
        raise wrong(f"{shown(text)} is no amount for {name}", "write a number, a size or unlimited") from error


UMASK_FORM = forms.one_of(forms.matching("^[0-7]{1,4}$", 'octal digits in quotes, such as "027"'), forms.REFERENCE)

_RANGES = r"^\s*[0-9]+\s*(-\s*[0-9]+)?\s*(,\s*[0-9]+\s*(-\s*[0-9]+)?\s*)*$"
PROCESSORS_FORM = forms.one_of(
    forms.matching(_RANGES, "such as 0-3,6"),
    {"type": "integer", "minimum": 0, "maximum": HIGHEST_CPU},
    {"type": "array", "items": forms.one_of({"type": "integer", "minimum": 0}, forms.matching(_RANGES))},
    forms.REFERENCE,
)

_LIMIT = r"([0-9]+(\.[0-9]+)?\s*([KkMmGgTt]?[Ii]?[Bb]?)|unlimited|infinity)"
RLIMITS_FORM: forms.Form = {
    "type": "object",
    "propertyNames": {"pattern": f"^([Rr][Ll][Ii][Mm][Ii][Tt]_|[Ll][Ii][Mm][Ii][Tt])?({forms.any_case(*RLIMITS)})$"},
    "additionalProperties": forms.one_of(
        {"type": "integer", "minimum": 0},
        forms.matching(rf"^\s*{_LIMIT}\s*(:\s*{_LIMIT}\s*)?$", "a number, a size or unlimited; SOFT:HARD for both"),
        forms.REFERENCE,
    ),
}


class ProcessModel(Strict):
    """What the process is given before its program runs."""

    user: Text | None = None
    group: Text | None = None
    groups: TextList | None = None
    umask: Annotated[int, Takes(_umask, UMASK_FORM)] | None = None
    nice: Annotated[int, whole_number(-20, 19)] | None = None
    io_class: Annotated[str, choice(*IO_CLASSES)] | None = None
    io_priority: Annotated[int, whole_number(0, 7)] | None = None
    cpu_affinity: Annotated[tuple[int, ...], Takes(_processors, PROCESSORS_FORM)] | None = None
    oom_score_adj: Annotated[int, whole_number(-1000, 1000)] | None = None
    no_new_privileges: Boolean | None = None
    capabilities: TextList | None = None
    rlimits: Annotated[dict[str, tuple[int, int]], Takes(_rlimits, RLIMITS_FORM)] | None = None
