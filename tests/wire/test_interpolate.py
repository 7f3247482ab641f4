"""Rules of variables in a manifest."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

from hsu_core.model.errors import InvalidManifest
from tests.wire.builders import faults, manifest, only_fault, parse, worker


def argument(text: str, variables: dict[str, Any] | None = None, **arguments: Any) -> str:
    """Return what `text` as the only argument of a worker becomes."""
    body = worker()
    body["unit"]["managed"]["control"]["execution"]["args"] = [text]
    parsed = parse(manifest(body, vars=variables or {}), **arguments)
    return parsed.spec.workers[0].execution.args[0]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${tag}", "1.4.2"), ("v${tag}-x", "v1.4.2-x"), ("${ tag }", "1.4.2"),
        ("$${tag}", "${tag}"), ("$$${tag}", "$${tag}"),
        ("$tag", "$tag"), ("$", "$"), ("{port}", "{port}"), ("{port.}", None), ("${missing:-x y}", "x y"),
        ("${missing:-}", ""),
        ("${empty:-full}", "full"), ("${tag:-x}", "1.4.2"), ("${tag:?needed}", "1.4.2"), ("${env:HOME}", "/home/me"),
        ("${env:NO:-x}", "x"), ("${chain}", "a-1.4.2"), ("${n}", "3"), ("${flag}", "true"), ("${version}", "1.10"),
        ("{slot}${n}", "{slot}3"), ("${missing:-a:b}", "a:b"),
    ],
)  # fmt: skip
def test_references_are_expanded(text: str, expanded: str | None) -> None:
    variables = {"tag": "1.4.2", "empty": "", "chain": "a-${tag}", "n": 3, "flag": True, "version": 1.1}
    execution = f'{{executable_path: x, args: ["{text}"]}}'
    head = yaml.safe_dump({"vars": variables}).replace("version: 1.1", "version: 1.10")
    source = f"{head}workers: [{{id: web, unit: {{managed: {{control: {{execution: {execution}}}}}}}}}]"
    if expanded is None:
        assert "names no port" in only_fault(source).text
    else:
        assert parse(source, environment={"HOME": "/home/me"}).spec.workers[0].execution.args == (expanded,)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("${missing}", "variable missing is not set"),
        ("${tga}", "did you mean tag?"),
        ("${missing:?set it in CI}", "variable missing is needed: set it in CI"),
        ("${env:NO}", "environment variable NO is not set"),
        ("${env:NO:?who}", "variable NO is needed: who"),
        ("${}", "is not a reference"),
        ("${a b}", "is not a reference"),
        ("${tag:=x}", "is not a reference"),
        ("${tag", "is not closed"),
        ("${a${tag}}", "is not closed, or holds braces"),
    ],
)
def test_bad_references_are_faults_with_a_fix(text: str, part: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        argument(text, {"tag": "1"})
    fault = caught.value.faults[0]
    assert part in str(fault)
    assert fault.fix
    assert fault.line
    assert fault.path == "workers[web].unit.managed.control.execution.args[0]"


def test_a_whole_reference_keeps_its_type() -> None:
    text = "vars: {n: 3, on: true}\n" + manifest(worker(replicas="${n}", enabled="${on}"))
    spec = parse(text).spec.workers[0]
    assert (spec.replicas, spec.is_enabled) == (3, True)


def test_callers_variables_win_and_may_be_text() -> None:
    text = manifest(worker(replicas="${n}", enabled="${on}"), vars={"n": 3, "on": True})
    spec = parse(text, variables={"n": "5", "on": "false"}).spec.workers[0]
    assert (spec.replicas, spec.is_enabled) == (5, False)


def test_environment_is_refused_where_there_is_none() -> None:
    fault = only_fault(manifest(worker(profile_type="${env:HOME}")), environment=None)
    assert "a master does not give its own environment" in fault.text


def test_circle_of_variables_is_shown() -> None:
    fault = only_fault(manifest(worker(profile_type="${a}"), vars={"a": "${b}", "b": "${c}", "c": "${a}"}))
    assert "a -> b -> c -> a" in fault.text


def test_long_chain_of_variables_is_refused() -> None:
    variables = {f"v{i}": f"${{v{i + 1}}}" for i in range(60)} | {"v60": "x"}
    assert "more than 32 deep" in only_fault(manifest(worker(profile_type="${v0}"), vars=variables)).text


def test_variables_hold_single_values() -> None:
    assert "a variable holds one value" in only_fault(manifest(worker(profile_type="${a}"), vars={"a": [1]})).fix


def test_vars_must_be_a_map() -> None:
    assert "needs a map of variables" in only_fault(manifest(vars=[1])).text


def test_variable_bomb_is_refused_within_a_second() -> None:
    variables = {"a0": "x" * 100} | {f"a{i}": f"${{a{i - 1}}}" * 10 for i in range(1, 20)}
    start_s = time.process_time()
    found = faults(manifest(worker(profile_type="${a19}"), vars=variables))
    assert "expand to more than 1048576 bytes" in found[0].text
    assert time.process_time() - start_s < 1


def test_unused_variables_are_not_looked_at() -> None:
    assert parse(manifest(vars={"unused": "${missing}"})).spec.workers
