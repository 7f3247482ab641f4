"""docker-compose.yml comes up, its balancer leads to masters that serve, and Prometheus reads every one of them."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import eventually
from tests.support.engine import alone_with_the_engine, docker, product_image, require_compose, settings


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial cluster of docker-compose.yml under a name of its own, on free ports."""

    project: str
    folder: Path

    def compose(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run `docker compose` for it."""
        override = self.folder / "ports.yml"
        return docker(
            "compose", "-p", self.project, "-f", "docker-compose.yml", "-f", str(override), *arguments,
            timeout_s=timeout_s,
        )  # fmt: skip

    def address(self, service: str, port: int) -> str:
        """Return where a port of a service is published now."""
        return self.compose("port", service, str(port)).strip()

    def get(self, path: str) -> Any:
        """Ask the API through the balancer, as somebody who trusts the cluster's authority only."""
        trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        token = (self.folder / "admin.token").read_text().strip()
        url = f"https://{self.address('balancer', 7070)}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
            return json.load(answer)

    def targets(self) -> dict[str, str]:
        """Return the health of what Prometheus scrapes."""
        url = f"http://{self.address('prometheus', 9090)}/api/v1/targets"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in found}


PORTS = {"master-1": 7070, "master-2": 7070, "master-3": 7070, "balancer": 7070, "prometheus": 9090}


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    require_compose()
    assert settings()["BASE"]
    product_image()
    override = ["services:"]
    for service, port in PORTS.items():
        override += [f"  {service}:", f'    ports: !override ["127.0.0.1::{port}"]']
    (tmp_path / "ports.yml").write_text("\n".join(override) + "\n")
    trial = Trial(f"hsu-test-{secrets.token_hex(4)}", tmp_path)
    with alone_with_the_engine():
        try:
            yield trial
        finally:
            trial.compose("down", "--volumes", "--timeout", "5", "--remove-orphans")


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_trial_cluster_comes_up_and_serves(trial: Trial) -> None:
    trial.compose("up", "-d", "--wait", "--wait-timeout", "180", timeout_s=240.0)
    for name in ("ca.crt", "admin.token"):
        trial.compose("cp", f"master-1:/var/lib/hsu/secrets/{name}", str(trial.folder))

    def ready_nodes() -> set[str]:
        return {node["name"] for node in trial.get("/v1/nodes")["items"] if node["state"] == "ready"}

    eventually("all nodes are ready", lambda: ready_nodes() == {"agent-1", "agent-2", "agent-3"})
    trial.compose("exec", "-T", "master-2", "hsu-cluster", "deploy", "/examples/shop.yaml", "--timeout", "60s")
    masters = {f"master-{number}:7070" for number in (1, 2, 3)}
    eventually(
        "Prometheus reads masters and balancer",
        lambda: {name for name, health in trial.targets().items() if health == "up"} == masters | {"balancer:8405"},
    )
    trial.compose("kill", "master-1")
    eventually("the balancer leads past a dead master", lambda: len(trial.get("/v1/nodes")["items"]) == 3)
    eventually(
        "the dead master is listed no more",
        lambda: {each["name"] for each in trial.get("/v1/cluster")["masters"]} == {"master-2", "master-3"},
    )
