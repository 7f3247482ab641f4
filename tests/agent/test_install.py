"""`hsu-agent install`: the text of the unit, what systemd says of it, and the file that is written."""

from __future__ import annotations

import argparse
import configparser
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hsu_agent.commands import main
from hsu_agent.host import oom
from hsu_agent.host.cgroup import SUPERVISOR
from hsu_agent.install import command, groups
from hsu_agent.install.launchd_plist import plist_text
from hsu_agent.install.service import Service
from hsu_agent.install.systemd_unit import HAND_BACK, LEFT_OUT, quoted, unit_text
from hsu_core.model.errors import InvalidInput, NotSupported
from tests.agent.local_harness import LocalAgent, local_agent, manifest, worker
from tests.support.cluster import ROOT

ANALYZE = shutil.which("systemd-analyze")

MEMBER = Service(("/usr/bin/hsu-agent",), Path("/var/lib/hsu-agent"), config=Path("/etc/hsu/agent.yaml"))
ALONE = Service(("/usr/bin/hsu-agent",), Path("/var/lib/hsu-agent/local"), local=(Path("/srv/a"), Path("/srv/b.yaml")))
AS_USER = Service(("/usr/bin/hsu-agent",), Path("/var/lib/hsu-agent"), Path("/etc/hsu/agent.yaml"), user="hsu")
OWN = Service(("/usr/bin/hsu-agent",), Path("/home/me/x"), local=(Path("/home/me/a.yaml"),), is_users_own=True)


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


@pytest.mark.parametrize("service", [MEMBER, ALONE, AS_USER, OWN])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "all"),
        ("Restart", "always"),
        ("RestartSec", "2"),
        ("WatchdogSec", "60"),
        ("TimeoutStartSec", "5min"),
        ("TimeoutStopSec", "5min"),
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("DelegateSubgroup", SUPERVISOR),
        ("OOMPolicy", "continue"),
        ("TasksMax", "infinity"),
        ("LimitNOFILE", "65536:524288"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("ExecStopPost", "-/usr/bin/hsu-agent hand-back-groups"),
    ],
)
def test_workers_outlive_the_agent_in_every_unit(service: Service, key: str, value: str) -> None:
    assert parsed(unit_text(service))["Service"][key] == value


def test_each_kind_of_unit_has_its_own_lines() -> None:
    member, alone, as_user, own = (parsed(unit_text(service)) for service in (MEMBER, ALONE, AS_USER, OWN))
    assert member["Service"]["ExecStart"] == "/usr/bin/hsu-agent run --config /etc/hsu/agent.yaml"
    start = "/usr/bin/hsu-agent run --local /srv/a --local /srv/b.yaml --data-dir /var/lib/hsu-agent/local"
    assert alone["Service"]["ExecStart"] == start
    assert "User" not in member["Service"]
    assert as_user["Service"]["User"] == "hsu"
    assert (as_user["Service"]["CapabilityBoundingSet"], as_user["Service"]["NoNewPrivileges"]) == ("", "yes")
    assert member["Service"]["CapabilityBoundingSet"].startswith("~")
    assert "NoNewPrivileges" not in member["Service"]
    for unit in (member, as_user):
        assert (unit["Service"]["StateDirectory"], unit["Service"]["StateDirectoryMode"]) == ("hsu-agent", "0700")
        assert unit["Service"]["OOMScoreAdjust"] == "-500"
        assert unit["Service"]["SystemCallErrorNumber"] == "EPERM"
    assert alone["Service"]["StateDirectory"] == "hsu-agent/local"
    assert member["Install"]["WantedBy"] == "multi-user.target"
    assert own["Install"]["WantedBy"] == "default.target"
    for key in ("User", "StateDirectory", "OOMScoreAdjust", "CapabilityBoundingSet", "SystemCallFilter"):
        assert key not in own["Service"], "the manager of a user has no rights to give away"
    assert parsed(unit_text(MEMBER))["Unit"]["StartLimitIntervalSec"] == "0"


def test_what_is_left_out_is_said_with_the_reason_and_is_not_there() -> None:
    for service in (MEMBER, AS_USER, OWN):
        text = unit_text(service)
        for names, _ in LEFT_OUT:
            for name in names.split(", "):
                assert name not in parsed(text)["Service"]
                assert re.search(rf"^# .*\b{name}\b", text, re.MULTILINE)


def test_every_line_that_does_not_go_without_saying_has_its_reason() -> None:
    lines = unit_text(MEMBER).splitlines()
    for key in ("Type", "NotifyAccess", "WatchdogSec", "KillMode", "Delegate", "OOMPolicy", "OOMScoreAdjust"):
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}="))
        assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize("word", ["", "a\nb", "a\x7fb"])
