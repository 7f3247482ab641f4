"""Experiments in which HSU's own programs fail: each states the rule that holds here, on a real agent.

Health checks that are ignored or pile up, gRPC, profiles and severities, dialects, and processes of others
have their tests in `test_probes*`, `test_planning`, `tests/wire` and `test_unmanaged`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.local_harness import LocalAgent, is_alive, kill, local_agent, manifest, worker

FOREVER = "exec sleep 1000"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


def hsu_file(control: str, more: str = "") -> str:
    """Return a file in HSU's own words: one worker `w` with this control block."""
    return f"workers:\n- id: w\n  type: managed\n  unit:\n    managed:\n      control: {control}\n{more}"


def shell(code: str) -> str:
    """Return the execution block that runs shell code."""
    return json.dumps({"executable_path": "/bin/sh", "args": ["-c", code]})


def test_an_end_without_any_health_check_is_seen_and_restarted(agent: LocalAgent) -> None:
    agent.file.write_text(hsu_file(f"{{execution: {shell('sleep 0.2; exit 3')}, restart_policy: always}}"))
    agent.start()
    agent.until(lambda: agent.instances()["shop/w.0"]["restarts"] >= 2, "it was restarted")
    assert agent.instances()["shop/w.0"]["last_exit"]["code"] == 3


def test_a_budget_that_is_spent_ends_in_a_pause_and_not_for_ever(agent: LocalAgent) -> None:
    retry = "{max_retries: 2, retry_delay: 10ms, backoff_rate: 1}"
    control = f"{{execution: {shell('exit 3')}, restart_policy: always, context_aware_restart: {{default: {retry}}}}}"
    agent.file.write_text(hsu_file(control))
    agent.start()
    found = agent.until(lambda: (w := agent.instances()["shop/w.0"]) and w["breaker"] == "open" and w, "it is open")
    assert found["state"] == "restarting"
    assert "3 ends within 300 s" in found["reason"]
    agent.said("restart", "w")
    ended_at = found["last_exit"]["at"]
    agent.until(lambda: agent.instances()["shop/w.0"]["last_exit"]["at"] != ended_at, "a person has reset it")


def test_a_crash_in_the_first_minutes_is_restarted_at_once(agent: LocalAgent) -> None:
    context = "context_aware_restart: {startup_grace_period: 2m}"
    control = f"{{execution: {shell('sleep 0.3; exit 1')}, restart_policy: on-failure, {context}}}"
    agent.file.write_text(hsu_file(control))
    agent.start()
    agent.until(lambda: agent.instances()["shop/w.0"]["restarts"] >= 1, "it was restarted")


def test_output_never_stops_a_worker_and_is_on_disk_at_once(agent: LocalAgent, tmp_path: Path) -> None:
    done = tmp_path / "done"
    line = "0123456789" * 7
    code = f"i=0; while [ $i -lt 3000 ]; do echo {line}; i=$((i+1)); done; echo err >&2; touch {done}; {FOREVER}"
    agent.file.write_text(manifest(worker("w", code)))
    agent.start()
    agent.until(done.exists, "it wrote 200 kB")
    folder = agent.data_dir / "logs" / "default" / "shop" / "w.0"
    agent.until(lambda: (folder / "stdout.log").read_text().count(line) == 3000, "all of it is on disk")
    agent.until(lambda: (folder / "stderr.log").read_text() == "err\n", "stderr is by itself")


def test_a_line_of_seventy_kilobytes_breaks_nothing(agent: LocalAgent) -> None:
    code = f"head -c 70000 /dev/zero | tr '\\0' x; echo; echo after; {FOREVER}"
    agent.file.write_text(manifest(worker("w", code)))
    agent.start()
    log = agent.data_dir / "logs" / "default" / "shop" / "w.0" / "stdout.log"
    agent.until(lambda: log.exists() and log.read_text().endswith("x\nafter\n"), "both lines are there")


def test_a_program_that_was_away_is_started_when_it_is_back(agent: LocalAgent, tmp_path: Path) -> None:
    program = tmp_path / "app"
    execution = json.dumps({"executable_path": str(program)})
    agent.file.write_text(hsu_file(f"{{execution: {execution}}}"))
    agent.start()
    agent.until(lambda: "no such file" in agent.instances()["shop/w.0"]["reason"], "its absence is told")
    made = tmp_path / "new"
    made.write_text(f"#!/bin/sh\n{FOREVER}\n")
    made.chmod(0o755)
    os.replace(made, program)
    agent.until(agent.all_run, "it runs")


