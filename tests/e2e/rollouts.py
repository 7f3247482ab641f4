"""One routed app on a cluster for the tests of rollouts: its versions, its load, and what became of its rollouts."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import ROOT, ApiError, Cluster, eventually
from tests.support.haproxy import Haproxy
from tests.support.steady_load import SteadyLoad, steady_load

PROGRAM = ROOT / "tests" / "support" / "rollout_worker.py"


@dataclass(slots=True)
class Site:
    """An app behind a HAProxy under load. `name` is the app's; its one worker is `web`."""

    cluster: Cluster
    proxy: Haproxy
    name: str
    replicas: int
    load: SteadyLoad = field(default_factory=SteadyLoad)

    def manifest(self, version: str, mode: str, rollout: dict[str, Any], analyses: dict[str, Any]) -> Path:
        """Write the manifest of a version and return its path."""
        execution = {
            "executable_path": sys.executable,
            "args": ["-S", str(PROGRAM), "{port.http}", version, mode],
            "environment": {"HSU_TEST_WORKER_OF": self.cluster.marker},
        }
        worker = {
            "id": "web",
            "replicas": self.replicas,
            "ports": {"http": "dynamic"},
            "unit": {"managed": {"control": {"execution": execution}}},
            "health": {"readiness": {"http": {"port": "http", "path": "/healthz"}, "period": "500ms"}},
            "rollout": rollout,
        }
        provider = {"address": self.proxy.socket_path, "backend": "shop"}
        document = {
            "app": self.name,
            "workers": [worker],
            "routes": {"web": {"worker": "web", "port": "http", "haproxy": provider}},
            **({"analyses": analyses} if analyses else {}),
        }
        path = self.cluster.folder / f"{self.name}-{version}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def deploy(
        self,
        version: str,
        rollout: dict[str, Any],
        *,
        mode: str = "good",
        analyses: dict[str, Any] | None = None,
        is_waiting: bool = True,
        expect: int = 0,
    ) -> str:
        """Deploy a version by the command line and return what it said."""
        wait = [] if is_waiting else ["--no-wait"]
        path = self.manifest(version, mode, rollout, analyses or {})
        done = self.cluster.cli("deploy", str(path), *wait, expect=expect)
        return done.stdout + done.stderr

    def cli(self, *words: str, expect: int = 0) -> str:
        """Run `hsu-cluster rollout VERB APP ...` and return what it said."""
        done = self.cluster.cli("rollout", words[0], self.name, *words[1:], expect=expect)
        return done.stdout + done.stderr

    def rollout(self) -> dict[str, Any]:
        """Return the document of the app's rollout."""
        found: dict[str, Any] = self.cluster.call("GET", f"/v1/namespaces/default/apps/{self.name}/rollout")
        return found

    def part(self) -> dict[str, Any]:
        """Return where its worker is."""
        found: dict[str, Any] = self.rollout()["workers"][0]
        return found

    def waits_in(self, *phases: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the rollout has one of these phases and return its document."""

        def look() -> dict[str, Any] | None:
            found = self.rollout()
            return found if found["phase"] in phases else None

        found: dict[str, Any] = eventually(
            f"{self.name} is {' or '.join(phases)}", look, timeout_s=timeout_s, every_s=0.1
        )
        return found

    def events(self, *codes: str) -> list[dict[str, Any]]:
        """Return the app's events with these codes, oldest first."""
        found = self.cluster.call("GET", f"/v1/events?app={self.name}&namespace=default&limit=500")["items"]
        return [one for one in reversed(found) if one["code"] in codes]

    def answers(self, count: int = 40) -> set[str]:
        """Wait for so many more answers and return who gave them."""
        before = len(self.load.answers)
        eventually("the load goes on", lambda: len(self.load.answers) >= before + count)
        return {one.text for one in self.load.answers[before:]}

    def is_settled_on(self, version: str) -> None:
        """Wait until only this version runs and is in the route, and answers alone."""
        eventually(
            f"{self.replicas} instances of {self.name} are left",
            lambda: len(self.cluster.instances(self.name)) == len(self.cluster.ready(self.name)) == self.replicas,
            every_s=0.1,
        )
        eventually("the route has them alone", lambda: len(self.proxy.servers()) == self.replicas + 1)
        assert self.answers() == {version}


@contextmanager
def running_site(cluster: Cluster, name: str, replicas: int, rollout: dict[str, Any]) -> Iterator[Site]:
    """Run version `v1` of an app under load; at the end the app is removed."""
    with Haproxy() as proxy:
        site = Site(cluster, proxy, name, replicas)
        site.deploy("v1", rollout)
        eventually("all have joined", lambda: len(proxy.servers()) == replicas + 1)
        try:
            with steady_load(proxy.url()) as load:
                site.load = load
                assert site.answers() == {"v1"}
                yield site
        finally:
            with contextlib.suppress(OSError, AssertionError):  # no master may be left by the test
                cluster.call("DELETE", f"/v1/namespaces/default/apps/{name}")


@contextmanager
def watching_floor(site: Site) -> Iterator[list[int]]:
    """Count the ready instances of an app without a pause; yields the list that the counts are put in."""
    counts: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            try:
                counts.append(len(site.cluster.ready(site.name)))
            except (ApiError, OSError):
                continue  # whoever asks in the test itself sees it

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        is_over.set()
        thread.join()