def test_what_no_unit_can_hold_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput):
        quoted(word)
    with pytest.raises(InvalidInput):
        unit_text(replace(MEMBER, program=('/opt/a"b',)))


# -- groups of systemd before 254 -------------------------------------------------------------------


def test_controllers_are_handed_back_below_first(tmp_path: Path) -> None:
    inner, other = tmp_path / "hsu-1234", tmp_path / "hsu-supervisor"
    for folder, names in ((tmp_path, "cpu memory\n"), (inner, "memory\n"), (other, "\n")):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(names)
    expected = ["memory of hsu-1234", f"cpu of {tmp_path.name}", f"memory of {tmp_path.name}"]
    assert groups.hand_back(tmp_path) == expected
    assert (inner / "cgroup.subtree_control").read_text() == "-memory"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "-memory", "one write for each"
    assert (other / "cgroup.subtree_control").read_text() == "\n"


def test_nothing_is_handed_back_where_systemd_did_not_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([HAND_BACK]) == 0, "we stand in no .control group"
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemctl")
def test_the_version_of_systemd_is_read() -> None:
    assert groups.systemd_version() > 200


# -- what systemd says ----------------------------------------------------------------------------


def verify(path: Path) -> list[str]:
    """Return what systemd finds wrong with a unit; one setting is newer than some of its versions."""
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, "verify", str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in done.stderr.splitlines() if "'DelegateSubgroup'" not in line]


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("folder", ["plain", "a b %h $HOME;"])
def test_systemd_accepts_the_units_and_finds_the_program(tmp_path: Path, folder: str) -> None:
    program = tmp_path / folder / "hsu-agent"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    file = tmp_path / "a \"b' %h $HOME \\x;" / "shop.yaml"
    for service in (
        Service((str(program),), Path("/var/lib/hsu-agent"), config=file),
        Service((str(program),), Path("/var/lib/hsu-agent") / folder, local=(file,), user="daemon"),
    ):
        path = tmp_path / f"{service.name}.service"
        path.write_text(unit_text(service))
        assert verify(path) == []
        path.write_text(path.read_text().replace("Type=", "Tpye=").replace("/hsu-agent", "/no-such-program"))
        assert len(verify(path)) >= 2, "a unit that is wrong must be found out"


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(("service", "most"), [(MEMBER, 8.3), (AS_USER, 6.0)], ids=["root", "a user"])
def test_the_exposure_that_systemd_computes_stays_below(tmp_path: Path, service: Service, most: float) -> None:
    path = tmp_path / "hsu-agent.service"
    path.write_text(unit_text(service))
    assert ANALYZE is not None
    line = [ANALYZE, "security", "--offline=true", "--no-pager", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= most


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["hsu-agent", "hsu-cluster"])
def test_systemd_accepts_the_units_of_the_project(tmp_path: Path, name: str) -> None:
    text = (ROOT / "deploy" / "systemd" / f"{name}.service").read_text(encoding="utf-8")
    program = tmp_path / name
    program.symlink_to(sys.executable)
    path = tmp_path / f"{name}.service"
    path.write_text(text.replace(f"/usr/local/bin/{name}", str(program)))
    assert verify(path) == []


# -- launchd --------------------------------------------------------------------------------------


def test_launchd_keeps_the_agent_and_leaves_the_workers() -> None:
    document = plistlib.loads(plist_text(ALONE, Path("/var/log/x.log")).encode())
    assert document["ProgramArguments"] == list(ALONE.command)
    assert document["Label"] == "net.hsu-core.hsu-agent-local"
    assert (document["KeepAlive"], document["RunAtLoad"], document["AbandonProcessGroup"]) == (True, True, True)
    assert document["StandardErrorPath"] == "/var/log/x.log"
    assert document["ExitTimeOut"] == 300
    assert document["SoftResourceLimits"] == {"NumberOfFiles": 65536}
    assert "UserName" not in document
    assert plistlib.loads(plist_text(AS_USER, Path("/x")).encode())["UserName"] == "hsu"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(manifest(worker("web", "exec sleep 1000")))
    return path


