"""Properties of the manifest: what a client resolved means the same to a server; any data gives an answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire.manifest import content_hash
from tests.wire.builders import parse

NAMES = ["web", "db", "cache", "a-1", "B_2"]
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0{}$"), max_size=12),
    st.sampled_from(
        ["${tag}", "$${tag}", "$$${x", "{port.http}", "{slot}", "a${tag}b", "${env:HOME}", "$${a}${tag}", "1.10"]
    ),
)  # fmt: skip
DURATIONS = st.sampled_from([1, 0.5, "10s", "1m30s", "${span}"])
SCALARS = st.one_of(TEXTS, st.integers(-100, 10**6), st.booleans(), st.floats(0, 100), st.none())


def sometimes(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return maps that have each of these keys or not."""
    return st.fixed_dictionaries({}, optional=fields)


PROBES = st.one_of(
    st.just({"process": {}}),
    st.just({"tcp": {"port": "http"}, "period": "5s", "timeout": "2s"}),
    st.just({"http": {"port": 80, "path": "/x", "headers": {"X-Tag": "${tag}"}}, "failure_threshold": 7}),
    st.builds(lambda words: {"exec": {"command": ["./check", *words]}}, st.lists(TEXTS, max_size=3)),
)
HSU_CHECKS = st.sampled_from(
    [
        {"type": "process", "run_options": {"enabled": False}},
        {"type": "tcp", "tcp": {"address": "localhost", "port": 9}, "run_options": {"interval": "9s", "retries": 0}},
        {"type": "http", "http": {"url": "http://localhost:{port.http}/"}},
    ]
)
CONTROL = sometimes(
    restart_policy=st.sampled_from(["always", "on_failure", "never"]),
    context_aware_restart=st.just({"default": {"max_retries": 3, "backoff_rate": 1.5}}),
    graceful_timeout=DURATIONS,
    stop_signal=st.sampled_from(["INT", "sigterm"]),
    limits=st.sampled_from(
        [{"memory": "64MB"}, {"cpu": {"max_cores": 1.5}}, {"memory": {"max_rss": 10, "policy": "log"}}]
    ),
    log_collection=st.just({"enabled": True}),
)
EXECUTION = st.fixed_dictionaries(
    {"executable_path": st.sampled_from(["./bin/x", "python3", "${tag}/x"])},
    optional={
        "args": st.lists(SCALARS.filter(lambda value: value is not None), max_size=4),
        "environment": st.dictionaries(st.sampled_from(["A", "B", "C"]), SCALARS, max_size=3),
        "working_directory": st.sampled_from(["/srv", "sub"]),
    },
)
FILES = st.dictionaries(
    st.sampled_from(["a.txt", "etc/b", "etc/c/d"]),
    st.one_of(st.builds(lambda text: {"content": text}, TEXTS), st.just({"template": "any.tmpl"})),
    max_size=3,
)


@st.composite
def workers(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[dict[str, Any]]:
    """Return workers without a fault, which may depend on earlier ones."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    result: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        managed: dict[str, Any] = {"control": {"execution": draw(EXECUTION), **draw(CONTROL)}}
        body: dict[str, Any] = {
            "id": name,
            "unit": {"managed": managed},
            "ports": {"http": draw(st.sampled_from(["dynamic", 80]))},
        }
        if draw(st.booleans()):
            managed["health_check"] = draw(HSU_CHECKS)
        else:
            body["health"] = draw(sometimes(startup=PROBES, readiness=PROBES, liveness=PROBES))
        body |= draw(
            sometimes(
                replicas=st.one_of(st.integers(0, 9), st.just("${n}")),
                enabled=st.booleans(),
                files=FILES,
                profile_type=st.sampled_from(["web", "${tag}"]),
                resources=st.sampled_from([{"cpu": "250m"}, {"cpu": 1.5, "memory": "1GiB"}]),
                placement=st.just({"constraints": ["zone in a, b"], "spread": ["zone"], "max_per_node": 2}),
                rollout=st.just({"max_surge": "30%", "max_unavailable": 1, "min_healthy": "2s"}),
                logs=st.just({"segment_size": "1MB"}),
                guarantee=st.sampled_from(["available", "strict"]),
                depends_on=st.lists(st.sampled_from(names[:index]), unique=True) if index else st.just([]),
                extends=st.just("common"),
            )
        )  # fmt: skip
        result.append(body)
    return result


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workers(), st.sampled_from(["", "/srv/shop", "/srv/${x"]), st.sampled_from([None, "team"]))
def test_a_server_reads_the_resolved_document_as_the_client_did(
    bodies: list[dict[str, Any]], folder: str, namespace: str | None
) -> None:
    text = yaml.safe_dump(
        {
            "vars": {"tag": "v${n}", "n": 3, "span": "20s"},
            "templates": {"common": {"profile_type": "${tag}", "stop": None}},
            "workers": bodies,
        },
        allow_unicode=True,
    )
    parsed = parse(
        text,
        environment={"HOME": "/home/me"},
        read_file=lambda _: "${tag} $${x} {port.http} é\n".encode(),
        base_directory=folder,
        namespace=namespace,
    )
    sent = json.dumps(parsed.document)
    again = parse(sent, file="request", environment=None, namespace=namespace, app="shop")
    assert again.spec == parsed.spec
    assert content_hash(again.spec) == content_hash(parsed.spec)
    assert json.dumps(again.document) == sent
    assert [fault.text for fault in again.warnings] == [fault.text for fault in parsed.warnings]


KEYS = st.sampled_from(
    [
        "id",
        "type",
        "unit",
        "managed",
        "control",
        "execution",
        "executable_path",
        "args",
        "environment",
        "ports",
        "files",
        "health",
        "readiness",
        "http",
        "port",
        "period",
        "placement",
        "constraints",
        "rollout",
        "steps",
        "depends_on",
        "extends",
        "replicas",
        "content",
        "template",
        "restart",
        "backoff",
    ]
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(KEYS, ANYTHING, max_size=6), max_size=3), st.dictionaries(KEYS, ANYTHING, max_size=2))
def test_any_data_gives_a_specification_or_faults(bodies: list[Any], template: dict[str, Any]) -> None:
    text = json.dumps({"workers": bodies, "templates": {"web": template}})
    with contextlib.suppress(InvalidManifest):
        parse(text, read_file=lambda _: b"x")
