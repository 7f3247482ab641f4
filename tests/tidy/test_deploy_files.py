"""The files in `deploy/` are accepted by the programs they are for."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hsu_agent.install.service import Service
from hsu_agent.install.systemd_unit import unit_text
from hsu_core.runtime.settings import AgentSettings, EtcdStoreSettings, HostDefaults, MasterSettings
from hsu_core.wire.settings import parse_agent_settings, parse_master_settings
from tests.tidy.sources import ROOT, name

DEPLOY = ROOT / "deploy"
HOST = HostDefaults("a-host", Path("/home/someone"), is_root=False)

MASTERS = [DEPLOY / "master.yaml", *sorted((DEPLOY / "compose").glob("master-*.yaml"))]
SCRIPTS = [".ci/run", *(f".ci/{each}.sh" for each in ("engine", "fetch-deb", "fetch-etcd", "fetch-vm"))]
SCRIPTS += ["tools/setup.sh", "deploy/make-certificates.sh"]
AGENTS = [DEPLOY / "agent.yaml", *sorted((DEPLOY / "compose").glob("agent-*.yaml"))]


def _master(path: Path) -> MasterSettings:
    return parse_master_settings(path.read_bytes(), file=str(path), host=HOST)


def _agent(path: Path) -> AgentSettings:
    return parse_agent_settings(path.read_bytes(), file=str(path), host=HOST)


@pytest.mark.parametrize("path", MASTERS, ids=name)
def test_settings_of_masters_load(path: Path) -> None:
    settings = _master(path)
    assert settings.tls is not None
    assert isinstance(settings.store, EtcdStoreSettings)
    assert len(settings.store.endpoints) == 3


@pytest.mark.parametrize("path", AGENTS, ids=name)
def test_settings_of_agents_load(path: Path) -> None:
    settings = _agent(path)
    assert len(settings.masters) == 3
    assert settings.ca_file is not None


def test_names_in_the_compose_files_are_unique_and_known() -> None:
    masters, agents = [_master(path) for path in MASTERS[1:]], [_agent(path) for path in AGENTS[1:]]
    assert len({settings.name for settings in masters}) == len({settings.node for settings in agents}) == 3
    assert {settings.advertise for settings in masters} == set(agents[0].masters)


def _compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def test_compose_publishes_on_loopback_and_gives_no_privileges() -> None:
    services = _compose()["services"]
    assert len(services) == 12
    for service in services.values():
        assert "privileged" not in service
        assert service["init"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_compose_mounts_only_files_that_exist() -> None:
    document = _compose()
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in document["volumes"] or (ROOT / source).exists()
        for word in service.get("command", ()):
            if word.startswith("/etc/hsu/"):
                assert (DEPLOY / "compose" / Path(word).name).exists()


def _unit(file: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "systemd" / file, encoding="utf-8")
    return parser


def test_the_agents_unit_is_what_install_prints() -> None:
    settings = _agent(DEPLOY / "agent.yaml")
    service = Service(("/usr/local/bin/hsu-agent",), settings.data_dir, config=Path("/etc/hsu/agent.yaml"))
    expected = unit_text(service)
    found = (DEPLOY / "systemd" / "hsu-agent.service").read_text(encoding="utf-8")
    assert found == expected, "run hsu-agent install --config /etc/hsu/agent.yaml --program /usr/local/bin/hsu-agent"


def test_the_masters_unit_gives_up_on_a_refused_configuration() -> None:
    service = _unit("hsu-cluster.service")["Service"]
    assert service["RestartPreventExitStatus"] == "78"
    assert service["ExecStart"].endswith("hsu-cluster master --config /etc/hsu/master.yaml")


def test_the_dockerfile_needs_no_frontend_image_and_runs_as_a_user() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"^# *syntax", text, re.MULTILINE)
    assert text.index("ARG BASE=") < text.index("FROM ${BASE}")
    assert re.findall(r"^USER (\w+)", text, re.MULTILINE)[-1] != "root"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() for each in source.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = "bash" if "bash" in path.read_text(encoding="utf-8").splitlines()[0] else "sh"
    subprocess.run([shell, "-n", path], check=True)
