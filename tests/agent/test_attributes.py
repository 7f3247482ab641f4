"""What a process is given before its program runs, read back from real processes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.local_harness import LocalAgent, local_agent, manifest, worker

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        found.data_dir.parent.chmod(0o711)
        yield found


def run(agent: LocalAgent, process: str, more: str = "", code: str = "exec sleep 1000") -> int:
    """Run a worker with these attributes; return its process once it is its program."""
    agent.file.write_text(manifest(worker("web", code, f"process: {process}{', ' + more if more else ''}")))
    agent.start()
    agent.until(agent.all_run, "it runs")
    pid = int(agent.instances()["shop/web.0"]["pid"])
    agent.until(lambda: b"launcher.py" not in Path(f"/proc/{pid}/cmdline").read_bytes(), "it is its program")
    return pid


def status(pid: int, name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def output(agent: LocalAgent) -> str:
    return agent.said("logs", "web")


def test_priorities_masks_and_limits_without_privileges(agent: LocalAgent) -> None:
    cpu = min(os.sched_getaffinity(0))
    pid = run(
        agent,
        f'{{umask: "027", nice: 7, io_class: idle, cpu_affinity: "{cpu}", oom_score_adj: 321, no_new_privileges: true, '
        "rlimits: {nofile: '1000:2000', core: 0, stack: 4MiB}}",
    )
    assert int(status(pid, "Umask"), 8) == 0o027
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    assert os.sched_getaffinity(pid) == {cpu}
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "321"
    assert status(pid, "NoNewPrivs") == "1"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max open files\s+1000\s+2000", limits)
    assert re.search(r"Max core file size\s+0\s+0", limits)
    assert re.search(r"Max stack size\s+4194304\s+4194304", limits)
    assert os.getsid(pid) == pid


def test_the_class_of_io_is_set(agent: LocalAgent) -> None:
    run(agent, "{io_class: best-effort, io_priority: 6}", code="ionice -p $$; exec sleep 1000")
    agent.until(lambda: "best-effort: prio 6" in output(agent), "ionice has said it")


@as_root
def test_another_user_with_its_groups_and_folder(agent: LocalAgent) -> None:
    pid = run(
        agent,
        "{user: nobody, groups: [adm]}",
        "files: {a.conf: {content: hello}}",
        "id; pwd; echo $HOME $USER; cat $HSU_FILES_DIR/a.conf; touch $HSU_FILES_DIR/../own/mine && echo wrote; "
        "echo x >> $HSU_FILES_DIR/a.conf || echo refused; echo by name > /dev/stdout; exec sleep 1000",
    )
    assert status(pid, "Uid").split() == [str(NOBODY)] * 4
    assert status(pid, "CapEff") == "0000000000000000"
    said = agent.until(lambda: (text := output(agent)) and "by name" in text and text, "it has said all")
    assert "refused" in said
    assert "(adm)" in said
    assert "hello" in said
    assert "wrote" in said
    assert str(agent.data_dir) in said
    agent.said("restart", "web", "--wait")


@as_root
def test_capabilities_that_are_kept_and_given_up(agent: LocalAgent) -> None:
    pid = run(agent, "{user: nobody, capabilities: [CAP_NET_BIND_SERVICE]}")
    assert [int(status(pid, name), 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [1 << 10] * 4


@as_root
def test_a_root_without_capabilities(agent: LocalAgent) -> None:
    pid = run(agent, "{capabilities: []}")
    assert [int(status(pid, name), 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [0] * 3


@as_root
def test_hooks_and_probes_run_as_the_worker_does(agent: LocalAgent, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    run(
        agent,
        "{user: nobody}",
        f"hooks: {{pre_start: [/bin/sh, -c, 'id -u > {tmp_path}/hook']}}, "
        f"health: {{readiness: {{exec: {{command: [/bin/sh, -c, 'id -u > {tmp_path}/probe']}}, period: 1s}}}}",
    )
    assert (tmp_path / "hook").read_text() == f"{NOBODY}\n"
    assert (tmp_path / "probe").read_text() == f"{NOBODY}\n"


def test_what_cannot_be_set_is_said_and_nothing_runs(agent: LocalAgent, tmp_path: Path) -> None:
    """A processor that the machine does not have: the program itself must never run."""
    ran = tmp_path / "ran"
    attributes = "process: {cpu_affinity: [4000]}, restart: {policy: never}"
    agent.file.write_text(manifest(worker("web", f"touch {ran}", attributes)))
    agent.start()
    found = agent.until(
        lambda: (each := agent.instances()["shop/web.0"]) and each["last_exit"] and each, "it has ended"
    )
    assert found["last_exit"]["code"] == 126
    assert "its stderr says which" in found["last_exit"]["reason"]
    assert "hsu-agent: cannot bind it to its processors: [Errno 22] Invalid argument" in output(agent)
    assert not ran.exists()


def test_an_unknown_user_is_named(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", "exec sleep 1000", "process: {user: no-such-user-here}")))
    agent.start()
    reason = agent.until(lambda: agent.instances()["shop/web.0"]["reason"], "it says why it does not run")
    assert "this node has no such user" in reason


@as_root
def test_a_folder_that_the_user_cannot_reach_is_named(agent: LocalAgent) -> None:
    agent.data_dir.parent.chmod(0o700)
    agent.file.write_text(manifest(worker("web", "exec sleep 1000", "process: {user: nobody}")))
    agent.start()
    reason = agent.until(lambda: agent.instances()["shop/web.0"]["reason"], "it says why it does not run")
    assert f"user {NOBODY} may not pass through {agent.data_dir.parent}" in reason
