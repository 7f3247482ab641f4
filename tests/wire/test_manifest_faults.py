"""Every kind of fault of a manifest: named, placed, with a fix; and the text that a person reads."""

# ruff: noqa: E501  (a table of cases reads best with one case in a row)

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from hsu_core.model.errors import InvalidManifest
from tests.wire.builders import faults, manifest, only_fault, parse, worker
from tests.wire.test_manifest import unit


def ported(**keys: Any) -> dict[str, Any]:
    return worker(ports={"http": "dynamic"}, **keys)


def health(kind: str, **probe: Any) -> dict[str, Any]:
    return ported(health={kind: probe})


ARGS = unit(execution={"executable_path": "x", "args": ["{port.htp}"]})
STEP = {"set_weight": 5, "pause": "1s"}

CASES: list[tuple[dict[str, Any], str, str]] = [
    (worker(replcas=3), "workers[web].replcas", "did you mean replicas?"),
    (worker(zzz=3), "workers[web].zzz", "known keys here: id, type"),
    (worker(replicas=10_001), "workers[web].replicas", "10001 is outside 0 to 10000"),
    (worker(replicas=-1), "workers[web].replicas", "outside"),
    (worker(replicas="many"), "workers[web].replicas", "needs a whole number, found 'many'"),
    (worker(replicas=1.5), "workers[web].replicas", "needs a whole number, found 1.5"),
    (worker(replicas=True), "workers[web].replicas", "needs a whole number, found true"),
    (worker(replicas=[1]), "workers[web].replicas", "found a list"),
    (worker(enabled="no"), "workers[web].enabled", "write false"),
    (worker("a b"), "workers[a b].id", "letters, digits"),
    (worker("x" * 65), "workers[0].id", "1 to 64"),
    (worker(type="unmanaged"), "workers[web].unit", "the block `unmanaged` is missing"),
    (worker(type="integrated"), "workers[web].type", "unit: {integrated: {control"),
    (worker(type="manged"), "workers[web].type", "did you mean managed?"),
    ({"id": "web"}, "workers[web]", "add unit"),
    (worker(unit={}), "workers[web].unit", "`managed` is missing"),
    (worker(unit={"managed": {"control": {}}}), "workers[web].unit.managed.control", "key 'execution' is missing"),
    (worker(unit={"manged": {}}), "workers[web].unit.manged", "did you mean managed?"),
    (worker(unit=unit(execution={"executable_path": " "})), "workers[web].unit.managed.control.execution.executable_path", "empty"),
    (worker(unit=unit(execution={"executable_path": "x", "environment": ["A"]})), "workers[web].unit.managed.control.execution.environment", "'A' is not of the form NAME=value"),
    (worker(unit=unit(execution={"executable_path": "x", "environment": ["A=1", "A=2"]})), "workers[web].unit.managed.control.execution.environment", "A is set twice"),
    (worker(unit=unit(execution={"executable_path": "x", "environment": {"A": [1]}})), "workers[web].unit.managed.control.execution.environment", "A needs one value"),
    (worker(unit=unit(execution={"executable_path": "x", "args": {"a": 1}})), "workers[web].unit.managed.control.execution.args", "needs a list, found a map"),
    (worker(unit=unit(execution={"executable_path": "x", "args": [[1]]})), "workers[web].unit.managed.control.execution.args[0]", "needs text, found a list"),
    (worker(unit=unit(restart_policy="sometimes")), "workers[web].unit.managed.control.restart_policy", "one of never, on-failure"),
    (worker(unit=unit(limits={"memory": {"policy": "explode"}})), "workers[web].unit.managed.control.limits.memory.policy", "one of none"),
    (worker(unit=unit(stop_signal="SIGFOO")), "workers[web].unit.managed.control.stop_signal", "not a signal"),
    (worker(unit=unit(graceful_timeout="fast")), "workers[web].unit.managed.control.graceful_timeout", "as a duration"),
    (worker(unit=unit(restart_policy="always"), restart={"policy": "never"}), "workers[web].restart", "described here and in the unit"),
    (worker(unit=unit(restart_policy="always", restart={"policy": "never"})), "workers[web].unit.managed.control.restart", "twice"),
    (worker(unit=unit(graceful_timeout="1s"), stop={"grace": "1s"}), "workers[web].stop", "described here and in the unit"),
    (worker(ports={"http": 0}), "workers[web].ports.http", "0 is not a port"),
    (worker(ports={"http": 65536}), "workers[web].ports.http", "65536 is not a port"),
    (worker(ports={"http": "dynamc"}), "workers[web].ports.http", "write `dynamic` or a number"),
    (worker(ports={"a b": 80}), "workers[web].ports.a b", "not a name"),
    (worker(ports={"a": 80, "b": 80}), "workers[web].ports.b", "port 80 is given to a and b"),
    (ported(unit=ARGS), "workers[web].unit.managed.control.execution.args[0]", "did you mean http?"),
    (worker(unit=ARGS), "workers[web].unit.managed.control.execution.args[0]", "add ports: {htp: dynamic}"),
    (worker(files={"/etc/x": {"content": ""}}), "workers[web].files./etc/x", "absolute"),
    (worker(files={"C:/x": {"content": ""}}), "workers[web].files.C:/x", "absolute"),
    (worker(files={"a/../../x": {"content": ""}}), "workers[web].files.a/../../x", "leaves the files folder"),
    (worker(files={"a//x": {"content": ""}}), "workers[web].files.a//x", "not a plain relative path"),
    (worker(files={"a\\x": {"content": ""}}), "workers[web].files.a\\x", "not a plain relative path"),
    (worker(files={"": {"content": ""}}), "workers[web].files.", "not a plain relative path"),
    (worker(files={"a": {"content": ""}, "a/b": {"content": ""}}), "workers[web].files.a/b", "a would be a file and its folder"),
    (worker(files={"a": {}}), "workers[web].files.a", "no content"),
    (worker(files={"a": {"template": "x", "content": "y"}}), "workers[web].files.a", "keep one"),
    (worker(files={"a": {"template": "x"}}), "workers[web].files.a.template", "cannot be read here"),
    (ported(files={"a": {"content": "{port.admin}"}}), "workers[web].files.a", "names no port"),
    (health("readiness"), "workers[web].health.readiness", "no check"),
    (health("readiness", tcp={"port": 1}, process={}), "workers[web].health.readiness", "2 checks (tcp, process)"),
    (health("readiness", tcp={"port": "htpp"}), "workers[web].health.readiness", "did you mean http?"),
    (health("readiness", http={}), "workers[web].health.readiness.http", "either a port or a url"),
    (health("readiness", http={"port": "http", "url": "http://x"}), "workers[web].health.readiness.http", "either"),
    (health("readiness", http={"port": "http", "path": "x"}), "workers[web].health.readiness.http.path", "write /x"),
    (health("readiness", http={"url": "ftp://x"}), "workers[web].health.readiness.http.url", "not a URL"),
    (health("readiness", exec={"command": []}), "workers[web].health.readiness.exec.command", "empty"),
    (health("liveness", process={}, success_threshold=2), "workers[web].health.liveness.success_threshold", "must be 1"),
    (health("startup", process={}, success_threshold=2), "workers[web].health.startup.success_threshold", "must be 1"),
    (health("liveness", process={}, failure_threshold=0), "workers[web].health.liveness.failure_threshold", "outside 1"),
    (health("liveness", process={}, timeout="20s"), "workers[web].health.liveness.timeout", "does not fit the period of 10 s"),
    (health("liveness", process={}, timeout=0), "workers[web].health.liveness.timeout", "does not fit"),
    (health("liveness", process={}, period="1ms"), "workers[web].health.liveness.period", "too often"),
    (health("livenes", process={}), "workers[web].health.livenes", "did you mean liveness?"),
    (worker(placement={"constraints": ["linux"]}), "workers[web].placement.constraints[0]", "not a condition"),
    (worker(placement={"constraints": ["a ==", "b exists c"]}), "workers[web].placement.constraints[0]", "not a condition"),
    (worker(placement={"constraints": ["node.osx == a"]}), "workers[web].placement.constraints[0]", "did you mean node.os?"),
    (worker(placement={"constraints": ["a =~ ("]}), "workers[web].placement.constraints[0]", "not a regular expression"),
    (worker(placement={"affinity": [{"constraint": "a == b", "weight": 101}]}), "workers[web].placement.affinity[0].weight", "outside -100"),
    (worker(placement={"near": ["wbe"]}), "workers[web].placement.near", "did you mean web?"),
    (worker(placement={"anti_affinity": ["x"]}), "workers[web].placement.anti_affinity", "no worker 'x'"),
    (worker(placement={"strategy": "random"}), "workers[web].placement.strategy", "spread, binpack"),
    (worker(depends_on=["wbe"]), "workers[web].depends_on", "did you mean web?"),
    (worker(depends_on=["web"]), "workers[web].depends_on", "web -> web"),
    (worker(depends_on=[1]), "workers[web].depends_on", "needs a list of worker ids"),
    (worker(depends_on={"web": {"condition": "up"}}), "workers[web].depends_on.web.condition", "healthy, started"),
    (worker(resources={"memory": "1 parsec"}), "workers[web].resources.memory", "512MB or 1GiB"),
    (worker(resources={"cpu": "x"}), "workers[web].resources.cpu", "250m or 1.5"),
    (worker(logs={"segment_size": 10}), "workers[web].logs.segment_size", "too small"),
    (worker(restart={"backoff": {"base": "10s", "ceiling": "1s"}}), "workers[web].restart.backoff", "below base"),
    (worker(restart={"backoff": {"factor": 0.5}}), "workers[web].restart.backoff.factor", "outside 1 to 100"),
    (worker(guarantee="maybe"), "workers[web].guarantee", "available, strict"),
    (worker(on_return="keep"), "workers[web].on_return", "keep-replacement, keep-original"),
    (worker(guarantee="strict", on_return="keep_original"), "workers[web].on_return", "there is none to keep"),
    (worker(rollout={"strategy": "canry"}), "workers[web].rollout.strategy", "did you mean canary?"),
    (worker(rollout={"max_surge": "x"}), "workers[web].rollout.max_surge", "2 or 25%"),
    (worker(rollout={"max_unavailable": "101%"}), "workers[web].rollout.max_unavailable", "more than all"),
    (worker(rollout={"steps": [STEP]}), "workers[web].rollout.steps[0]", "found pause, set_weight"),
    (worker(rollout={"steps": [{"set_weight": 101}]}), "workers[web].rollout.steps[0].set_weight", "outside 0 to 100"),
    (worker(rollout={"steps": [{"set_wieght": 1}]}), "workers[web].rollout.steps[0].set_wieght", "did you mean set_weight?"),
    (worker(rollout={"steps": [{"pause": "soon"}]}), "workers[web].rollout.steps[0].pause.duration", "as a duration"),
    (worker(rollout={"steps": [{"set_canary_scale": {}}]}), "workers[web].rollout.steps[0].set_canary_scale", "needs one of"),
    (worker(extends="small"), "workers[web].extends", "no template 'small'"),
    (worker(extends={"a": 1}), "workers[web].extends", "needs the name of a template"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "path", "part"), CASES, ids=[f"{path}:{part}"[:70] for _, path, part in CASES])
