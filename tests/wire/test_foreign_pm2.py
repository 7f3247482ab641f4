"""PM2's apps: what each key becomes, what is told of, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.foreign_builders import FOLDER, converted, execution_of, faults_of, warnings_of, worker_of


def app(**keys: Any) -> str:
    return json.dumps({"apps": [{"script": "web.js", "cwd": "/srv", **keys}]})


def worker(**keys: Any) -> dict[str, Any]:
    return worker_of("pm2", app(**keys))


def command(**keys: Any) -> list[str]:
    execution = execution_of(worker(**keys))
    return [execution["executable_path"], *execution.get("args", [])]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, ["node", "/srv/web.js"]),
        ({"script": "./lib/web.mjs"}, ["node", "/srv/lib/web.mjs"]),
        ({"script": "/opt/web.py"}, ["python3", "/opt/web.py"]),
        ({"script": "run.sh", "args": "a 'b c'"}, ["bash", "/srv/run.sh", "a", "b c"]),
        ({"script": "bin/web"}, ["/srv/bin/web"]),
        ({"script": "nginx", "interpreter": "none"}, ["nginx"]),
        ({"script": "web.js", "interpreter": "none"}, ["/srv/web.js"]),
        ({"interpreter": "deno", "interpreter_args": ["run", "-A"]}, ["deno", "run", "-A", "/srv/web.js"]),
        ({"interpreter": "./venv/bin/python"}, ["/srv/venv/bin/python", "/srv/web.js"]),
        ({"node_args": "--inspect --x=1"}, ["node", "--inspect", "--x=1", "/srv/web.js"]),
        ({"args": ["--port", 80, True]}, ["node", "/srv/web.js", "--port", "80", "true"]),
        ({"script": "npm start"}, ["bash", "-c", "npm start"]),
        ({"script": "node web.js"}, ["bash", "-c", "node web.js"]),
        ({"args": 'a --b="c d" \'e f\' "" g\'h'}, ["node", "/srv/web.js", "a", '--b="c d"', "e f", "g'h"]),
        ({"interpreter": "node@18"}, ["node", "/srv/web.js"]),
    ],
)
def test_script_interpreter_and_arguments_are_the_command(keys: dict[str, Any], words: list[str]) -> None:
    assert command(**keys) == words


def test_pm2s_own_defaults_are_written_out() -> None:
    found = worker()
    assert found["id"] == "web"
    assert found["restart"] == {"policy": "always", "backoff": {"reset_after": "1s"}, "max_retries": 16}
    assert found["stop"] == {"signal": "SIGINT", "grace": "1600ms"}
    assert warnings_of("pm2", app()) == []


def test_delays() -> None:
    fixed = worker(restart_delay=3000, min_uptime="5s", max_restarts=2)["restart"]
    assert fixed["backoff"] == {"base": "3s", "factor": 1, "ceiling": "3s", "reset_after": "5s"}
    assert fixed["max_retries"] == 2
    grown = worker(exp_backoff_restart_delay=100)["restart"]
    assert grown["backoff"] == {"base": "100ms", "factor": 1.5, "ceiling": "15s", "reset_after": "30s"}
    assert "max_retries" not in grown
    assert worker(exp_backoff_restart_delay=0)["restart"] == worker()["restart"]
    assert worker(exp_backoff_restart_delay=20_000)["restart"]["backoff"]["ceiling"] == "20s"


def test_stop_exit_codes() -> None:
    assert worker(stop_exit_codes=[0])["restart"]["policy"] == "on-failure"
    assert worker(stop_exit_codes=[0, 9])["restart"]["exit_codes"] == {"success": [9]}
    assert worker(stop_exit_codes=9)["restart"]["exit_codes"] == {"final": [9]}
    assert worker(autorestart=False, stop_exit_codes=[9])["restart"] == {"policy": "never"}


def test_what_pm2_adds_to_the_environment() -> None:
    assert execution_of(worker(port=80))["environment"] == {"PORT": "80"}
    assert execution_of(worker(script="a.py"))["environment"] == {"PYTHONUNBUFFERED": "1"}


def test_memory_is_a_limit_with_a_restart() -> None:
    assert worker(max_memory_restart="300M")["limits"] == {"memory": {"max_rss": "300MiB", "policy": "restart"}}
    assert worker(max_memory_restart=1000)["limits"]["memory"]["max_rss"] == 1000


def test_instances_are_replicas_that_know_their_number() -> None:
    found = worker(instances=3, env={"A": 1, "B": True, "C": {"d": 1}, "D": "{x} ${y}"})
    assert found["replicas"] == 3
    assert execution_of(found)["environment"] == {
        "NODE_APP_INSTANCE": "{slot}",
        "A": "1",
        "B": "true",
        "C": '{"d": 1}',
        "D": "{x} $${y}",
    }
    assert "their ports must differ" in warnings_of("pm2", app(instances=3))[0]
    assert warnings_of("pm2", app(instances=3, exec_mode="fork")) == []
    assert warnings_of("pm2", app(instances=3, script="a.py", interpreter="python3")) == []
    assert "replicas" not in worker(instances="max")
    assert "depends on the processors" in warnings_of("pm2", app(instances="max"))[0]


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"watch": True}, "does not watch files"),
        ({"cron_restart": "0 0 * * *"}, "from cron"),
        ({"wait_ready": True}, "readiness probe"),
        ({"out_file": "a.log"}, "log_collection"),
        ({"error": "a.log"}, "log_collection"),
        ({"merge_logs": True}, "files of its own"),
        ({"env_production": {"A": "b"}}, "one environment"),
        ({"treekill": False}, "process group"),
        ({"max_restrats": 1}, "did you mean max_restarts?"),
        ({"increment_var": "PORT"}, "{port.NAME}"),
        ({"autostart": False}, "enabled: false"),
        ({"interpreter": "node@18"}, "the path of that node"),
        ({"script": "bin/web"}, "names no interpreter"),
        ({"script": "web"}, "looked up in PATH"),
        ({"script": "npm start", "name": "a"}, "given to bash"),
    ],
)
def test_what_is_not_carried_over_is_told_of(keys: dict[str, Any], part: str) -> None:
    (warning,) = warnings_of("pm2", app(**keys))
    assert warning.startswith(f"shop.json:1: apps[0].{next(iter(keys))}: ")
    assert part in warning


@pytest.mark.parametrize("keys", [{"watch": False}, {"ignore_watch": []}, {"merge_logs": False}, {"watch": None}])
def test_what_asks_for_nothing_is_not_told_of(keys: dict[str, Any]) -> None:
    assert warnings_of("pm2", app(**keys)) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (app(script=""), "has no `script`"),
        (app(script=["a"]), "needs text, found a list"),
        (app(args=[{"a": 1}]), "needs a list of texts"),
        (app(env=["A=b"]), "needs a map of variables"),
        (app(env={"A=b": 1}), "cannot be the name of a variable"),
        (app(instances="some"), "needs a whole number"),
        (app(autorestart="perhaps"), "needs true or false"),
        (app(max_restarts=1.5), "needs a whole number"),
        (app(min_uptime="long"), "is not a time"),
        (app(kill_timeout=True), "is not a time"),
        (app(max_memory_restart="much"), "is not a size"),
        (app(stop_exit_codes=[256]), "256 is outside 0 to 255"),
        (app(out="a", out_file="b"), "out and out_file say the same"),
        ('{"apps": [1]}', "an app is a map of keys, found 1"),
        ('{"apps": []}', "there is no app"),
        ("5", "an app is a map of keys"),
        ("{", "expected a key"),
    ],
)
def test_what_is_broken_is_refused(text: str, part: str) -> None:
    assert any(part in fault for fault in faults_of("pm2", text))


@pytest.mark.parametrize("name", ["ecosystem.config.js", "ecosystem.json", "pm2.yml"])
def test_a_program_is_not_run_but_its_print_is_asked_for(name: str) -> None:
    (fault,) = faults_of("pm2", "module.exports = {\n  apps: [{script: 'web.js'}]\n}\n", name)
    assert "JSON.stringify(require('./ecosystem.config.js'))" in fault


@pytest.mark.parametrize("text", ['{"script": "web.js"}', '[{"script": "web.js"}]', '{"apps": {"script": "web.js"}}'])
def test_one_app_may_stand_by_itself(text: str) -> None:
    assert execution_of(worker_of("pm2", text))["args"] == [f"{FOLDER}/web.js"]
    assert "has no cwd" in warnings_of("pm2", text)[0]


def test_several_files_are_one_manifest() -> None:
    found = converted("pm2", "apps:\n- {script: a.js}\n- {script: b.py, name: c}\n", "shop.config.yml")
    assert found.manifest["app"] == "shop-config"
    assert [each["id"] for each in found.manifest["workers"]] == ["a", "c"]
