"""Placement conditions on a node: `node.os == linux`, `zone in a,b`, `kernel >= 5.10`.

Exists so that the filter, the affinity score and the reasons judge a condition in one way. Knows a
node only as a mapping of facts (`node.name`, `node.os`, labels). Neighbours: `node_table` builds the
facts, `reasons` words what did not hold. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from hsu_core.model.node import NodeRecord
from hsu_core.model.spec import Constraint, Guarantee, Pairs, WorkerSpec

OPERATORS = ("==", "!=", "<", ">", "<=", ">=", "=~", "in", "not-in", "exists")

PATTERN_LIMIT = 200
"""Longest regular expression, in characters: host and label patterns are short; longer ones are slow to judge."""

SUBJECT_LIMIT = 256
"""Longest value a regular expression is tried on, in characters; a longer one does not match."""

REPEAT_LIMIT = 3
"""Most unbounded repeats in one expression: the work grows with length ** repeats (256 ** 3 / 6 steps at worst)."""

CAN_FENCE = Constraint("node.fence", "==", "yes")
"""What `guarantee: strict` asks of a node: that it ends the worker by itself before the cluster gives its slot away."""

_LABEL_PREFIX = "node.labels."
_DECIMAL = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_TOKEN = re.compile(r"\d+|[A-Za-z]+", re.ASCII)


def node_facts(record: NodeRecord, extra_labels: Pairs = ()) -> dict[str, str]:
    """Return what conditions can name of a node; labels that people added win over the agent's own."""
    facts = dict(record.labels)
    facts.update(extra_labels)
    facts["node.name"] = record.name
    facts["node.os"] = record.os
    facts["node.arch"] = record.arch
    facts["node.version"] = record.version
    facts["node.fence"] = "no" if fence_why(record) else "yes"
    facts["node.fence-why"] = fence_why(record)
    return facts


def fence_why(record: NodeRecord) -> str:
    """Return why a node cannot end its strict workers by itself; empty if it can."""
    return "its agent is of a release that cannot" if record.fence is None else record.fence


def constraints_of(spec: WorkerSpec) -> tuple[Constraint, ...]:
    """Return the conditions of a worker: its own, and that its node can fence if it is strict."""
    own = spec.placement.constraints
    return own if spec.guarantee is not Guarantee.STRICT else (*own, CAN_FENCE)


def holds(constraint: Constraint, facts: Mapping[str, str]) -> bool:
    """Return whether the condition holds for a node.

    A label that a node does not have: only `!=` and `not-in` hold (as Kubernetes' NotIn). `<` and
    its kin compare decimal numbers as numbers and all else, and always `node.version`, as versions.
    An operator or expression that cannot be used never holds; `fault` says why.
    """
    key = constraint.key.removeprefix(_LABEL_PREFIX)
    value = facts.get(key)
    operator, operand = constraint.operator, constraint.operand
    if operator == "exists":
        return value is not None
    if operator == "!=":
        return value != operand
    if operator == "not-in":
        return value not in _items(operand)
    if value is None:
        return False
    if operator == "==":
        return value == operand
    if operator == "in":
        return value in _items(operand)
    if operator == "=~":
        pattern = _compiled(operand)
        return pattern is not None and len(value) <= SUBJECT_LIMIT and pattern.search(value) is not None
    if operator in ("<", "<=", ">", ">="):
        order = _compare(value, operand, as_version=key == "node.version")
        return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[operator]
    return False


def first_failing(constraints: Iterable[Constraint], facts: Mapping[str, str]) -> Constraint | None:
    """Return the first condition that does not hold, or None."""
    return next((constraint for constraint in constraints if not holds(constraint, facts)), None)


def fault(constraint: Constraint) -> str | None:
    """Return why this condition can never be judged (unknown operator, unusable expression), or None."""
    if constraint.operator not in OPERATORS:
        return f"operator {constraint.operator!r} is not one of {' '.join(OPERATORS)}"
    if constraint.operator == "=~":
        return _pattern_fault(constraint.operand)
    return None


def _items(operand: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in operand.split(","))


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    return None if _pattern_fault(pattern) else re.compile(pattern)


@functools.lru_cache(maxsize=512)
def _pattern_fault(pattern: str) -> str | None:
    """Return why a regular expression is refused, or None.

    The leader judges it on its own loop, so an expression that backtracks without end would stop the
    cluster: repeats of groups that repeat or choose inside, back references and look-arounds are refused.
    """
    if len(pattern) > PATTERN_LIMIT:
        return f"the expression has {len(pattern)} characters, the limit is {PATTERN_LIMIT}"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"the expression is not valid: {error}"
    plain = re.sub(r"\\.", _escape_class, pattern)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "c", plain)
    if "B" in plain.replace("(?P=", "B"):
        return "the expression holds a back reference"
    if re.search(r"\(\?(?!:|P<)", plain):
        return "the expression holds a look-around or a flag group"
    repeats = len(re.findall(r"[*+]|\{\d*,\d*\}", plain))
    if repeats > REPEAT_LIMIT:
        return f"the expression holds {repeats} repeats, the limit is {REPEAT_LIMIT}"
    while True:
        inner = re.search(r"\(([^()]*)\)(\{\d*,?\d*\}|[*+?])?", plain)
        if inner is None:
            return None
        if inner.group(2) not in (None, "?") and re.search(r"[*+?{|R]", inner.group(1)):
            return "the expression repeats a group that repeats or chooses inside"
        has_choice = re.search(r"[*+?{|R]", inner.group(1)) is not None
        plain = plain[: inner.start()] + ("R" if has_choice else "c") + plain[inner.end() :]


def _escape_class(match: re.Match[str]) -> str:
    return "B" if match.group(0)[1] in "123456789" else "c"


def _compare(left: str, right: str, *, as_version: bool) -> int:
    """Return -1, 0 or 1 for left against right."""
    if not as_version and _DECIMAL.fullmatch(left) and _DECIMAL.fullmatch(right):
        left_number, right_number = float(left), float(right)
        return (left_number > right_number) - (left_number < right_number)
    left_key, right_key = _version_key(left), _version_key(right)
    return (left_key > right_key) - (left_key < right_key)


@functools.lru_cache(maxsize=4096)
def _version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key of a version: `1.2.0-rc1` < `1.2` = `1.2.0` < `1.10`; build metadata after `+` is ignored."""
    numbers: list[tuple[int, int, str]] = []
    for token in _TOKEN.findall(text[:SUBJECT_LIMIT].split("+")[0].removeprefix("v")):
        if token.isdigit():
            numbers.append((2, int(token), ""))
        else:
            while numbers and numbers[-1] == (2, 0, ""):
                numbers.pop()
            numbers.append((0, 0, token))
    while numbers and numbers[-1] == (2, 0, ""):
        numbers.pop()
    return (*numbers, (1, 0, ""))
