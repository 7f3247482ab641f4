"""The JSON Schema (2020-12) of the manifest, for editors; made from the models that read it.

Every file that is read without a warning of unknown keys fits the schema, in both dialects of HSU, with variables,
templates and the older flat units; a key that is misspelt does not. The schema knows less than the reader: names that
must exist, circles and the like are told by `validate`. Two things it asks for that the reader does not: templates are
checked even where no worker extends them, and so is what a worker lays something else over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hsu_core.wire import dialects, forms
from hsu_core.wire.fields import SIGNAL_FORM
from hsu_core.wire.integrated import RUN_OPTIONS
from hsu_core.wire.manifest_models import ManifestModel, WorkerModel

Schema = dict[str, Any]
Definitions = dict[str, Schema]
Edit = Callable[[str, Schema], None]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_REFERENCE = "#/$defs/"
_NULL: Schema = {"type": "null"}
_PART, _SECOND = "Part", "Second"

_SHARED: Mapping[str, forms.Form] = {
    "Boolean": forms.BOOLEAN,
    "Cpu": forms.CPU,
    "Duration": forms.DURATION,
    "Name": forms.named("A-Za-z0-9_-"),
    "Pairs": forms.PAIRS,
    "PercentOrCount": forms.PERCENT_OR_COUNT,
    "Signal": SIGNAL_FORM,
    "Size": forms.SIZE,
    "Text": forms.TEXT,
    "TextList": forms.TEXT_LIST,
}
"""Forms that stand in many places; each gets a definition of its own."""


def manifest_schema() -> Schema:
    """Return the schema as JSON-able data."""
    native, root = _native()
    known = {
        **native,
        **_variant(native, _PART, _as_part),
        **_variant(native, _SECOND, _in_second_dialect),
        **_variant(native, f"{_SECOND}{_PART}", _as_part, _in_second_dialect),
    }
    root["properties"]["templates"] = _or_null({"type": "object", "additionalProperties": _or_null(_ref("Template"))})
    second = copy.deepcopy(root)
    _name_workers(root, "")
    _name_workers(second, _SECOND)
    second["description"] = "The second dialect of HSU: the same with other names of some keys."
    second["properties"]["log_collection"] = _or_null(_ref(f"LogCollectionModel{_SECOND}"))
    for old, new in dialects.TOP_KEYS.items():
        second["properties"][old] = second["properties"][new]
    second["anyOf"] = [{"required": [key]} for key in (*second.pop("required"), "managed_processes")]
    known |= {
        "Manifest": root,
        f"Manifest{_SECOND}": second,
        "Template": {**known[f"WorkerModel{_PART}"], "description": "A part of a worker, for others to extend."},
    }
    schema = {
        "$schema": DRAFT,
        "title": "Manifest of HSU Cluster",
        "description": "An app and its workers: what is deployed to a cluster, or run on one host.",
        "type": "object",
        "if": {"anyOf": [{"required": [key]} for key in dialects.TOP_KEYS]},
        "then": _ref(f"Manifest{_SECOND}"),
        "else": _ref("Manifest"),
    }
    known = {name: _with_shared(body) for name, body in known.items()}
    known |= {name: dict(form) for name, form in _SHARED.items()}
    return {**schema, "$defs": dict(sorted(_reachable(schema, known).items()))}


def _native() -> tuple[Definitions, Schema]:
    """Return the definitions of the native dialect, and the file itself."""
    worker, root = _cleaned(WorkerModel.model_json_schema()), _cleaned(ManifestModel.model_json_schema())
    known: Definitions = {**worker.pop("$defs"), **root.pop("$defs"), "WorkerModel": worker}
    managed, control = known["Managed"], known["Control"]
    known["Integrated"] = {
        **managed,
        "description": "A managed process that is told its port (--port N) and answers a ping on it.",
        "properties": {**managed["properties"], RUN_OPTIONS: _or_null(_ref("RunOptions"))},
    }
    beside = {key: value for key, value in managed["properties"].items() if key != "control"}
    inside = {key: value for key, value in control["properties"].items() if key in dialects.CONTROL_KEYS}
    known["FlatUnit"] = {
        **managed,
        "description": "HSU's oldest form of a unit, read as unit.managed.control.",
        "properties": {**beside, **inside},
        "required": ["execution"],
    }
    known["UnitKinds"] = known["Unit"]
    known["UnitKinds"]["properties"]["integrated"] = _or_null(_ref("Integrated"))
    known["Unit"] = {
        "type": "object",
        "if": {"required": ["execution"]},
        "then": _ref("FlatUnit"),
        "else": _ref("UnitKinds"),
    }
    return known, root


def _as_part(name: str, body: Schema) -> None:
    """Make a definition that of a part: what is missing stands in a template."""
    body.pop("required", None)
    if name == "WorkerModel":
        text: Schema = {"type": "string"}
        names = forms.one_of(text, {"type": "array", "items": text}, _NULL)
        body["properties"]["extends"] = {
            **names,
            "description": "Templates that this is laid over, the last one first.",
        }


def _in_second_dialect(name: str, body: Schema) -> None:
    """Add the names that HSU's second dialect has for keys."""
    keys = body.get("properties", {})
    if name == "WorkerModel":
        renamed = dialects.WORKER_KEYS
        keys["type"]["anyOf"].append({"enum": list(dialects.UNIT_KEYS)})
        if "required" in body:
            body["required"].remove("unit")
            body["anyOf"] = [{"required": [key]} for key in ("unit", *renamed)]
    elif name == "HealthCheck":
        renamed = {}
        keys["http_endpoint"] = {"type": "string", "description": "The url of an http check."}
    else:
        tables = {
            "UnitKinds": dialects.UNIT_KEYS,
            "ContextAwareRestart": dialects.RESTART_KEYS,
            "LogCollectionModel": dialects.LOG_KEYS,
        }
        renamed = tables.get(name, {})
    for old, new in renamed.items():
        keys[old] = keys[new]