def test_it_prints_unless_it_is_told_to_write(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    assert main(["install", "--local", str(shop), "--root", str(root)]) == 0
    assert f"--local {shop} --data-dir /var/lib/hsu-agent/local" in capsys.readouterr().out
    assert main(["install", "--local", str(shop), "--watch"]) == 0
    assert f"--local {shop} --watch --data-dir" in capsys.readouterr().out
    assert not root.exists()


def test_it_writes_once_and_over_a_changed_file_only_with_force(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["install", "--local", str(shop), "--write", "--root", str(tmp_path / "root")]
    path = tmp_path / "root/etc/systemd/system/hsu-agent-local.service"
    assert main(line) == 0
    said = capsys.readouterr().out
    assert said == (
        f"{path} is written\nnext:\n  systemctl daemon-reload\n  systemctl enable --now hsu-agent-local.service\n"
    )
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert main(line) == 0
    assert "is already so" in capsys.readouterr().out
    path.write_text("[Service]\n")
    assert main(line) == 1
    assert "it is there already and differs" in capsys.readouterr().err
    assert path.read_text() == "[Service]\n"
    assert main([*line, "--force"]) == 0
    assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]


def test_the_data_folder_is_the_one_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("masters: [http://127.0.0.1:1]\ndata_dir: /var/lib/elsewhere\ntoken_file: t\n")
    assert main(["install", "--config", str(config)]) == 0
    assert "StateDirectory=elsewhere\n" in capsys.readouterr().out
    assert main(["install", "--config", str(config), "--data-dir", "/x"]) == 2
    config.write_text("mastres: []\n")
    assert main(["install", "--config", str(config), "--write", "--root", str(tmp_path / "root")]) == 2
    assert "mastres" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_a_file_of_hsu_given_as_configuration_is_local(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--config", str(shop)]) == 0
    assert f"run --local {shop}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --config FILE (cluster) or --local FILE"),
        (["--local", "x", "--config", "y"], "exclude each other"),
        (["--config", "y", "--watch"], "has no local files"),
        (["--local", "x", "--user", "a b"], "is no name of a user"),
        (["--local", "x", "--user", "me", "--user-unit"], "runs as you"),
    ],
)
def test_what_makes_no_service_is_refused(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--local", "no-such-file"], "there is no such file"), (["--local", "/", "--user", "no-such-user"], "useradd")],
)
def test_a_service_that_could_not_start_is_not_written(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--write", *arguments]) == 1
    assert text in capsys.readouterr().err


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_command(parser.add_subparsers())
    return parser.parse_args(["install", *arguments])


def test_windows_is_refused_with_the_reason() -> None:
    with pytest.raises(NotSupported, match=r"control manager.*job objects"):
        command.perform(_options("--local", "x"), lambda path: path, "win32")


def test_macos_gets_a_property_list_but_none_is_written_before_the_agent_runs_there(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.perform(_options("--local", str(shop)), lambda path: path, "darwin") == 0
    assert plistlib.loads(capsys.readouterr().out.encode())["Label"] == "net.hsu-core.hsu-agent-local"
    with pytest.raises(NotSupported, match="kqueue"):
        command.perform(_options("--local", str(shop), "--write"), lambda path: path, "darwin")


def test_the_commands_of_the_page_work(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    commands = [
        line for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE) for line in block.split("\n")
    ]
    assert len([line for line in commands if line]) == 5
    for line in filter(None, commands):
        words = shlex.split(line.replace("shop.yaml", str(shop)).replace("./image", str(tmp_path / "image")))
        assert main(words[1:]) == 0, capsys.readouterr().err
    assert (tmp_path / "image/etc/systemd/system/hsu-agent-local.service").exists()


# -- protection of the agent alone ----------------------------------------------------------------


def test_a_protected_score_is_not_inherited_and_another_one_is_left_alone() -> None:
    child = subprocess.Popen(["/bin/sleep", "1000"])
    score = Path(f"/proc/{child.pid}/oom_score_adj")
    try:
        score.write_text("300")
        oom.unprotect(child.pid, 0)
        assert score.read_text() == "300\n"
        oom.unprotect(child.pid, -500)
        assert score.read_text() == "0\n"
    finally:
        child.kill()
        child.wait()
    oom.unprotect(child.pid, -500)  # it has ended meanwhile


def _may_protect_itself() -> bool:
    code = "open('/proc/self/oom_score_adj', 'wb', buffering=0).write(b'-500')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_protect_itself(), reason="needs the right to lower oom_score_adj (CAP_SYS_RESOURCE)")
def test_workers_of_a_protected_agent_are_not_protected(tmp_path: Path) -> None:
    def protected(agent: LocalAgent) -> None:
        agent.file.write_text(manifest(worker("web", "exec sleep 1000")))
        agent.start(wrapper=("/bin/sh", "-c", 'echo -500 > /proc/self/oom_score_adj; exec "$@"', "sh"))

    with local_agent(tmp_path) as agent:
        protected(agent)
        agent.until(agent.all_run, "web runs")
        pid = agent.instances()["shop/web.0"]["pid"]
        assert Path(f"/proc/{agent.agent_pid()}/oom_score_adj").read_text() == "-500\n"
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
