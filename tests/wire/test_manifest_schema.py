"""The JSON Schema for editors: whatever the reader accepts fits it, and a misspelt key does not."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire import fields, health_models, restart_models
from hsu_core.wire.forms import Takes
from hsu_core.wire.manifest_schema import manifest_schema
from hsu_core.wire.yaml_text import load_document
from tests.wire.builders import manifest, parse, worker
from tests.wire.test_manifest_properties import ANYTHING, KEYS, SCALARS, workers

ROOT = Path(__file__).parents[2]
SAMPLES = [*sorted((ROOT / "tests/wire/fixtures").glob("*.yaml")), *sorted((ROOT / "examples").glob("*.yaml"))]

SCHEMA = manifest_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def data(text: str) -> Any:
    return load_document(text, "shop.yaml").data


def unfit(document: Any) -> list[str]:
    return [f"{list(error.absolute_path)}: {error.message[:200]}" for error in VALIDATOR.iter_errors(document)]


def reads(text: str) -> bool:
    try:
        parse(text, environment={"HOME": "/home/me"}, read_file=lambda _: b"x")
    except InvalidManifest:
        return False
    return True


def test_it_is_a_schema_of_2020_12_and_every_reference_has_its_definition() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(SCHEMA)
    for name in SCHEMA["$defs"]:
        assert f'"#/$defs/{name}"' in text, "a definition that nobody refers to"


@pytest.mark.parametrize("module", ["hsu_agent.commands", "hsu_cluster.cli.main"])
def test_both_programs_print_it(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "schema"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == SCHEMA


def test_the_examples_of_the_pages_fit() -> None:
    for page in ("README.md", "docs/agent.md", "docs/traffic.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            document = data(block)
            if "workers" not in document:  # keys of one worker
                own = {**worker("web"), **document}
                others = [worker(name) for name in document.get("depends_on", {})]
                document = {"workers": [*others, own]}
            assert unfit(document) == [], page


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_examples_and_samples_of_hsu_fit(path: Path) -> None:
    assert unfit(data(path.read_text(encoding="utf-8"))) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workers())
def test_what_the_reader_accepts_fits(bodies: list[dict[str, Any]]) -> None:
    document = {
        "vars": {"tag": "v${n}", "n": 3, "span": "20s"},
        "templates": {"common": {"profile_type": "${tag}", "stop": None}},
        "workers": bodies,
    }
    text = yaml.safe_dump(document, allow_unicode=True)
    assert reads(text)
    assert unfit(data(text)) == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, ANYTHING, max_size=5))
def test_any_worker_that_the_reader_accepts_fits(body: dict[str, Any]) -> None:
    text = json.dumps({"workers": [{**worker(), **body}], "app": "shop"})
    if reads(text):
        assert unfit(json.loads(text)) == []


WAYS = [
    {"depends_on": "db"},
    {"depends_on": ["db"]},
    {"depends_on": {"db": None}},
    {"depends_on": {"db": {"condition": "completed_successfully"}}},
    {"hooks": {"pre_start": "./x"}},
    {"hooks": {"pre_start": ["./x", 1]}},
    {"hooks": {"post_stop": {"command": "./x", "timeout": "5"}}},
    {"limits": {"memory": "64MB", "cpu": 1.5, "process": "${n}", "network": {"max_connections": 3}}},
    {"placement": {"constraints": "zone == a", "affinity": ["zone == a", {"constraint": "zone == b", "weight": "-5"}]}},
    {"restart": {"exit_codes": {"success": 3, "final": ["64-78", 2]}, "policy": "unless_stopped"}},
    {"stop": {"signal": "int", "grace": "1m30s"}},
    {"rollout": {"max_surge": "25%", "max_unavailable": "${n}", "steps": [{"pause": None}, {"pause": "5s"}]}},
    {"replicas": "0x3", "enabled": "true"},
    {"ports": {"http": "${n}", "admin": "dynamic", "other": "8080"}},
    {"schedule": "0 3 * * *", "timezone": "Europe/Berlin", "catch_up": False},
    {
        "health": {"readiness": {"any": [{"tcp": {"port": "http"}}, {"process": {}}], "period": 2.5}},
        "ports": {"http": 1},
    },
    {"files": {"a": {"content": 1.5}}},
    {"logs": None, "stop": None, "health": None},
]


@pytest.mark.parametrize("keys", WAYS, ids=lambda keys: json.dumps(keys)[:50])
def test_each_way_to_write_a_value_fits(keys: dict[str, Any]) -> None:
    text = manifest(worker("db"), worker(**keys), vars={"n": 7})
    parse(text)
    assert unfit(data(text)) == []


def test_what_a_template_holds_need_not_be_in_the_worker() -> None:
    text = """
vars: {n: 3}
templates:
  base: {unit: {managed: {control: {execution: {executable_path: ./web}}}}, replicas: "${n}"}
  more: {extends: base, unit: {managed: {control: {graceful_timeout: 5s}}}}