def test_a_worker_that_was_taken_over_prints_on_and_is_restarted(agent: LocalAgent) -> None:
    code = "while :; do echo tick; sleep 0.05; done"
    agent.file.write_text(manifest(worker("w", code, "restart: {policy: always}")))
    agent.start()
    agent.until(agent.all_run, "it runs")
    pid, first = agent.instances()["shop/w.0"]["pid"], agent.agent_pid()
    kill(first)
    agent.until(lambda: agent.run("status").returncode == 0 and agent.agent_pid() != first, "the agent is back")
    assert agent.instances()["shop/w.0"]["pid"] == pid
    kill(pid)
    agent.until(lambda: (agent.instances()["shop/w.0"]["pid"] or pid) != pid, "it was restarted")
    assert agent.instances()["shop/w.0"]["last_exit"]["signal"] == "SIGKILL"


def test_a_worker_above_its_memory_limit_is_ended(agent: LocalAgent) -> None:
    hog = "import time; x = bytearray(200_000_000); time.sleep(1000)"
    execution = json.dumps({"executable_path": "python3", "args": ["-c", hog]})
    limits = "limits: {memory: {max_rss: 10000000, policy: immediate_kill}}"
    agent.file.write_text(hsu_file(f"{{execution: {execution}, {limits}, restart_policy: never}}"))
    agent.start()
    found = agent.until(lambda: (w := agent.instances()["shop/w.0"]) and w["state"] == "failed" and w, "it was ended")
    assert "memory" in found["reason"]


def test_a_stop_leaves_no_grandchild(agent: LocalAgent, tmp_path: Path) -> None:
    told = tmp_path / "child"
    code = f"trap '' TERM; (trap '' TERM; sleep 1000) & echo $! > {told}; wait; wait"
    agent.file.write_text(manifest(worker("w", code, "stop: {grace: 200ms}")))
    agent.start()
    child = int(agent.until(lambda: told.exists() and told.read_text().strip(), "the child is there"))
    agent.said("stop", "w", "--wait")
    assert not is_alive(child)


@pytest.mark.parametrize(
    ("control", "text"),
    [
        ("restart_policy: sometimes", "'sometimes' is not known here"),
        ("limits: {memory: {max_rss: 1GB, policy: explode}}", "explode"),
        ("graceful_timeout: soon", "graceful_timeout"),
    ],
)
def test_a_value_that_means_nothing_is_refused(agent: LocalAgent, control: str, text: str) -> None:
    agent.file.write_text(hsu_file(f"{{execution: {shell(FOREVER)}, {control}}}"))
    refused = agent.run("validate", str(agent.file))
    assert refused.returncode == 2
    assert text in refused.stderr


def test_a_key_that_means_nothing_is_told_of(agent: LocalAgent) -> None:
    agent.file.write_text(hsu_file(f"{{execution: {shell(FOREVER)}, restart_polcy: always}}"))
    passed = agent.run("validate", str(agent.file))
    assert passed.returncode == 0
    assert "did you mean restart_policy?" in passed.stderr
    assert agent.run("validate", "--strict", str(agent.file)).returncode == 2


def test_days_maps_and_relative_programs_are_read(agent: LocalAgent, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "app"
    program.write_text(f"#!/bin/sh\necho $WORD\n{FOREVER}\n")
    program.chmod(0o755)
    execution = json.dumps({"executable_path": "./bin/app", "environment": {"WORD": "found"}})
    more = "log_collection: {default_worker: {outputs: {separate: {stdout: [{type: file, path: o.log, "
    more += 'rotation: {max_age: "3d"}}]}}}}\n'
    agent.file.write_text(hsu_file(f"{{execution: {execution}}}", more))
    agent.start()
    agent.until(agent.all_run, "it runs")
    agent.until(lambda: agent.said("logs", "w") == "found\n", "it has its environment")


def test_five_workers_that_ignore_the_signal_end_together(agent: LocalAgent) -> None:
    code = "trap '' TERM; while :; do sleep 0.05; done"
    agent.file.write_text(manifest(worker("w", code, "replicas: 5, stop: {grace: 1s}")))
    agent.start()
    agent.until(agent.all_run, "all run")
    pids = [each["pid"] for each in agent.instances().values()]
    agent.said("stop", "--all", "--wait", "--timeout", "4s")
    assert not any(map(is_alive, pids))
