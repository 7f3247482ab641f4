"""The meaning of a checked worker: model in, `WorkerSpec` out, with a warning for what is not carried out."""

from __future__ import annotations

import re
from dataclasses import replace

from hsu_core.model.ids import is_name
from hsu_core.model.spec import (
    Affinity,
    Constraint,
    FileSpec,
    Guarantee,
    HealthSpec,
    LogSpec,
    OnReturn,
    PlacementSpec,
    PortSpec,
    Resources,
    RestartSpec,
    StopSpec,
    WorkerSpec,
    WorkerType,
)
from hsu_core.wire.attribute_convert import convert_attributes
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import nearest
from hsu_core.wire.health_convert import convert_health
from hsu_core.wire.hook_convert import convert_hooks
from hsu_core.wire.limit_convert import convert_limits, reservation
from hsu_core.wire.log_convert import convert_log_rules
from hsu_core.wire.log_models import LogCollectionModel
from hsu_core.wire.manifest_models import (
    PlacementModel,
    WorkerModel,
)
from hsu_core.wire.restart_convert import convert_restart
from hsu_core.wire.rollout_convert import convert_rollout
from hsu_core.wire.schedule_convert import convert_schedule
from hsu_core.wire.tree import Path
from hsu_core.wire.unit_convert import UnitParts, convert_unit
from hsu_core.wire.unmanaged_convert import convert_unmanaged

_CONSTRAINT = re.compile(
    r"(?P<key>[A-Za-z0-9_][A-Za-z0-9_./-]*)\s*(?P<operator>==|!=|<=|>=|=~|<|>|=|\bnot-in\b|\bin\b|\bexists\b)\s*(?P<operand>.*)"
)
_NODE_KEYS = ("node.name", "node.os", "node.arch", "node.version", "node.fence")
_OPERAND_LIMIT = 200
"""Longest right side of a constraint: a longer regular expression is not one a person wrote."""

LOG_COLLECTION: Path = ("unit", "managed", "control", "log_collection")

SMALLEST_SEGMENT_BYTES = 64 * 1024
SHORTEST_AGE_S = 60.0


def convert_worker(
    model: WorkerModel, path: Path, found: FaultList, collection: LogCollectionModel | None = None
) -> WorkerSpec | None:
    """Return the specification of a worker, or None when its kind is not carried out."""
    unit = _unit(model, path, found)
    if unit is None:
        return None
    for name, native, theirs in (
        ("health", model.health, unit.health),
        ("restart", model.restart, unit.restart),
        ("stop", model.stop, unit.stop),
    ):
        if native is not None and theirs is not None:
            found.fault((*path, name), f"{name} is described here and in the unit", "keep one of them")
    if model.limits is not None and not unit.limits.is_empty:
        found.fault((*path, "limits"), "limits are described here and in the unit", "keep one of them")
    limits = convert_limits(model.limits, (*path, "limits"), found) if model.limits is not None else unit.limits
    restart = convert_restart(model.restart, path, found) if model.restart else unit.restart or RestartSpec()
    reserved = reservation(limits)
    default = WorkerSpec(model.id, unit.execution)
    resources = model.resources
    return WorkerSpec(
        id=model.id,
        execution=unit.execution,
        type=WorkerType(model.type or "managed"),
        unmanaged=unit.unmanaged,
        process_file=unit.process_file,
        groups=_groups(model, path, found),
        profile_type=model.profile_type or default.profile_type,
        is_enabled=model.enabled is not False,
        replicas=1 if model.replicas is None else model.replicas,
        ports=tuple(PortSpec(name, number) for name, number in sorted((model.ports or {}).items())),
        files=tuple(FileSpec(name, body.content or "") for name, body in sorted((model.files or {}).items())),
        health=convert_health(model.health, (*path, "health"), found) or unit.health or HealthSpec(),
        restart=restart,
        stop=_stop(model) or unit.stop or StopSpec(),
        resources=Resources(
            reserved.cpu_milli if resources is None or resources.cpu is None else resources.cpu,
            reserved.memory_bytes if resources is None or resources.memory is None else resources.memory,
        ),
        placement=_placement(model.placement, (*path, "placement"), found),
        rollout=convert_rollout(model.rollout, (*path, "rollout"), found),
        logs=replace(
            _logs(model, (*path, "logs"), found),
            rules=convert_log_rules(
                collection,
                model.unit.managed.control.log_collection if model.unit.managed is not None else None,
                (*path, *LOG_COLLECTION),
                found,
            ),
        ),
        guarantee=_guarantee(model, path, found),
        on_return=_on_return(model, path, found),
        depends_on=tuple(sorted(model.depends_on or {})),
        dependency_conditions=tuple(
            (name, body.condition.replace("-", "_"))
            for name, body in sorted((model.depends_on or {}).items())
            if body.condition not in (None, "healthy")
        ),
        limits=limits,
        hooks=convert_hooks(model.hooks, path, found),
        schedule=convert_schedule(model, restart, path, found),
        process=convert_attributes(model.process, path, found),
    )


