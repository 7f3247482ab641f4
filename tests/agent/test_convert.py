"""Files of other process managers, converted by the program and then really run by the agent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.local_harness import LocalAgent, kill, local_agent

NOTIFIER = """\
import os, socket, sys, time
print("ready with", *sys.argv[1:], os.environ["WORD"], flush=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
time.sleep(1000)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


def start_converted(agent: LocalAgent, *arguments: str) -> str:
    """Convert, check strictly, start; return what was warned of."""
    done = agent.run("convert", *arguments)
    assert done.returncode == 0, done.stderr
    agent.file.write_text(done.stdout)
    assert agent.run("validate", "--strict", str(agent.file)).returncode == 0
    agent.start()
    return done.stderr


def test_programs_of_supervisord_run(agent: LocalAgent, tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "web.conf").write_text(
        "[program:web]\n"
        'command=/bin/sh -c \'trap "echo interrupted; exit 0" INT; '
        'echo "slot %(process_num)d of %(program_name)s in $PWD for $WHOM at %(ENV_HOME)s 100%% ${WHOM}"; '
        "while :; do sleep 0.05; done'\n"
        f"directory={tmp_path}\nnumprocs=2\nprocess_name=%(program_name)s_%(process_num)d\n"
        'environment=WHOM="you, and me"\nautorestart=true\nstopsignal=INT\n'
    )
    main = tmp_path / "supervisord.conf"
    main.write_text("[supervisord]\nlogfile=/dev/null\n[include]\nfiles=conf.d/*.conf\n")
    warned = start_converted(agent, str(main))
    assert "[supervisord] logfile" in warned
    agent.until(agent.all_run, "both run")
    found = agent.instances()
    assert sorted(found) == ["supervisord/web.0", "supervisord/web.1"]
    agent.until(lambda: "slot 1" in agent.said("logs", "web.1"), "it has told")
    assert f"slot 1 of web in {tmp_path} for you, and me at" in agent.said("logs", "web.1")
    assert "100% you, and me" in agent.said("logs", "web.1")
    kill(found["supervisord/web.0"]["pid"])
    agent.until(
        lambda: agent.all_run() and agent.instances()["supervisord/web.0"]["pid"] != found["supervisord/web.0"]["pid"],
        "it is restarted",
    )
    agent.said("stop", "web.1", "--wait")
    agent.until(lambda: "interrupted" in agent.said("logs", "web.1"), "it ended by its own stop signal")


def test_apps_of_pm2_run(agent: LocalAgent, tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "print(sys.argv[1:], os.environ['NODE_APP_INSTANCE'], os.environ['LITERAL'], os.getcwd(), flush=True)\n"
        "time.sleep(1000)\n"
    )
    (tmp_path / "queue.py").write_text(code)
    apps = {
        "name": "queue",
        "script": "queue.py",
        "interpreter": sys.executable,
        "cwd": str(tmp_path),
        "args": "--name 'the queue'",
        "instances": 2,
        "env": {"LITERAL": "${not} filled"},
        "max_memory_restart": "300M",
        "watch": True,
    }
    once = {"name": "once", "script": "/bin/true", "interpreter": "none", "cwd": "/", "stop_exit_codes": [0]}
    file = tmp_path / "ecosystem.json"
    file.write_text(json.dumps({"apps": [apps, once]}))
    assert "does not watch files" in start_converted(agent, "--app", "mail", str(file))
    agent.until(lambda: agent.run("status").returncode == 0, "all is well")
    agent.until(lambda: "the queue" in agent.said("logs", "queue.1"), "it has told")
    assert f"['--name', 'the queue'] 1 ${{not}} filled {tmp_path}" in agent.said("logs", "queue.1")
    assert agent.instances()["mail/once.0"]["state"] == "stopped"


def test_services_of_systemd_run_in_their_order(agent: LocalAgent, tmp_path: Path) -> None:
    program = tmp_path / "notifier.py"
    program.write_text(NOTIFIER)
    (tmp_path / "web.env").write_text('WORD="from a file"\nMORE="a b"\n')
    migrate = tmp_path / "migrate.service"
    migrate.write_text(
        f"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo first > {tmp_path}/trail'\n"
        f"ExecStart=-/bin/false\nExecStart=/bin/sh -c 'echo second >> {tmp_path}/trail'\n"
    )
    web = tmp_path / "web.service"
    web.write_text(
        "[Unit]\nRequires=migrate.service\nAfter=migrate.service\n"
        f"[Service]\nType=notify\nEnvironmentFile={tmp_path}/web.env\nWorkingDirectory={tmp_path}\n"
        f"ExecStartPre=/bin/sh -c 'echo third >> {tmp_path}/trail'\n"
        f"ExecStart={sys.executable} {program} ${{MORE}} $MORE 5$$ \\\n    %N\nRestart=always\nProtectHome=yes\n"
    )
    warned = start_converted(agent, "--from", "systemd", "--app", "shop", str(migrate), str(web))
    assert "[Service] ProtectHome" in warned
    agent.until(lambda: agent.run("status").returncode == 0, "all is well")
    assert (tmp_path / "trail").read_text() == "first\nsecond\nthird\n"
    agent.until(lambda: "ready with a b a b 5$ web from a file" in agent.said("logs", "web"), "it has told")
    assert agent.instances()["shop/migrate.0"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("shop.conf", "[program:web]\nnumprocs=x\n", "shop.conf:2: [program:web] numprocs: needs a whole number"),
        ("shop.json", '{"apps": [{"name": "web"}]}', "shop.json:1: apps[0]: the app has no `script`"),
        ("shop.service", "[Service]\nExecStart='a\n", "shop.service:2: [Service] ExecStart: a ' is not closed"),
        ("ecosystem.config.js", "module.exports = {}", "node -p"),
        ("shop.service", "\0", "NUL"),
    ],
)
def test_a_broken_file_ends_with_2_and_its_faults(
    agent: LocalAgent, tmp_path: Path, name: str, text: str, part: str
) -> None:
    (tmp_path / name).write_text(text)
    done = agent.run("convert", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_converted_together_are_refused(agent: LocalAgent, tmp_path: Path) -> None:
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/bin/a\n")
    (tmp_path / "b.yaml").write_text("workers: []\n")
    both = [str(tmp_path / "a.service"), str(tmp_path / "b.yaml")]
    for arguments, part in (
        (both, "several kinds"),
        (["--from", "hsu", *both], "one by one"),
        (["--app", "x", both[1]], "one by one"),
        ([str(tmp_path / "none.conf")], "no such file"),
        (["--app", "a b", both[0]], "'a b' is not a name"),
    ):
        done = agent.run("convert", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert part in done.stderr
