"""A whole cluster in containers: three etcd members, three masters, three agents, as docker-compose.yml has them.

The settings are those of deploy/compose, the image is that of deploy/Dockerfile. Containers, networks and volumes carry
a label: what a dead run has left is removed first, and what this one made at its end. An agent's container is its host:
when it is killed everything in it dies at once. Faults of the network are made by a second container in the same
network namespace, so no container of the cluster has more rights than in the compose file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # it would be pulled from a registry; read at import
os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support.clients import Api
from tests.support.cluster import ApiError, eventually
from tests.support.engine import ROOT, docker, product_image, settings

LABEL = "hsu.test.ha"
ETCDS = ("etcd-1", "etcd-2", "etcd-3")
MASTERS = ("master-1", "master-2", "master-3")
AGENTS = ("agent-1", "agent-2", "agent-3")
SECRETS = "/var/lib/hsu/secrets"
HANDS_IMAGE = "hsu-test/hands:1"
PUBLISHED = {**dict.fromkeys(ETCDS, 2379), **dict.fromkeys(MASTERS, 7070)}

LIVING = """
import json, os
found = {}
for name in os.listdir("/proc"):
    try:
        if not name.isdigit() or os.getsid(int(name)) != int(name):
            continue
        marks = open(f"/proc/{name}/environ", "rb").read().split(b"\\0")
        state = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        continue
    for mark in marks:
        if mark.startswith(b"HSU_INSTANCE=") and state not in "ZX":
            found.setdefault(mark.decode().partition("=")[2].removeprefix("default/"), []).append(int(name))
