"""What a good manifest means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hsu_core.model.restarts import BreakerSpec, RetryRule
from hsu_core.model.rollout_spec import Analyse, Pause, SetWeight
from hsu_core.model.spec import (
    Affinity,
    AppSpec,
    Constraint,
    ExecCheck,
    GrpcCheck,
    Guarantee,
    HttpCheck,
    OnReturn,
    PlacementSpec,
    PortSpec,
    Probe,
    ProcessCheck,
    Resources,
    RestartPolicy,
    RestartSpec,
    RolloutSpec,
    StopSpec,
    TcpCheck,
    WorkerSpec,
)
from tests.wire.builders import hsu_restart, manifest, only_fault, parse, parse_worker, worker

DESIGN = """
app: shop                       # default: the file's name
namespace: default
vars: {tag: "1.4.2"}
workers:
  - id: db
    unit: {managed: {control: {execution: {executable_path: ./bin/db}}}}
  - id: web
    type: managed
    replicas: 6
    unit: {managed: {control: {execution: {executable_path: ./bin/web, args: ["--port", "{port.http}"]}}}}
    ports: {http: dynamic}
    files: {etc/web.toml: {template: web.toml.tmpl}}      # part of the revision
    health: {readiness: {http: {port: http, path: /healthz}, period: 5s}}
    placement: {constraints: ["node.os == linux"], spread: [zone], max_per_node: 2}
    guarantee: available        # or strict
    rollout:
      strategy: canary
      steps: [{set_weight: 20}, {pause: 30s}, {analysis: errors}, {set_weight: 60}, {pause: {}}]
      max_surge: 25%
      max_unavailable: 0
    depends_on: [db]