def test_fault_of_a_worker(body: dict[str, Any], path: str, part: str) -> None:
    found = faults(manifest(body))
    matching = [fault for fault in found if fault.path == path]
    assert matching, [str(fault) for fault in found]
    assert part in str(matching[0])
    assert matching[0].line
    assert matching[0].file == "shop.yaml"


@pytest.mark.parametrize(
    ("check", "part"),
    [
        ({"type": "ping"}, "http, grpc, tcp"),
        ({"type": "http"}, "type is http and there is no `http` block"),
        ({"type": "tcp", "tcp": {"address": "x", "port": 0}}, "outside 1 to 65535"),
        ({"type": "grpc", "grpc": {"address": "nowhere"}}, "needs HOST:PORT"),
        ({"type": "process", "run_options": {"interval": "1s", "timeout": "2s"}}, "does not fit interval"),
        ({"type": "exec", "exec": {"command": "{port.x}"}}, "names no port"),
    ],
)
def test_fault_of_a_hsu_health_check(check: dict[str, Any], part: str) -> None:
    body = unit()
    body["managed"]["health_check"] = check
    fault = faults(manifest(worker(unit=body)))[0]
    assert part in str(fault)
    assert fault.path.startswith("workers[web].unit.managed.health_check")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the manifest is empty"),
        ("# nothing\n", "the manifest is empty"),
        ("- a", "the manifest is not a map"),
        ("{}", "key 'workers' is missing"),
        ("workers: {web: {}}", "needs a list, found a map"),
        ("workers: [3]", "needs a map of keys, found 3"),
        ("worker: []\nworkers: []", "did you mean workers?"),
        ("app: 'a b'\nworkers: []", "'a b' is not a name"),
        ("templates: 3\nworkers: []", "needs a map of templates"),
        ("process_manager: {}\nmaster: {}\nworkers: []", "both process_manager and master"),
    ],
)
def test_fault_of_the_whole(text: str, part: str) -> None:
    assert part in str(faults(text)[0])