print(json.dumps(found))
"""
"""Prints the session leaders of instances inside a container: a first process leads its session."""


def sweep_leftovers() -> None:
    """Remove what the tests of processes that have died have left."""
    known = docker("ps", "-a", "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}').split()
    for label in sorted(set(known)):
        if not Path(f"/proc/{label.partition('-')[0]}").exists():
            sweep(label)


def sweep(label: str) -> None:
    """Remove the containers, networks and volumes of one run."""
    chosen = f"label={LABEL}={label}"
    for kind, listing, removal in (
        ("container", ("ps", "-aq"), ("rm", "-fv")),
        ("network", ("network", "ls", "-q"), ("network", "rm")),
        ("volume", ("volume", "ls", "-q"), ("volume", "rm", "-f")),
    ):
        if found := docker(*listing, "--filter", chosen).split():
            docker(*removal, *found, timeout_s=120.0, is_checked=kind == "container")


class Containers:
    """The cluster; use as a context manager. Names of its parts are host names inside of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = f"{os.getpid()}-{secrets.token_hex(6)}"
        self.image = product_image()
        self.token = ""
        self.trust: ssl.SSLContext | None = None
        self.network = Network(docker_network_kw={"labels": {LABEL: self.label}})
        self.parts: dict[str, DockerContainer] = {}
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything this cluster has made."""
        sweep(self.label)

    # Making it

    def _start(self) -> None:
        _build_hands()
        docker("volume", "create", "--label", f"{LABEL}={self.label}", self._volume())
        docker(
            "run", "--rm", "--network", "none", "--label", f"{LABEL}={self.label}",
            "-v", f"{self._volume()}:{SECRETS}", "-v", f"{ROOT / 'deploy' / 'make-certificates.sh'}:/make.sh:ro",
            self.image, "sh", "/make.sh", SECRETS, "localhost", "127.0.0.1", *MASTERS,
        )  # fmt: skip
        self.network.create()
        for name in ETCDS:
            self._run(name, settings()["ETCD_IMAGE"], None, environment=_etcd_environment(name))
        for name in MASTERS:
            self._run(name, self.image, f"hsu-cluster master --config /etc/hsu/{name}.yaml")
        for name in ("ca.crt", "admin.token"):
            docker("cp", f"{self.id_of('master-1')}:{SECRETS}/{name}", str(self.folder))
        self.token = (self.folder / "admin.token").read_text().strip()
        self.trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        for name in AGENTS:
            self._run(name, self.image, f"hsu-agent run --config /etc/hsu/{name}.yaml")
        self.wait_nodes()

    def _volume(self) -> str:
        return f"hsu-test-{self.label}"

    def _run(self, name: str, image: str, command: str | None, *, environment: dict[str, str] | None = None) -> None:
        part = DockerContainer(image).with_network(self.network).with_network_aliases(name)
        part.with_kwargs(
            labels={LABEL: self.label}, hostname=name, init=True, cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
        )  # fmt: skip
        if command is not None:
            part.with_command(command)
            part.with_volume_mapping(str(ROOT / "deploy" / "compose"), "/etc/hsu", "ro")
            part.with_volume_mapping(self._volume(), SECRETS, "ro")
        for key, value in (environment or {}).items():
            part.with_env(key, value)
        if name in PUBLISHED:
            part.ports = {f"{PUBLISHED[name]}/tcp": ("127.0.0.1", None)}  # type: ignore[dict-item]
        part.start()
        self.parts[name] = part

    # Faults

    def id_of(self, name: str) -> str:
        """Return the engine's id of a part."""
        return str(self.parts[name].get_wrapped_container().id)

    def kill(self, *names: str) -> None:
        """Kill parts with SIGKILL: of an agent everything that runs on its host."""
        docker("kill", *[self.id_of(name) for name in names])

    def start(self, *names: str) -> None:
        """Start parts that were killed or stopped."""
        docker("start", *[self.id_of(name) for name in names])
        self._ports.clear()

    def stop(self, name: str) -> None:
        """Stop a part as an operator would."""
        docker("stop", "--time", "20", self.id_of(name))

    def disconnect(self, name: str) -> None:
        """Take a part off the network, in both directions."""
        docker("network", "disconnect", self.network.name, self.id_of(name))

    def connect(self, name: str) -> None:
        """Put a part on the network again."""
        docker("network", "connect", "--alias", name, self.network.name, self.id_of(name))
        self._ports.clear()

    @contextmanager
    def deaf(self, name: str) -> Iterator[None]:
        """Let a part hear nothing from others while it still can speak: packets to it are dropped."""
        self._filter(name, "-A INPUT ! -i lo -j DROP")
        try:
            yield
        finally:
            self._filter(name, "-D INPUT ! -i lo -j DROP")

    def _filter(self, name: str, rule: str) -> None:
        docker(
            "run", "--rm", "--network", f"container:{self.id_of(name)}", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN",
            "--cap-add", "NET_RAW", "--label", f"{LABEL}={self.label}", HANDS_IMAGE, "iptables", "-w", *rule.split(),
        )  # fmt: skip

    def execute(self, name: str, *command: str, user: str = "hsu") -> str:
        """Run a command inside a part and return its output."""
        return docker("exec", "--user", user, self.id_of(name), *command)

    # Looking

    def url(self, name: str) -> str:
        """Return where this machine reaches a master or an etcd member; the port changes when it starts again."""
        if name not in self._ports:
            answer = docker("port", self.id_of(name), f"{PUBLISHED[name]}/tcp", is_checked=False)
            if not answer:
                raise ConnectionRefusedError(f"{name} has no published port now")
            self._ports[name] = int(answer.splitlines()[0].rpartition(":")[2])
        return f"{'https' if name in MASTERS else 'http'}://127.0.0.1:{self._ports[name]}"

    def api(self) -> Api:
        """Return how clients reach the masters (an unreachable one under a port that refuses)."""
        return Api(lambda: [self._url_or_nothing(name) for name in MASTERS], self.token, self.trust)

    def _url_or_nothing(self, name: str) -> str:
        with contextlib.suppress(ConnectionRefusedError):
            return self.url(name)
        return "https://127.0.0.1:9"

    def call(self, method: str, path: str, body: Any = None, *, master: str | None = None) -> Any:
        """Call the API of `master` (default: the first that answers) and return the document."""
        last: Exception | None = None
        for name in [master] if master else MASTERS:
            try:
                return self.api().ask(self.url(name), method, path, body)
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise ApiError(error.code, json.loads(error.read() or b"null")) from error
                last = error
            except OSError as error:
                last = error
        raise last or AssertionError("no master")

    def leader(self) -> str:
        """Return the name of the master that leads."""

        def find() -> Any:
            leader = self.call("GET", "/v1/cluster")["leader"]
            return leader and leader["name"]

        return str(eventually("a master leads", find))

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the node documents by name; the leader answers, who alone knows which are suspect."""
        return {node["name"]: node for node in self.call("GET", "/v1/nodes", master=self.leader())["items"]}

    def wait_nodes(self, *names: str) -> None:
        """Wait until these nodes (default: all) are ready."""
        wanted = names or AGENTS
        eventually(
            f"{', '.join(wanted)} are ready",
            lambda: all(self.nodes().get(name, {}).get("state") == "ready" for name in wanted),
        )

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the documents of all instances by id."""
        return {item["id"]: item for item in self.call("GET", "/v1/instances?limit=500")["items"]}

    def ready(self) -> dict[str, dict[str, Any]]:
        """Return the instances that are ready."""
        return {name: item for name, item in self.instances().items() if item["ready"] and item["state"] == "running"}

    def living(self) -> dict[str, list[tuple[str, int]]]:
        """Return the first processes of each instance as (agent, pid), read from inside the hosts that run."""
        found: dict[str, list[tuple[str, int]]] = {}
        for agent in AGENTS:
            for instance, pids in json.loads(self.execute(agent, "python", "-c", LIVING)).items():
                found.setdefault(instance, []).extend((agent, pid) for pid in pids)
        return found

    def etcd_leader(self) -> str:
        """Return the etcd member that leads."""

        def find() -> str | None:
            for name in ETCDS:
                with contextlib.suppress(OSError):
                    request = urllib.request.Request(f"{self.url(name)}/v3/maintenance/status", b"{}")
                    with urllib.request.urlopen(request, timeout=3) as answer:
                        status = json.load(answer)
                    if status.get("leader") == status["header"]["member_id"]:
                        return name
            return None

        return str(eventually("an etcd member leads", find))

    def etcd_urls(self) -> list[str]:
        """Return where the etcd members that run are reached."""
        urls = []
        for name in ETCDS:
            with contextlib.suppress(ConnectionRefusedError):
                urls.append(self.url(name))
        return urls


def _etcd_environment(name: str) -> dict[str, str]:
    return {
        "ETCD_NAME": name,
        "ETCD_LISTEN_PEER_URLS": "http://0.0.0.0:2380",
        "ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
        "ETCD_ADVERTISE_CLIENT_URLS": f"http://{name}:2379",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://{name}:2380",
        "ETCD_INITIAL_CLUSTER": ",".join(f"{each}=http://{each}:2380" for each in ETCDS),
        "ETCD_INITIAL_CLUSTER_STATE": "new",
        "ETCD_DATA_DIR": "/tmp/etcd",
    }


def _build_hands() -> None:
    """Build the image with iptables: on the base, which has it where it is made without a registry."""
    recipe = f"FROM {settings()['BASE']}\nRUN command -v iptables || (apt-get update && apt-get install -y iptables)\n"
    context = Path(os.environ.get("TMPDIR", "/tmp")) / f"hsu-hands-{os.getpid()}-{time.monotonic_ns()}"
    context.mkdir()
    (context / "Dockerfile").write_text(recipe)
    try:
        docker("build", "-q", "-t", HANDS_IMAGE, str(context), timeout_s=300.0)
    finally:
        (context / "Dockerfile").unlink()
        context.rmdir()