def _unit(model: WorkerModel, path: Path, found: FaultList) -> UnitParts | None:
    """Return what the worker's unit says, None if it is not there or of another type."""
    kind = model.type or "managed"
    if kind == "integrated":
        text = "the worker has no block unit.integrated.control.execution, or other blocks beside it"
        found.fault((*path, "type"), text, "write unit: {integrated: {control: ...}}")
        return None
    for other in ("managed", "unmanaged", "integrated"):
        if other != kind and getattr(model.unit, other) is not None:
            found.fault((*path, "unit", other), f"the worker's type is {kind}", "keep the block of that type")
    if kind == "unmanaged" and model.unit.unmanaged is not None:
        return convert_unmanaged(model, model.unit.unmanaged, path, found)
    if kind == "managed" and model.unit.managed is not None:
        return convert_unit(model.unit.managed, (*path, "unit", "managed"), found, model.profile_type or "")
    block = "control" if kind == "managed" else "discovery"
    found.fault((*path, "unit"), f"the block `{kind}` is missing", f"add unit: {{{kind}: {{{block}: ...}}}}")
    return None


def _groups(model: WorkerModel, path: Path, found: FaultList) -> tuple[str, ...]:
    for index, text in enumerate(model.groups or ()):
        if not is_name(text):
            found.fault((*path, "groups", index), f"{text[:60]!r} is not a name", "use letters, digits, `_` and `-`")
    return tuple(sorted(set(model.groups or ())))


def _stop(model: WorkerModel) -> StopSpec | None:
    if model.stop is None:
        return None
    default = StopSpec()
    grace_s = default.grace_s if model.stop.grace is None else model.stop.grace
    return StopSpec(model.stop.signal or default.signal, grace_s)


def parse_constraint(text: str, path: Path, found: FaultList) -> Constraint:
    """Return the condition of `node.os == linux`, `zone in a, b`, `gpu exists`; `=` is read as `==`."""
    match = _CONSTRAINT.fullmatch(text.strip())
    fix = "write KEY OPERATOR VALUE, for example `node.os == linux`, `zone in a,b` or `gpu exists`"
    if match is None:
        found.fault(path, f"{text[:80]!r} is not a condition", fix)
        return Constraint("node.os", "exists")
    key, operator, operand = match["key"], match["operator"], match["operand"].strip()
    operator = "==" if operator == "=" else operator
    if key.startswith("node.") and key not in _NODE_KEYS:
        near = nearest(key, _NODE_KEYS)
        found.fault(path, f"a node has no {key}", f"did you mean {near}?" if near else f"use {', '.join(_NODE_KEYS)}")
    if (operator == "exists") == bool(operand) or len(operand) > _OPERAND_LIMIT:
        found.fault(path, f"{text[:80]!r} is not a condition", fix)
    elif operator in ("in", "not-in"):
        operand = ",".join(part.strip() for part in operand.split(",") if part.strip())
    elif operator == "=~":
        try:
            re.compile(operand)
        except (re.error, OverflowError, RecursionError) as error:
            found.fault(path, f"{operand[:60]!r} is not a regular expression: {error}", "mend it")
    return Constraint(key, operator, operand)


def _placement(body: PlacementModel | None, path: Path, found: FaultList) -> PlacementSpec:
    if body is None:
        return PlacementSpec()
    return PlacementSpec(
        constraints=tuple(
            parse_constraint(text, (*path, "constraints", index), found)
            for index, text in enumerate(body.constraints or [])
        ),
        affinity=tuple(
            Affinity(
                parse_constraint(item.constraint, (*path, "affinity", index), found),
                50 if item.weight is None else item.weight,
            )
            for index, item in enumerate(body.affinity or [])
        ),
        anti_affinity=tuple(sorted(set(body.anti_affinity or ()))),
        near=tuple(sorted(set(body.near or ()))),
        spread=tuple(dict.fromkeys(body.spread or ())),
        max_per_node=body.max_per_node or 0,
        strategy=body.strategy or "spread",
    )


def _logs(model: WorkerModel, path: Path, found: FaultList) -> LogSpec:
    default = LogSpec()
    if model.logs is None:
        return default
    size = default.segment_bytes if model.logs.segment_size is None else model.logs.segment_size
    if size < SMALLEST_SEGMENT_BYTES:
        found.fault((*path, "segment_size"), f"{size} bytes is too small for a segment", "write 64KiB or more")
    age_s = model.logs.max_age or 0.0
    if model.logs.max_age is not None and age_s < SHORTEST_AGE_S:
        found.fault((*path, "max_age"), f"{age_s:g} s is too short: it is looked at once a minute", "write 1m or more")
    return LogSpec(
        size,
        model.logs.segments or default.segments,
        rate_bytes_s=model.logs.rate_limit or 0,
        max_age_s=age_s,
        is_compressed=model.logs.compress is True,
    )


def _on_return(model: WorkerModel, path: Path, found: FaultList) -> OnReturn:
    if model.on_return == "keep-original" and model.guarantee == "strict":
        found.fault(
            (*path, "on_return"),
            "a strict worker is replaced when its original is certain to be dead, so there is none to keep",
            "remove it, or use guarantee: available",
        )
    return OnReturn(model.on_return or OnReturn.KEEP_REPLACEMENT)


def _guarantee(model: WorkerModel, path: Path, found: FaultList) -> Guarantee:
    if model.guarantee == "strict":
        unit = model.unit.unmanaged if model.unit is not None else None
        if unit is not None:
            found.fault(
                (*path, "guarantee"),
                "a process that somebody else starts cannot be strict: it is in no group that could be ended",
                "write available, or start it with a managed unit",
            )
        return Guarantee.STRICT
    return Guarantee.AVAILABLE
