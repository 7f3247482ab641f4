"""Whole clusters of real processes for tests: masters, agents and standalone programs, each in a folder.

Nothing has a fixed port: masters listen on port 0 and write where; each agent gets its own range of worker
ports, because all "hosts" share this one. At the end every process that carries the cluster's marker is
ended, and the test fails if a worker is left after its app was removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
MARKER = "HSU_TEST_CLUSTER"
PATIENCE_S = 60.0
"""Deadline of a condition that is not itself the subject of the test: generous, machines are shared."""


def eventually(what: str, is_true: Callable[[], Any], *, timeout_s: float = PATIENCE_S, every_s: float = 0.02) -> Any:
    """Return the first true answer; fail naming `what` (and the last answer or error) after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = is_true()
            if last:
                return last
        except (OSError, urllib.error.URLError, KeyError, IndexError, json.JSONDecodeError) as error:
            last = error
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {timeout_s:g} s; last: {last!r}")


class Program:
    """One started program of ours, with its own folder and log."""

    def __init__(self, name: str, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.command = command
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """Return where its own log goes."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it (again)."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def kill(self) -> None:
        """Kill it with SIGKILL and reap it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """End it cleanly and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def has_ended(self) -> bool:
        """Return whether it was started and is not running any more."""
        return self.process is None or self.process.poll() is not None


class ApiError(AssertionError):
    """An answer of the API other than 2xx."""

    def __init__(self, status: int, document: Any) -> None:
        super().__init__(status, document)
        self.status = status
        self.document = document


class Cluster:
    """Masters and agents of one test; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = secrets.token_hex(6)
        self.environment = {**os.environ, MARKER: self.marker, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.environment = {k: v for k, v in self.environment.items() if k not in ("HSU_SERVER", "HSU_TOKEN")}
        self.masters: dict[str, Program] = {}
        self.agents: dict[str, Program] = {}
        self.token = ""
        self._tokens: tuple[Path, Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in [*self.agents.values(), *self.masters.values()]:
            if not program.has_ended():
                program.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this cluster: ours and the workers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and self.marker in process.environ().values():
                    found.append(process)
        return found

    def workers(self) -> dict[str, list[int]]:
        """Return the living processes of each instance (`shop/web.2`), found by their environment."""
        found: dict[str, list[int]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                if environment.get("HSU_TEST_WORKER_OF") == self.marker:
                    found.setdefault(environment["HSU_INSTANCE"].removeprefix("default/"), []).append(process.pid)
        return found

    # Programs

    def _write(self, path: Path, document: dict[str, Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document))
        return path

    def _token_files(self) -> tuple[Path, Path]:
        if self._tokens is None:
            self._tokens = (self.folder / "admin.token", self.folder / "node.token")
            for path in self._tokens:
                path.touch(mode=0o600)
                path.write_text(f"hsu_{secrets.token_urlsafe(32)}\n")
            self.token = self._tokens[0].read_text().strip()
        return self._tokens

    def master(self, name: str, store: dict[str, Any] | None = None, **settings: Any) -> Program:
        """Start a master on port 0; `store` as in its configuration file (default: SQLite in its folder)."""
        admin, node = self._token_files()
        folder = self.folder / name
        port = self._last_port(name)
        document = {
            "name": name,
            "listen": f"127.0.0.1:{port}",
            "data_dir": str(folder),
            "admin_token_file": str(admin),
            "node_token_file": str(node),
            **({"store": store} if store else {}),
            **settings,
        }
        config = self._write(self.folder / f"{name}.yaml", document)
        command = [sys.executable, "-m", "hsu_cluster.cli.main", "master", "--config", str(config)]
        program = Program(name, self.folder, command, self.environment)
        (folder / "endpoint").unlink(missing_ok=True)
        program.start()
        self.masters[name] = program
        eventually(f"{name} listens", lambda: self._is_up(program, self.url(name)))
        return program

    def standalone(self, name: str) -> Program:
        """Start `hsu-cluster standalone` on port 0 (or the port it had); it makes its own tokens."""
        folder = self.folder / name
        listen = f"127.0.0.1:{self._last_port(name)}"
        command = [sys.executable, "-m", "hsu_cluster.cli.main", "standalone"]
        command += ["--data-dir", str(folder), "--listen", listen]
        program = Program(name, self.folder, command, self.environment)
        (folder / "endpoint").unlink(missing_ok=True)
        program.start()
        self.masters[name] = program
        eventually(f"{name} listens", lambda: self._is_up(program, self.url(name)))
        self.token = (folder / "admin.token").read_text().strip()
        eventually("its node is ready", lambda: any(n["state"] == "ready" for n in self.nodes().values()))
        return program

    def _last_port(self, name: str) -> int:
        try:
            return int(self.url(name).rsplit(":", 1)[1])
        except OSError:
            return 0

    def url(self, name: str) -> str:
        """Return the URL that a master wrote when it began to listen."""
        return (self.folder / name / "endpoint").read_text().strip()

    def _is_up(self, program: Program, url: str) -> bool:
        if program.has_ended():
            tail = program.log_file.read_text()[-3000:]
            raise AssertionError(f"{program.name} ended:\n{tail}")
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)

    def agent(self, name: str, **settings: Any) -> Program:
        """Start an agent that knows every master started so far."""
        _, token = self._token_files()
        low = random.randrange(20000, 32000, 200)
        document = {
            "node": name,
            "masters": [self.url(master) for master in self.masters],
            "data_dir": str(self.folder / f"agent-{name}"),
            "token_file": str(token),
            "capacity": {"cpu": "8", "memory": "8GiB", "ports": f"{low}-{low + 199}"},
            **settings,
        }
        config = self._write(self.folder / f"agent-{name}.yaml", document)
        command = [sys.executable, "-m", "hsu_agent.keeper", "run", "--config", str(config)]
        program = Program(f"agent-{name}", self.folder, command, self.environment)
        program.start()
        self.agents[name] = program
        return program

    def agent_process(self, name: str) -> psutil.Process:
        """Return the agent below the keeper of `name`."""

        def find() -> psutil.Process | None:
            for child in psutil.Process(self.agents[name].pid).children():
                with contextlib.suppress(psutil.Error):  # it may end, or be a zombie, while we look
                    if "hsu_agent.daemon" in " ".join(child.cmdline()):
                        return child
            return None

        return eventually(f"the agent of {name} runs", find)

    def kill_node(self, name: str) -> None:
        """Kill keeper, agent and workers of a node at once, as a power cut would."""
        program = self.agents[name]
        agent = self.agent_process(name)
        workers = [
            psutil.Process(pid)
            for instance in self.instances()
            if instance["node"] == name and (pid := instance["pid"]) is not None
        ]
        program.kill()
        agent.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    # API

    def call(self, method: str, path: str, body: Any = None, *, master: str | None = None) -> Any:
        """Call the API of `master` (default: the first that answers) and return the document."""
        names = [master] if master else [n for n, program in self.masters.items() if not program.has_ended()]
        last: Exception | None = None
        for name in names:
            request = urllib.request.Request(
                self.url(name) + path,
                method=method,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                raise ApiError(error.code, json.loads(error.read() or b"null")) from error
            except OSError as error:
                last = error
        raise last or AssertionError("no master is running")

    def instances(self, app: str | None = None) -> list[dict[str, Any]]:
        """Return the instance documents (all pages)."""
        path = f"/v1/namespaces/default/apps/{app}/instances" if app else "/v1/instances"
        items: list[dict[str, Any]] = []
        page = ""
        while True:
            try:
                document = self.call("GET", f"{path}?limit=500{page}")
            except ApiError as error:
                if error.status == 404:  # removed, and none of its instances is left
                    return []
                raise
            items += document["items"]
            if not document["next"]:
                return items
            page = f"&page={document['next']}"

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the node documents by name."""
        return {node["name"]: node for node in self.call("GET", "/v1/nodes")["items"]}

    def leader(self) -> str:
        """Return the name of the master that leads."""

        def find() -> str | None:
            leader = self.call("GET", "/v1/cluster")["leader"]
            name = leader["name"] if isinstance(leader, dict) else leader
            return name if name in self.masters and not self.masters[name].has_ended() else None

        return str(eventually("a master leads", find))

    def ready(self, app: str) -> dict[str, dict[str, Any]]:
        """Return the ready instances of an app by id."""
        return {item["id"]: item for item in self.instances(app) if item["ready"] and item["state"] == "running"}

    def wait_ready(self, app: str, count: int, *, timeout_s: float = PATIENCE_S) -> dict[str, dict[str, Any]]:
        """Wait until exactly `count` instances of the app exist and all are ready; return them by id."""

        def find() -> dict[str, dict[str, Any]] | None:
            ready = self.ready(app)
            return ready if len(ready) == count == len(self.instances(app)) else None

        return eventually(f"{count} instances of {app} are ready", find, timeout_s=timeout_s)

    def wait_nodes(self, *names: str) -> None:
        """Wait until these nodes are ready."""
        eventually(
            f"nodes {', '.join(names)} are ready",
            lambda: all(self.nodes().get(name, {}).get("state") == "ready" for name in names),
        )

    def cli(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `hsu-cluster` against the first living master."""
        name = next(name for name, program in self.masters.items() if not program.has_ended())
        environment = {**self.environment, "HSU_SERVER": self.url(name), "HSU_TOKEN": self.token}
        answer = subprocess.run(
            [sys.executable, "-m", "hsu_cluster.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=self.folder,
            check=False,
        )
        if expect is not None:
            assert answer.returncode == expect, f"{arguments}: {answer.returncode}\n{answer.stdout}\n{answer.stderr}"
        return answer

    def manifest(self, app: str, workers: list[dict[str, Any]]) -> Path:
        """Write a manifest whose workers carry the cluster's marker; return its path."""
        for worker in workers:
            execution = worker["unit"]["managed"]["control"]["execution"]
            execution.setdefault("environment", {})["HSU_TEST_WORKER_OF"] = self.marker
        return self._write(self.folder / f"{app}.yaml", {"app": app, "workers": workers})


def sleeper(worker_id: str, replicas: int, **more: Any) -> dict[str, Any]:
    """Return a worker that does nothing for an hour."""
    return shell(worker_id, "exec sleep 3600", replicas, **more)


def shell(worker_id: str, script: str, replicas: int = 1, **more: Any) -> dict[str, Any]:
    """Return a worker that runs a small shell script; one that replaces another counts as available at once."""
    execution = {"executable_path": "/bin/sh", "args": ["-c", script]}
    control = {"execution": execution, **more.pop("control", {})}
    return {
        "id": worker_id,
        "type": "managed",
        "replicas": replicas,
        "unit": {"managed": {"metadata": {"name": worker_id}, "control": control}},
        "rollout": {"min_healthy": "0s", **more.pop("rollout", {})},
        **more,
    }


def new_pids(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the ids of instances whose process is another one than before."""
    yield from (name for name, item in after.items() if name in before and before[name]["pid"] != item["pid"])