workers:
  - {id: a, extends: more}
  - {id: b, extends: [base, more], unit: {managed: {control: {execution: {args: [x]}}}}}
"""
    parse(text)
    assert unfit(data(text)) == []
    assert unfit(data(text.replace("extends: more}", "}"))) != [], "without a template `unit` is missing"
    assert unfit(data(text.replace("graceful_timeout", "gracefull_timeout"))) != []


@pytest.mark.parametrize("key", ["managed_processes", "workers"])
def test_the_second_dialect_has_its_own_names(key: str) -> None:
    unit = {"control": {"execution": {"executable_path": "x"}}}
    body = {"id": "a", "type": "standard_managed", "management": {"standard_managed": unit}}
    document = {"process_manager": {"port": 1}, key: [body]}
    assert reads(json.dumps(document))
    assert unfit(document) == []
    without = {"workers": [body]}
    assert not reads(json.dumps(without)), "only `process_manager` and `managed_processes` make it the second dialect"
    assert unfit(without) != []


# -- misspelt keys ---------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the place of every key."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*path, key)
            yield from places(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(child, (*path, index))


def misspelt(document: Any, place: tuple[Any, ...]) -> Any:
    """Return the document with one key misspelt."""
    changed = copy.deepcopy(document)
    here = changed
    for part in place[:-1]:
        here = here[part]
    here[f"{place[-1]}x"] = here.pop(place[-1])
    return changed


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_misspelt_key_is_refused_wherever_the_reader_refuses_it(path: Path) -> None:
    document = data(path.read_text(encoding="utf-8"))
    refused = 0
    for place in places(document):
        changed = misspelt(document, place)
        is_read = reads(json.dumps(changed))
        if not is_read:
            refused += 1
        if place[0] not in ("vars", "templates") and place[-2:-1] != ("ports",):  # names of one's own
            assert bool(unfit(changed)) is not is_read, f"{place}: the reader {'accepts' if is_read else 'refuses'} it"
    assert refused > 5


def test_a_key_that_is_misspelt_in_a_template_is_refused() -> None:
    good = {"templates": {"base": {"stop": {"grace": "1s"}}}, "workers": [worker()]}
    assert unfit(good) == []
    good["templates"]["base"]["stop"] = {"graze": "1s"}  # type: ignore[index]
    assert unfit(good) != []


# -- single fields ---------------------------------------------------------------------------------

TYPES = {
    name: found
    for module in (fields, health_models, restart_models)
    for name, found in vars(module).items()
    if any(isinstance(part, Takes) for part in get_args(found)[1:])
}

QUANTITIES = st.one_of(
    st.from_regex(r"[ ]?[-+]?[0-9]{0,3}(\.[0-9]{1,2})?[ ]?(ns|us|µs|ms|s|m|h|d|%|KB|MiB|gib|B|K|)[ ]?", fullmatch=True),
    st.sampled_from(["0x10", "0o17", "1e3", "-0", "+5", "007", ".5", "1m30s", "SIGTERM", "int", "sigUsr1", "TRUE"]),
    st.sampled_from(["on_failure", "on-failure", "never", "A=b", "dynamic", "64-78", " 64 - 78 ", "0x3-5", "", "${x}"]),
    st.sampled_from([["A=b"], ["a", 1, True], {"A": None, "B": 1.5}, {}, [], ["64-78", 3], [1, 2]]),
    SCALARS,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(TYPES))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=QUANTITIES)
def test_no_form_takes_less_than_its_validator(name: str, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(TYPES[name])
    try:
        adapter.validate_python(value)
    except ValidationError:
        return
    assert Draft202012Validator(adapter.json_schema()).is_valid(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Duration", "10 parsecs"), ("Duration", -1), ("Duration", True), ("Size", "ten"), ("Cpu", "1.5mm"),
        ("Replicas", 1.5), ("Replicas", -1), ("Port", 70000), ("Boolean", "yes"), ("Signal", "SIGNONE"),
        ("Name", "a b"), ("PercentOrCount", "5 percent"), ("PortNumber", "http"), ("ExitCodes", "x"),
        ("ExitCodes", "true"), ("Policy", "often"),
        ("Pairs", ["A"]), ("Pairs", {"A": {}}), ("TextList", [{}]), ("Text", None),
    ],
)  # fmt: skip
def test_forms_refuse_what_is_clearly_wrong(name: str, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(TYPES[name])
    with pytest.raises(ValidationError):
        adapter.validate_python(value)
    assert not Draft202012Validator(adapter.json_schema()).is_valid(value)


def test_every_definition_of_a_map_says_what_it_is() -> None:
    for name, body in SCHEMA["$defs"].items():
        if "properties" in body:
            assert body.get("description"), f"{name}: write a docstring"
            assert body["additionalProperties"] is False


def test_annotations_are_what_the_models_use() -> None:
    assert {"Duration", "Size", "Cpu", "Name", "TextList", "PortNumber", "ExitCodes", "Policy"} <= TYPES.keys()
    assert all(isinstance(found, type(Annotated[int, 1])) for found in TYPES.values())