"""


def unit(**control: Any) -> dict[str, Any]:
    """Return a managed unit with these keys of `control`."""
    return {"managed": {"control": {"execution": {"executable_path": "./bin/web"}, **control}}}


def checked(check: dict[str, Any]) -> WorkerSpec:
    """Return a worker with this HSU health check."""
    body = unit()
    body["managed"]["health_check"] = check
    return parse_worker(unit=body)


def test_the_manifest_of_the_design_parses_with_warnings_only() -> None:
    parsed = parse(DESIGN, read_file={"web.toml.tmpl": b'tag = "${tag}"\nport = {port.http}\n'}.__getitem__)
    web = parsed.spec.worker("web")
    assert web is not None
    assert (web.replicas, web.ports, web.depends_on) == (6, (PortSpec("http"),), ("db",))
    assert web.files[0].content == 'tag = "1.4.2"\nport = {port.http}\n'
    assert web.health.readiness == Probe(HttpCheck("http", "/healthz"), period_s=5.0)
    assert web.placement == PlacementSpec((Constraint("node.os", "==", "linux"),), spread=("zone",), max_per_node=2)
    steps = (SetWeight(20), Pause(30.0), Analyse(("errors",)), SetWeight(60), Pause())
    assert web.rollout == RolloutSpec("canary", 0, False, 25, True, steps=steps)
    assert [warning.path for warning in parsed.warnings] == ["workers[web].rollout.steps[2].analysis"]


def test_defaults_are_the_models() -> None:
    spec = parse(manifest()).spec
    web = spec.workers[0]
    assert spec == AppSpec("default", "shop", (WorkerSpec("web", web.execution),))


@pytest.mark.parametrize(
    ("file", "arguments", "said", "identity"),
    [
        ("deep/shop-1.yml", {}, {}, ("default", "shop-1")),
        ("shop.yaml", {}, {"app": "other", "namespace": "team"}, ("team", "other")),
        ("shop.yaml", {"app": "asked", "namespace": "team"}, {}, ("team", "asked")),
        ("shop.yaml", {"app": "same", "namespace": "team"}, {"app": "same", "namespace": "team"}, ("team", "same")),
    ],
)
def test_identity(file: str, arguments: dict[str, str], said: dict[str, str], identity: tuple[str, str]) -> None:
    spec = parse(manifest(**said), file=file, **arguments).spec
    assert (spec.namespace, spec.app) == identity


@pytest.mark.parametrize("environment", [["A=1", "B=x=y", "C="], {"A": 1, "B": "x=y", "C": None}])
def test_environment_is_a_list_or_a_map(environment: Any) -> None:
    execution = {"executable_path": "x", "environment": environment}
    assert parse_worker(unit=unit(execution=execution)).execution.environment == (("A", "1"), ("B", "x=y"), ("C", ""))


def test_numbers_in_texts_stay_as_written() -> None:
    text = manifest(worker()).replace("./bin/web", "./bin/web\n          args: [1.10, 0x10, 010, true, 1e3, no]")
    parsed = parse(text)
    assert parsed.spec.workers[0].execution.args == ("1.10", "0x10", "010", "true", "1e3", "no")
    again = parse(json.dumps(parsed.document), environment=None)
    assert again.spec == parsed.spec


def test_hsu_restart_is_by_cause_profile_and_severity() -> None:
    context = {
        "default": {"max_retries": 2, "retry_delay": "1s"},
        "health_failures": {"backoff_rate": 3},
        "severity_multipliers": {"emergency": 4},
        "worker_profile_multipliers": {"database": 2},
        "startup_grace_period": "30s",
    }
    restart = parse_worker(unit=unit(context_aware_restart=context), profile_type="database").restart
    assert (restart.base_s, restart.breaker) == (2.0, BreakerSpec(retries=4))
    assert restart.health == RetryRule(2.0, 3.0)
    assert restart.limits == RetryRule(4.0, 1.5)
    assert restart.grace_s == 30.0
    assert dict(restart.severities) == {"warning": 0.5, "critical": 1.0, "emergency": 4.0}


def test_breaker_and_exit_codes() -> None:
    body = {"breaker": {"retries": 5, "window": "1m"}, "exit_codes": {"success": [3], "final": ["64-66", 78]}}
    restart = parse_worker(restart=body).restart
    assert restart.breaker == BreakerSpec(5, 60.0, 300.0)
    assert (restart.success_codes, restart.final_codes) == ((3,), (64, 65, 66, 78))


@pytest.mark.parametrize("codes", ["x", [256], ["9-3"], [-1], [True]])
def test_an_exit_code_that_is_none_is_refused(codes: object) -> None:
    body = {"exit_codes": {"success": codes}}
    assert "is not an exit code" in str(only_fault(manifest(worker(restart=body))))


def test_hsu_restart_keys_bring_hsu_defaults() -> None:
    body = unit(restart_policy="always", context_aware_restart={"default": {"retry_delay": "2s"}})
    assert parse_worker(unit=body).restart == hsu_restart(RestartPolicy.ALWAYS, 2.0)
    assert parse_worker(unit=unit(restart_policy="never")).restart == RestartSpec(RestartPolicy.NEVER)
    legacy = unit(restart={"policy": "on-failure", "max_retries": 0, "retry_delay": "90s", "backoff_rate": 3})
    restart = parse_worker(unit=legacy).restart
    assert (restart.base_s, restart.factor, restart.ceiling_s, restart.max_retries) == (90.0, 3.0, 180.0, 0)
    assert restart.breaker is None


def test_native_restart_and_stop() -> None:
    backoff = {"base": "1s", "ceiling": "2m", "reset_after": "1h"}
    restart = {"policy": "unless_stopped", "max_retries": 4, "backoff": backoff}
    spec = parse_worker(restart=restart, stop={"signal": "int", "grace": "3s"})
    assert spec.restart == RestartSpec(RestartPolicy.UNLESS_STOPPED, 1.0, 2.0, 120.0, 3600.0, 4)
    assert spec.stop == StopSpec("SIGINT", 3.0)


def test_unit_stop_keys() -> None:
    assert parse_worker(unit=unit(graceful_timeout="1m30s", stop_signal="SIGQUIT")).stop == StopSpec("SIGQUIT", 90.0)


@pytest.mark.parametrize(
    ("check", "converted"),
    [
        ({"type": "process"}, ProcessCheck()),
        ({"type": "tcp", "tcp": {"address": "localhost", "port": 80}}, TcpCheck(80, "localhost")),
        ({"type": "exec", "exec": {"command": "x", "args": ["-a", 1]}}, ExecCheck(("x", "-a", "1"))),
        ({"type": "http", "http": {"url": "http://a", "method": "head"}}, HttpCheck(url="http://a", method="HEAD")),
        ({"type": "grpc", "grpc": {"address": "localhost:50051", "service": "s"}}, GrpcCheck(50051, "localhost", "s")),
    ],
)  # fmt: skip
def test_hsu_health_check_is_liveness_and_readiness(check: dict[str, Any], converted: Any) -> None:
    options = {"run_options": {"interval": "10s", "timeout": "5s", "initial_delay": "2s", "retries": 2}}
    probe = Probe(converted, 10.0, 5.0, 2.0, 1, 2)
    health = checked({**check, **options}).health
    assert (health.startup, health.readiness, health.liveness) == (None, probe, probe)
    assert checked(check).health.liveness == Probe(converted, 30.0, 5.0)


def test_hsu_health_check_that_is_not_enabled_is_none() -> None:
    assert checked({"type": "process", "run_options": {"enabled": False}}).health.liveness is None


def test_native_probes() -> None:
    health = parse_worker(
        ports={"http": 8080},
        health={
            "startup": {"tcp": {"port": "http"}, "period": "500ms", "failure_threshold": 30},
            "readiness": {"exec": {"command": ["./check", "{port.http}"]}, "timeout": "2s", "success_threshold": 2},
            "liveness": {"process": None},
        },
    ).health
    assert health.startup == Probe(TcpCheck("http"), 0.5, 0.5, failure_threshold=30)
    assert health.readiness == Probe(ExecCheck(("./check", "{port.http}")), 10.0, 2.0, 0.0, 2)
    assert health.liveness == Probe(ProcessCheck())


def test_limits_are_reserved_unless_resources_say_otherwise() -> None:
    limited = unit(limits={"memory": {"max_rss": "512MB"}, "cpu": 2.0})
    assert parse_worker(unit=limited).resources == Resources(2000, 512_000_000)
    assert parse_worker(unit=limited, resources={"cpu": "250m"}).resources == Resources(250, 512_000_000)
    assert parse_worker(unit=unit(limits={"memory": {"limit_mb": 2}})).resources.memory_bytes == 2**21


def test_placement() -> None:
    text = manifest(
        worker("db"),
        worker(
            placement={
                "constraints": [
                    "zone in b, a",
                    "gpu exists",
                    "node.version >= 1.2",
                    "name=~^a.*$",
                    "a=b",
                    "x not-in c",
                ],
                "affinity": ["disk == ssd", {"constraint": "zone == a", "weight": -10}],
                "anti_affinity": ["db"],
                "near": "db",
                "spread": "zone",
                "strategy": "binpack",
            }
        ),
    )
    placement = parse(text).spec.workers[1].placement
    assert [(item.key, item.operator, item.operand) for item in placement.constraints] == [
        ("zone", "in", "b,a"), ("gpu", "exists", ""), ("node.version", ">=", "1.2"), ("name", "=~", "^a.*$"),
        ("a", "==", "b"), ("x", "not-in", "c"),
    ]  # fmt: skip
    assert placement.affinity == (
        Affinity(Constraint("disk", "==", "ssd")),
        Affinity(Constraint("zone", "==", "a"), -10),
    )
    assert (placement.anti_affinity, placement.near, placement.spread) == (("db",), ("db",), ("zone",))
    assert placement.strategy == "binpack"


def test_rollout_numbers() -> None:
    rollout = parse_worker(
        rollout={"strategy": "recreate", "max_surge": "50%", "max_unavailable": 2, "min_healthy": "10s"}
    )
    assert rollout.rollout == RolloutSpec("recreate", 2, False, 50, True, 10.0, True)


def test_which_copy_stays_when_a_node_returns_is_kept() -> None:
    assert parse(manifest(worker())).spec.workers[0].on_return is OnReturn.KEEP_REPLACEMENT
    for text in ("keep_original", "keep-original"):
        assert parse(manifest(worker(on_return=text))).spec.workers[0].on_return is OnReturn.KEEP_ORIGINAL


def test_strict_guarantee_is_kept_and_is_no_reason_to_warn() -> None:
    parsed = parse(manifest(worker(guarantee="strict")))
    assert parsed.spec.workers[0].guarantee is Guarantee.STRICT
    assert parsed.warnings == ()


def test_explicit_replicas_are_known() -> None:
    assert parse(manifest(worker("a", replicas=0), worker("b"))).spec.explicit_replicas == ("a",)


def test_dependencies_are_a_list_or_a_map() -> None:
    workers = (
        worker("db"),
        worker("cache"),
        worker("a", depends_on=["db"]),
        worker("b", depends_on={"db": None, "cache": {"condition": "healthy"}}),
    )
    spec = parse(manifest(*workers)).spec
    assert [item.depends_on for item in spec.workers] == [(), (), ("db",), ("cache", "db")]


def test_waiting_for_a_worker_that_is_not_enabled_is_suspicious() -> None:
    parsed = parse(manifest(worker("db", enabled=False), worker("a", depends_on=["db"])))
    assert parsed.warnings[0].code == "manifest.suspicious"


def test_templates_are_laid_under_workers() -> None:
    text = manifest(
        {"id": "web", "extends": "service", "replicas": 3, "ports": {"admin": 81}},
        {"id": "api", "extends": ["service", "small"]},
        templates={
            "base": {"unit": unit(graceful_timeout="5s"), "ports": {"http": "dynamic"}},
            "service": {"extends": "base", "replicas": 2, "stop": None},
            "small": {"resources": {"memory": "16MiB"}},
        },
    )
    web, api = parse(text).spec.workers
    assert (web.replicas, web.ports, web.stop.grace_s) == (3, (PortSpec("admin", 81), PortSpec("http")), 5.0)
    assert (api.replicas, api.resources.memory_bytes) == (2, 2**24)


def test_placeholders_other_than_ports_stay_literal() -> None:
    execution = {"executable_path": "x", "args": ["{slot}", "{unknown}", "{{port}}", "{port}", "{}", "${HOME:-}"]}
    assert parse_worker(unit=unit(execution=execution)).execution.args[:-1] == tuple(execution["args"][:-1])


def test_base_directory_of_the_file_wins() -> None:
    assert parse(manifest(), base_directory="/srv/shop").spec.base_directory == "/srv/shop"
    assert parse(manifest(base_directory="/opt"), base_directory="/srv/shop").spec.base_directory == "/opt"


def test_settings_of_hsus_master_are_named_as_not_carried_out() -> None:
    parsed = parse(manifest(master={"port": 50055}, log_collection={"system": {}}))
    assert [(item.path, item.code) for item in parsed.warnings] == [
        ("master", "manifest.not-carried-out"),
        ("log_collection.system", "manifest.not-carried-out"),
    ]


def test_the_document_stands_alone() -> None:
    text = "vars: {a: x}\ntemplates: {t: {replicas: 2}}\n" + manifest(
        worker(extends="t", files={"etc/a": {"template": "a.tmpl"}}, profile_type="${a}")
    )
    parsed = parse(text, read_file=lambda _: b"${a} $${HOME} {slot}\r\n", base_directory="/srv/$${x")
    assert set(parsed.document) == {"app", "namespace", "base_directory", "workers"}
    assert parsed.spec.workers[0].files[0].content == "x ${HOME} {slot}\r\n"
    again = parse(json.dumps(parsed.document), file="request", environment=None, app="shop", namespace="default")
    assert again.spec == parsed.spec
    assert again.document == parsed.document


def test_an_id_may_look_like_another_type() -> None:
    assert [
        item.id
        for item in parse(
            "workers:\n"
            + "".join(
                f"- {{id: {name}, unit: {{managed: {{control: {{execution: {{executable_path: x}}}}}}}}}}\n"
                for name in ("true", "5", "0x10")
            )
        ).spec.workers
    ] == ["true", "5", "0x10"]


@pytest.mark.parametrize(
    ("kind", "rollout", "is_warned"),
    [
        ("guarantee: strict", "blue-green", True),
        ("schedule: '0 3 * * *'", "blue-green", True),
        ("guarantee: strict", "canary", False),
        ("guarantee: strict", "rolling", False),
        ("guarantee: available", "blue-green", False),
    ],
)
def test_a_second_set_of_what_must_not_run_twice_is_warned_of(kind: str, rollout: str, is_warned: bool) -> None:
    text = f"""\
app: shop
workers:
  - id: web
    type: managed
    {kind}
    rollout: {{strategy: {rollout}}}
    unit: {{managed: {{control: {{execution: {{executable_path: /bin/true}}}}}}}}
"""
    warnings = [one for one in parse(text).warnings if "must not run twice" in one.text]
    assert bool(warnings) is is_warned
    if warnings:
        assert (warnings[0].path, warnings[0].line) == ("workers[web].rollout.strategy", 6)
