"""The agent without a cluster: order, commands, reload, what survives its own death."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.local_harness import PROGRAM, LocalAgent, is_alive, kill, local_agent, manifest, worker

FOREVER = "exec sleep 1000"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


def test_workers_start_in_the_order_of_their_dependencies(agent: LocalAgent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    agent.file.write_text(
        manifest(
            worker("init", f"while [ ! -e {gate} ]; do sleep 0.01; done", "restart: {policy: never}"),
            worker("web", FOREVER, "replicas: 2, depends_on: {init: {condition: completed_successfully}}"),
        )
    )
    agent.start()
    waiting = agent.until(lambda: agent.instances().get("shop/web.0"), "web is known")
    assert waiting["reason"] == "waits for shop/init.0 to be completed successfully"
    gate.touch()
    agent.until(lambda: agent.instances()["shop/web.1"]["ready"], "web runs")


def test_the_end_is_in_reverse_order_and_leaves_nothing(agent: LocalAgent, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = "trap 'echo {worker} >> " + str(told) + "; exit 0' TERM; while :; do sleep 0.01; done"
    agent.file.write_text(manifest(worker("db", code), worker("web", code, "depends_on: [db]")))
    agent.start()
    agent.until(agent.all_run, "all run")
    pids = [each["pid"] for each in agent.instances().values()]
    assert agent.end() == 0
    assert told.read_text().split() == ["web", "db"]
    assert not any(map(is_alive, pids))


def test_what_was_stopped_stays_stopped_over_agents(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: 2, restart: {policy: always}")))
    agent.start()
    agent.until(agent.all_run, "all run")
    assert agent.said("stop", "web.1", "--wait") == "shop/web.1 is stopped\n"
    assert agent.end() == 0
    agent.start()
    agent.until(lambda: agent.instances()["shop/web.0"]["ready"], "web.0 runs")
    assert agent.instances()["shop/web.1"]["state"] == "stopped"
    assert agent.said("start", "web.1", "--wait") == "shop/web.1 is started\n"


def test_a_killed_agent_comes_back_to_the_same_processes_even_if_the_file_is_broken_by_then(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: 3")))
    agent.start()
    agent.until(agent.all_run, "all run")
    before = {name: each["pid"] for name, each in agent.instances().items()}
    agent.file.write_text("workers: [")
    first = agent.agent_pid()
    kill(first)
    agent.until(lambda: agent.run("status").returncode == 0 and agent.agent_pid() != first, "it is back")
    assert {name: each["pid"] for name, each in agent.instances().items()} == before
    assert "the workers go on as they were" in agent.log.read_text()


def test_a_shutdown_that_keeps_the_workers_hands_them_to_the_next_agent(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    pid = agent.instances()["shop/web.0"]["pid"]
    assert agent.said("shutdown", "--keep-workers") == "the agent has ended; its workers run on\n"
    assert is_alive(pid)
    agent.start()
    agent.until(agent.all_run, "it is taken over")
    assert agent.instances()["shop/web.0"]["pid"] == pid


def test_a_reload_touches_only_what_differs_and_shows_it_first(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("db", FOREVER), worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    before = {name: each["pid"] for name, each in agent.instances().items()}
    agent.file.write_text(manifest(worker("db", FOREVER), worker("web", f"true; {FOREVER}", "replicas: 2")))
    expected = "changed  shop/web (execution, replicas): is restarted\n"
    assert agent.said("reload", "--dry-run") == f"{expected}nothing was changed (--dry-run)\n"
    assert {name: each["pid"] for name, each in agent.instances().items()} == before
    assert agent.said("reload") == expected
    agent.until(lambda: agent.all_run() and len(agent.instances()) == 3, "the new ones run")
    after = {name: each["pid"] for name, each in agent.instances().items()}
    assert after["shop/db.0"] == before["shop/db.0"]
    assert after["shop/web.0"] != before["shop/web.0"]


def test_a_broken_file_is_refused_with_every_fault_and_all_runs_on(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    before = agent.instances()["shop/web.0"]["pid"]
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: many"), worker("db", FOREVER, "depends_on: [x]")))
    refused = agent.run("reload")
    assert refused.returncode == 2
    assert "needs a whole number, found 'many'" in refused.stderr
    assert agent.instances()["shop/web.0"]["pid"] == before


def test_a_hangup_reads_the_files_again(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: 2")))
    assert agent.keeper is not None
    agent.keeper.send_signal(signal.SIGHUP)
    agent.until(lambda: len(agent.instances()) == 2, "two are there")


def test_a_removed_worker_is_ended_before_what_it_depends_on(agent: LocalAgent, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = "trap 'echo {worker} >> " + str(told) + "; exit 0' TERM; while :; do sleep 0.01; done"
    agent.file.write_text(manifest(worker("db", code), worker("web", code, "depends_on: [db]"), worker("x", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    agent.file.write_text(manifest(worker("x", FOREVER)))
    agent.said("reload")
    agent.until(lambda: list(agent.instances()) == ["shop/x.0"], "both are gone")
    assert told.read_text().split() == ["web", "db"]


def test_dynamic_ports_stay_over_agents_and_reloads(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER, "replicas: 2, ports: {http: dynamic}")))
    agent.start()
    agent.until(agent.all_run, "all run")
    ports = {name: each["ports"]["http"] for name, each in agent.instances().items()}
    assert len(set(ports.values())) == 2
    agent.said("restart", "--all", "--wait")
    assert {name: each["ports"]["http"] for name, each in agent.instances().items()} == ports


def test_the_run_ends_after_its_duration_as_hsu_has_it(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    command = [*PROGRAM, "run", "--config", str(agent.file), "--data-dir", str(agent.data_dir)]
    done = subprocess.run([*command, "--run-duration", "1", "--enable-log"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_answers_for_scripts(agent: LocalAgent) -> None:
    assert agent.run("status").returncode == 3
    agent.file.write_text(manifest(worker("web", "echo hello; exec sleep 1000"), worker("bad", "exit 3")))
    agent.start()
    agent.until(lambda: agent.instances()["shop/web.0"]["ready"], "web runs")
    assert agent.run("status", "web").returncode == 0
    agent.until(lambda: agent.run("status").returncode == 1, "bad is not well")
    assert agent.run("stop", "nope").returncode == 4
    assert agent.run("stop").returncode == 2
    agent.until(lambda: agent.said("logs", "web") == "hello\n", "it has written")
    assert "ended with code 3" in agent.said("describe", "bad")
    codes = {event["code"] for event in json.loads(agent.said("events", "bad", "-o", "json"))}
    assert codes & {"InstanceEnded", "InstanceRestarted"}
    assert agent.run("signal", "web", "-s", "nosuch").returncode == 1
    assert agent.said("signal", "web", "-s", "term") == "SIGTERM was sent to shop/web.0\n"


def test_a_second_agent_on_the_same_folder_is_refused(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    command = [*PROGRAM, "run", "--local", str(agent.file), "--data-dir", str(agent.data_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 78
    assert "another agent" in second.stderr
    assert agent.run("status").returncode in (0, 1)


def test_the_control_socket_is_for_its_user_alone(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    assert (agent.data_dir / "control.sock").stat().st_mode & 0o777 == 0o600
    assert agent.data_dir.stat().st_mode & 0o077 == 0


def test_files_are_checked_and_converted_without_an_agent(agent: LocalAgent, tmp_path: Path) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    assert agent.said("validate", str(agent.file)) == "1 workers: ok\n"
    second = tmp_path / "procman.yaml"
    second.write_text(
        "managed_processes:\n- id: web\n  type: standard_managed\n  management:\n    standard_managed:\n"
        "      control: {execution: {executable_path: /bin/true}, execution_speed: 3}\n"
    )
    strict = agent.run("validate", "--strict", str(second))
    assert strict.returncode == 2
    assert "execution_speed" in strict.stderr
    native = agent.said("convert", str(second))
    assert "workers:" in native
    second.write_text(native)
    assert agent.run("validate", str(second)).returncode == 0


def test_an_integrated_program_is_told_its_port(agent: LocalAgent) -> None:
    execution = json.dumps({"executable_path": "/bin/sh", "args": ["-c", 'echo "$@"; exec sleep 1000', "program"]})
    control = f"{{control: {{execution: {execution}}}, health_check_run_options: {{enabled: false}}}}"
    agent.file.write_text(f"workers: [{{id: core, type: integrated, unit: {{integrated: {control}}}}}]")
    agent.start()
    agent.until(agent.all_run, "it runs")
    (found,) = agent.instances().values()
    expected = f"--port {found['ports']['integrated']}\n"
    agent.until(lambda: agent.said("logs") == expected, "it has told")


def test_an_integrated_program_is_ready_when_it_answers(agent: LocalAgent) -> None:
    execution = json.dumps({"executable_path": "/bin/sh", "args": ["-c", "exec sleep 1000"]})
    options = "health_check_run_options: {interval: 100ms, timeout: 100ms, retries: 1000}"
    integrated = f"{{control: {{execution: {execution}}}, {options}}}"
    agent.file.write_text(f"workers: [{{id: core, type: integrated, unit: {{integrated: {integrated}}}}}]")
    agent.start()
    agent.until(lambda: "grpc" in [*agent.instances().values(), {"reason": ""}][0]["reason"], "it is asked")
    assert agent.run("status").returncode == 1


def test_the_end_waits_for_the_whole_chain_of_graces(agent: LocalAgent, tmp_path: Path) -> None:
    """Five workers, each needing the next and deaf to SIGTERM: nobody may be left when the agent is gone."""
    deaf = "trap '' TERM; while :; do sleep 0.01; done"
    chain = [
        worker(f"w{index}", deaf, f"stop: {{grace: 3s}}, depends_on: {[f'w{index + 1}'] if index < 4 else []}")
        for index in range(5)
    ]
    agent.file.write_text(manifest(*chain))
    agent.start()
    agent.until(agent.all_run, "all run")
    pids = [each["pid"] for each in agent.instances().values()]
    assert agent.end() == 0
    assert not any(map(is_alive, pids))


def test_nothing_is_started_once_the_end_has_begun(agent: LocalAgent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = f"trap 'while [ ! -e {gate} ]; do sleep 0.01; done; exit 0' TERM; while :; do sleep 0.01; done"
    agent.file.write_text(manifest(worker("slow", slow), worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "all run")
    assert agent.keeper is not None
    agent.keeper.send_signal(signal.SIGTERM)
    agent.until(lambda: not (found := agent.instances().get("shop/web.0")) or not found["pid"], "web has ended")
    for command in (("restart", "web"), ("start", "--all"), ("reload",)):
        refused = agent.run(*command)
        assert refused.returncode == 1
        assert "this agent is ending its workers" in refused.stderr
    gate.touch()
    assert agent.keeper.wait(30) == 0


def test_a_dependent_starts_after_a_job_that_has_already_ended(agent: LocalAgent) -> None:
    job = worker("job", "exit 0", "restart: {policy: never}")
    agent.file.write_text(manifest(job))
    agent.start()
    agent.until(lambda: agent.instances()["shop/job.0"]["state"] == "stopped", "the job has ended")
    agent.file.write_text(manifest(job, worker("web", FOREVER, "depends_on: {job: {condition: started}}")))
    agent.said("reload")
    agent.until(lambda: (found := agent.instances().get("shop/web.0")) and found["ready"], "web runs")


def test_a_mistyped_option_ends_the_program_at_once(agent: LocalAgent) -> None:
    done = subprocess.run([*PROGRAM, "run", "--lokal", "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--lokal" in done.stderr


def test_a_bad_time_is_reported_under_the_name_of_its_option(agent: LocalAgent) -> None:
    done = agent.run("stop", "web", "--wait", "--timeout", "soon")
    assert done.returncode == 2
    assert "--timeout" in done.stderr


def test_logs_are_merged_in_time_order_and_can_begin_at_a_time(agent: LocalAgent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    code = f"echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; {wait}; echo four; exec sleep 1000"
    agent.file.write_text(manifest(worker("web", code), worker("db", f"sleep 0.1; echo db; {FOREVER}")))
    agent.start()
    agent.until(lambda: agent.said("logs", "web").split() == ["one", "two", "three"], "web has written")
    agent.until(lambda: "db" in agent.said("logs", "db"), "db has written")
    lines = agent.said("logs").splitlines()
    assert {"web.0 | one", "db.0 | db"} <= set(lines)
    assert [line for line in lines if "web.0" in line] == ["web.0 | one", "web.0 | two", "web.0 | three"]
    assert agent.said("logs", "web", "--tail", "1") == "three\n"
    agent.until(lambda: agent.said("logs", "web", "--since", "100ms") == "", "it has been silent for a while")
    gate.touch()
    agent.until(lambda: agent.said("logs", "web", "--since", "10s").split()[-1] == "four", "the last line is there")
    first = agent.said("logs", "web", "-t", "--since", "2000-01-01").splitlines()[0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z one", first)
    assert agent.said("logs", "web", "--until", "2000-01-01") == ""
    assert agent.said("logs", "web", "--until", "0s", "--tail", "1") == "four\n"
    assert agent.run("logs", "-f", "--until", "1m").returncode == 2
    wrong = agent.run("logs", "--since", "yesterday")
    assert wrong.returncode == 2
    assert "10m" in wrong.stderr
    agent.end()
    left = agent.run("logs", "web")
    assert left.returncode == 0
    assert left.stdout.split() == ["one", "two", "three", "four"]
    assert "this is what is left" in left.stderr


def test_following_goes_on_over_restarts_and_finds_new_workers(agent: LocalAgent, tmp_path: Path) -> None:
    agent.file.write_text(manifest(worker("web", f"echo started; {FOREVER}")))
    agent.start()
    agent.until(agent.all_run, "all run")
    said = tmp_path / "said"
    with open(said, "wb") as target:
        command = [*PROGRAM, "logs", "-f", "--data-dir", str(agent.data_dir)]
        follower = subprocess.Popen(command, stdout=target, stderr=subprocess.DEVNULL)
    try:
        agent.until(lambda: said.read_text().count("started") == 1, "the first line is shown")
        agent.said("restart", "web", "--wait")
        agent.until(lambda: said.read_text().count("started") == 2, "the line of the next process is shown")
        kill(agent.agent_pid())
        agent.until(lambda: agent.run("status").returncode != 3, "another agent answers")
        agent.file.write_text(manifest(worker("web", f"echo started; {FOREVER}"), worker("db", f"echo db; {FOREVER}")))
        agent.said("reload")
        agent.until(lambda: "db.0 | db" in said.read_text(), "the new worker is shown")
    finally:
        follower.kill()
        follower.wait(10)


def test_hsus_files_about_a_process_are_there_while_it_runs(agent: LocalAgent, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    files = f"process_file: {{basedirectory: {folder}, usesubdirectory: true, appname: shop}}"
    execution = '{executable_path: /bin/sleep, args: ["1000"]}'
    unit = f"unit: {{managed: {{control: {{execution: {execution}, {files}}}}}}}"
    agent.file.write_text(manifest(f"{{id: web, replicas: 2, ports: {{http: dynamic}}, {unit}}}"))
    agent.start()
    agent.until(agent.all_run, "all run")
    web = agent.instances()["shop/web.0"]
    assert (folder / "shop" / "web.pid").read_text() == f"{web['pid']}\n"
    assert (folder / "shop" / "web.port").read_text() == f"{web['ports']['http']}\n"
    about = json.loads((folder / "shop" / "web.json").read_text())
    assert about["pid"] == web["pid"]
    stat = Path(f"/proc/{web['pid']}/stat").read_text()
    assert about["start_time"] == int(stat[stat.rindex(")") + 2 :].split()[19])
    assert (folder / "shop" / "web.1.pid").exists()
    kill(agent.agent_pid())
    agent.until(lambda: agent.run("status").returncode != 3, "another agent answers")
    agent.said("stop", "web.0", "--wait")
    agent.until(lambda: not list((folder / "shop").glob("web.[pj]*")), "they are gone with it")
    assert agent.end() == 0
    assert not list((folder / "shop").iterdir())


@pytest.mark.parametrize("is_agent_there", [True, False], ids=["reaped by the agent", "reaped by the keeper"])
def test_what_a_process_has_used_is_kept_whoever_reaps_it(
    agent: LocalAgent, tmp_path: Path, is_agent_there: bool
) -> None:
    gate = tmp_path / "gate"
    code = f"x = b'x' * 60_000_000\nimport os, time\nwhile not os.path.exists('{gate}'): time.sleep(0.01)\n"
    code += "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nos._exit(3)"
    (tmp_path / "work.py").write_text(code)
    run = f"exec {sys.executable} -I {tmp_path}/work.py"
    agent.file.write_text(manifest(worker("web", run, "restart: {policy: never}")))
    agent.start()
    agent.until(agent.all_run, "it runs")
    pid = agent.instances()["shop/web.0"]["pid"]
    if is_agent_there:
        gate.touch()
    else:
        stopped = agent.agent_pid()
        os.kill(stopped, signal.SIGSTOP)  # the worker ends while the agent can see nothing, then that dies
        kill(stopped)
        gate.touch()
        agent.until(lambda: not is_alive(pid), "the worker has ended")
        agent.until(lambda: agent.run("status").returncode != 3, "another agent answers")
    last = agent.until(lambda: (agent.instances().get("shop/web.0") or {}).get("last_exit"), "its end is known")
    assert last["code"] == 3
    assert last["cpu_s"] >= 0.3
    assert last["max_rss_bytes"] >= 60_000_000
    assert "processor time" in agent.said("describe", "web")


def test_workers_of_a_group_are_meant_together(agent: LocalAgent) -> None:
    agent.file.write_text(
        manifest(
            worker("web", FOREVER, "groups: [front], replicas: 2"),
            worker("api", FOREVER, "groups: [front, back]"),
            worker("db", FOREVER, "groups: [back]"),
        )
    )
    agent.start()
    agent.until(agent.all_run, "all run")
    stopped = agent.said("stop", "@front", "--wait").splitlines()
    assert stopped == [f"shop/{name} is stopped" for name in ("api.0", "web.0", "web.1")]
    assert agent.instances()["shop/db.0"]["ready"]
    assert "shop/db.0" in agent.said("stop", "shop/@back", "--wait")
    agent.said("start", "@back", "@front", "--wait")
    assert agent.all_run()
    assert agent.run("stop", "@nobody").returncode == 4