def test_asking_for_another_name_than_the_files_is_a_fault() -> None:
    assert "the file says shop, the request other" in only_fault(manifest(app="shop"), app="other").text
    assert "is not a name" in only_fault(manifest(), namespace="a/b").text
    assert "add `app: NAME`" in only_fault(manifest(), file="my shop.yaml").fix


def test_worker_ids_are_unique() -> None:
    assert "worker web is also in line 2" in only_fault(manifest(worker(), worker())).text


def test_circle_of_dependencies_is_shown_once() -> None:
    circle = worker("a", depends_on=["b"]), worker("b", depends_on=["c"]), worker("c", depends_on=["a"])
    assert "a -> b -> c -> a" in only_fault(manifest(*circle)).text


def test_circle_of_templates_is_shown() -> None:
    text = manifest(worker(extends="a"), templates={"a": {"extends": "b"}, "b": {"extends": "a"}})
    assert "a -> b -> a" in only_fault(text).text


def test_fault_in_a_template_has_the_line_of_the_template() -> None:
    text = "templates:\n  t:\n    replicas: many\nworkers:\n" + manifest(worker(extends="t")).split("workers:\n")[1]
    fault = only_fault(text)
    assert (fault.path, fault.line) == ("workers[web].replicas", 3)


def missing(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", path)


@pytest.mark.parametrize(
    ("read_file", "part"),
    [
        (missing, "cannot read x: No such file or directory"),
        (lambda _: b"\xff", "x is not UTF-8 text: byte 0"),
        (lambda _: b"a\0b", "holds NUL"),
        (lambda _: b"a" * (2**20 + 1), "is too large"),
        (lambda _: b"ok\n${missing}\n", "x:2: variable missing is not set"),
    ],
)
def test_fault_of_a_template_file(read_file: Any, part: str) -> None:
    assert part in str(only_fault(manifest(worker(files={"a": {"template": "x"}})), read_file=read_file))


def test_a_document_above_the_limit_is_refused_before_it_is_sent() -> None:
    files = {f"f{i}": {"template": "x"} for i in range(3)}
    fault = only_fault(manifest(worker(files=files)), read_file=lambda _: b"a" * 400_000)
    assert "expand to more" in fault.text or "larger than" in fault.text


MANY = 5_000
HOSTILE = {
    "unknown keys": "workers: []\n" + "".join(f"worker{i}: 1\n" for i in range(20_000)),
    "bad workers": "workers:\n" + "- {id: 'a b', replcas: x}\n" * MANY,
    "unknown dependencies": "workers:\n"
    + "- {id: w%d, unit: {managed: {control: {execution: {executable_path: x}}}}, depends_on: [v%d]}\n" * 2000 % tuple(i // 2 for i in range(4000)),
    "long chain": "workers:\n"
    + "".join(f"- {{id: w{i}, unit: {{managed: {{control: {{execution: {{executable_path: x}}}}}}}}, depends_on: [w{i + 1}]}}\n" for i in range(2000)),
    "templates": "templates: {t: {files: {" + ",".join(f"f{i}: {{content: x}}" for i in range(4000)) + "}}}\nworkers:\n"
    + "- {id: w, extends: t}\n" * 4000,
    "open references": "workers: []\nlog_collection: '" + "${a" * 200_000 + "'",
    "constraint": "workers: [{id: w, unit: {managed: {control: {execution: {executable_path: x}}}}, placement: {constraints: ['" + "a" * 500_000 + "']}}]",
    "expression": "workers: [{id: w, unit: {managed: {control: {execution: {executable_path: x}}}}, placement: {constraints: ['a =~ "
    + "(" * 190 + "', 'a =~ x{99999999999999}']}}]",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused_quickly(name: str) -> None:
    start_s = time.process_time()
    with pytest.raises(InvalidManifest) as caught:
        parse(HOSTILE[name])
    assert 0 < len(caught.value.faults) <= 100
    assert time.process_time() - start_s < 3  # loading is below one second; the rest is bounded by the nodes


FAULTY = """app: shop
namespce: team
vars: {tag: 1.10}
workers:
  - id: web
    type: managed
    replicas: six
    unit:
      managed:
        control:
          execution:
            executable_path: ./bin/web-${tga}
            args: ["--port", "{port.htp}"]
            enviroment: {A: 1}
          restart_policy: sometimes
          graceful_timeout: 20
    ports: {http: dynamic, admin: 99999}
    health: {readiness: {http: {port: http}, period: 5 s, retries: 3}}
    rollout: {strategy: blue_green, max_surge: lots}
    depends_on: [db]
  - id: web 2
    unit: {}
"""

INCONSISTENT = """workers:
  - id: web
    unit: {managed: {control: {execution: {executable_path: ./bin/web, args: ["--port", "{port.htp}"]}}}}
    ports: {http: 80, admin: 80}
    files: {../web.toml: {content: ""}, /etc/x: {content: ""}}
    health: {liveness: {tcp: {port: grpc}, timeout: 30s, success_threshold: 3}}
    placement: {constraints: [linux], near: [bd]}
    depends_on: [db]
  - id: db
    type: integrated
    unit: {managed: {control: {execution: {executable_path: ./bin/db}}}}
  - id: web
    unit: {managed: {control: {execution: {executable_path: ./bin/web}}}}
"""


def test_transcript_of_faults(golden: Callable[[str, str], None]) -> None:
    texts = []
    for name, text in (
        ("words.yaml", FAULTY),
        ("rules.yaml", INCONSISTENT),
        ("broken.yaml", "workers:\n  - id: [web\n"),
    ):
        with pytest.raises(InvalidManifest) as caught:
            parse(text, file=name)
        texts.append(str(caught.value))
    golden("faults", "\n\n".join(texts))