def _name_workers(root: Schema, suffix: str) -> None:
    root["properties"]["workers"] = {
        "type": "array",
        "items": {
            "type": "object",
            "if": {"required": ["extends"]},
            "then": _ref(f"WorkerModel{suffix}{_PART}"),
            "else": _ref(f"WorkerModel{suffix}"),
        },
    }


def _variant(known: Definitions, suffix: str, *edits: Edit) -> Definitions:
    """Return copies, with the suffix, of the definitions that an edit changes or that lead to such a one."""
    edited = copy.deepcopy(known)
    for edit in edits:
        for name, body in edited.items():
            edit(name, body)
    changed = {name for name, body in edited.items() if body != known[name]}
    while more := {name for name, body in edited.items() if changed & set(_references(body))} - changed:
        changed |= more

    def named(reference: str) -> str:
        return f"{reference}{suffix}" if reference.removeprefix(_REFERENCE) in changed else reference

    return {f"{name}{suffix}": _mapped(edited[name], named) for name in changed}


def _ref(name: str) -> Schema:
    return {"$ref": f"{_REFERENCE}{name}"}


def _or_null(form: Schema) -> Schema:
    return {"anyOf": [form, _NULL]}


def _references(body: Any) -> Iterator[str]:
    """Give the names of the definitions that a schema refers to."""
    if isinstance(body, dict):
        for key, value in body.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(_REFERENCE)
            else:
                yield from _references(value)
    elif isinstance(body, list):
        for item in body:
            yield from _references(item)


def _mapped(body: Any, name: Callable[[str], str]) -> Any:
    """Return a copy whose references have other names."""
    if isinstance(body, dict):
        return {
            key: name(value) if key == "$ref" and isinstance(value, str) else _mapped(value, name)
            for key, value in body.items()
        }
    return [_mapped(item, name) for item in body] if isinstance(body, list) else body


def _cleaned(body: Any) -> Any:
    """Return a copy without the titles and defaults that pydantic makes of the names and None."""
    if isinstance(body, dict):
        return {
            key: _cleaned(value)
            for key, value in body.items()
            if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
        }
    return [_cleaned(item) for item in body] if isinstance(body, list) else body


def _with_shared(body: Any) -> Any:
    """Return a copy in which the shared forms are references to their definition."""
    if isinstance(body, list):
        return [_with_shared(item) for item in body]
    if not isinstance(body, dict):
        return body
    choices = body.get("anyOf")
    is_nullable = isinstance(choices, list) and _NULL in choices
    plain = {**body, "anyOf": [item for item in choices if item != _NULL]} if choices and is_nullable else body
    if is_nullable and len(plain["anyOf"]) == 1 and plain.keys() == {"anyOf"}:
        plain = plain["anyOf"][0]
    for name, form in _SHARED.items():
        if plain == form:
            return _or_null(_ref(name)) if is_nullable else _ref(name)
    return {key: _with_shared(value) for key, value in body.items()}


def _reachable(root: Schema, known: Definitions) -> Definitions:
    found: Definitions = {}
    waiting = list(_references(root))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = known[name]
            waiting += _references(known[name])
    return found
