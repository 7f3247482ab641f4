"""Real etcd servers for tests: one member or three, on free ports, in a folder of their own.

Every test that needs etcd starts it through here, so that no test depends on a fixed port, on a
server somebody else left running, or on `etcdctl`. The calls block; from a coroutine use
`await asyncio.to_thread(cluster.start)`. `kill`, `pause` and `resume` return at once and may be
called from a coroutine directly.

    with EtcdCluster(default_etcd().path, size=3) as cluster:
        store = await EtcdStore.connect(cluster.endpoints)
        cluster.leader().kill()

This module knows nothing of the product.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
"""A three-member cluster is up in about a second; a starved machine has needed twenty."""

PORT_RANGE = (10_000, 32_000)
"""Below the kernel's ephemeral range: nobody else is handed our port while a member is down."""

PORT_ATTEMPTS = 5
"""Starts with new ports before giving up, when a port was taken in between."""


@dataclass(frozen=True, slots=True, order=True)
class EtcdBinary:
    """An etcd program that runs on this machine."""

    version: str
    path: Path

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the version as numbers, for comparing."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version))


@functools.cache
def _has_unsafe_no_fsync(binary: Path) -> bool:
    answer = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=30, check=False)
    return "--unsafe-no-fsync" in answer.stdout + answer.stderr


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Certificate files of the client port; `is_client_cert_required` turns mutual TLS on."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    is_client_cert_required: bool = False


@functools.cache
def find_etcd_binaries() -> tuple[EtcdBinary, ...]:
    """Return one etcd per version, oldest first.

    Looks in the folders of HSU_TEST_ETCD_DIRS (colon separated), in PATH and in `.cache/etcd/*`.
    Wrapper scripts are passed over: a signal to them would not reach the server.
    """
    folders = [Path(part) for part in os.environ.get("HSU_TEST_ETCD_DIRS", "").split(":") if part]
    folders += [Path(part) for part in os.environ.get("PATH", "").split(":") if part]
    folders += sorted((ROOT / ".cache" / "etcd").glob("*"))
    found: dict[str, EtcdBinary] = {}
    for folder in folders:
        path = folder / "etcd"
        if not (path.is_file() and os.access(path, os.X_OK)) or path.read_bytes()[:2] == b"#!":
            continue
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        match = re.search(r"etcd Version: (\S+)", answer.stdout)
        if match:
            found.setdefault(match[1], EtcdBinary(match[1], path.resolve()))
    return tuple(sorted(found.values(), key=lambda binary: binary.numbers))


def default_etcd() -> EtcdBinary:
    """Return the newest etcd; without one fail the test in CI (`CI=true`) and skip it elsewhere."""
    binaries = find_etcd_binaries()
    if not binaries:
        missing_etcd("any version")
    return binaries[-1]


def missing_etcd(wanted: str) -> NoReturn:
    """Fail the test in CI, skip it elsewhere, because an etcd binary is missing."""
    reason = f"no etcd binary ({wanted}) in HSU_TEST_ETCD_DIRS, PATH or .cache/etcd; run .ci/fetch-etcd.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return as soon as `is_true()`; raise TimeoutError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that could be bound just now."""
    ports: list[int] = []
    sockets: list[socket.socket] = []
    try:
        while len(ports) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", random.randint(*PORT_RANGE)))
            except OSError:
                candidate.close()
                continue
            sockets.append(candidate)
            ports.append(candidate.getsockname()[1])
    finally:
        for taken in sockets:
            taken.close()
    return ports


class EtcdProcess:
    """One etcd member: its folder, its ports and its process."""

    def __init__(
        self,
        binary: Path,
        name: str,
        folder: Path,
        *,
        flags: Sequence[str] = (),
        tls: EtcdTls | None = None,
        is_synced: bool = False,
    ) -> None:
        self.is_synced = is_synced
        self.binary = binary
        self.name = name
        self.folder = folder
        self.flags = tuple(flags)
        self.tls = tls
        self.client_port = 0
        self.peer_port = 0
        self.initial_cluster = ""
        self.token = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Return the client URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        """Return the URL the other members use."""
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def log_path(self) -> Path:
        """Return where the server's output goes."""
        return self.folder / f"{self.name}.log"

    @property
    def is_running(self) -> bool:
        """Return whether the process exists (a paused one does)."""
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start the process without waiting for it to serve."""
        arguments = [
            *(str(self.binary), "--name", self.name, "--data-dir", str(self.folder / self.name)),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.initial_cluster, "--initial-cluster-token", self.token),
            *("--initial-cluster-state", "new", "--log-level", "warn", "--logger", "zap"),
            *("--log-outputs", "stderr", *self._tls_flags(), *self.flags),
        ]
        if not self.is_synced and _has_unsafe_no_fsync(self.binary):
            arguments.append("--unsafe-no-fsync")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def snapshot(self, path: Path) -> None:
        """Save the member's data to a file, as an operator would."""
        self._tool("snapshot", "save", str(path), "--endpoints", self.endpoint)

    def restore(self, path: Path, token: str = "") -> None:
        """Replace the data of a member that is stopped by a snapshot; with another `token` it is another cluster."""
        self.token = token or self.token
        shutil.rmtree(self.folder / self.name)
        self._tool(
            *("snapshot", "restore", str(path), "--name", self.name, "--data-dir", str(self.folder / self.name)),
            *("--initial-cluster", self.initial_cluster, "--initial-cluster-token", self.token),
            *("--initial-advertise-peer-urls", self.peer_url),
        )

    def _tool(self, *arguments: str) -> None:
        names = ("etcdutl", "etcdctl") if "restore" in arguments else ("etcdctl",)  # etcd 3.6 moved it
        tool = next(filter(None, map(shutil.which, names)), None)
        if tool is None:
            missing_etcd(f"with {' or '.join(names)} in PATH")
        environment = {**os.environ, "ETCDCTL_API": "3"}
        subprocess.run([tool, *arguments], env=environment, check=True, capture_output=True, timeout=60)

    def wait_healthy(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until `/health` is true; raise RuntimeError with the log's end if the server exits."""

        def is_up() -> bool:
            if not self.is_running:
                raise RuntimeError(f"etcd {self.name} has exited:\n{self.log_tail()}")
            return self.is_healthy()

        wait_until(is_up, f"etcd {self.name} healthy ({self.log_path})", timeout_s)

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start again after `kill` or `stop`, on the same ports and folder, and wait until healthy."""
        self.spawn()
        self.wait_healthy(timeout_s)

    def kill(self) -> None:
        """End the process with SIGKILL and reap it."""
        self._end(signal.SIGKILL, 10.0)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process with SIGTERM, and with SIGKILL after `timeout_s`."""
        self._end(signal.SIGTERM, timeout_s)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its sockets stay open and answer nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    def is_healthy(self) -> bool:
        """Return whether the member serves and sees a leader."""
        try:
            return str(self._fetch("/health", None).get("health")).lower() == "true"
        except (OSError, ValueError):
            return False

    def status(self) -> dict[str, Any]:
        """Return the answer of `maintenance/status`: header, version, leader, raftTerm, ..."""
        return self._fetch("/v3/maintenance/status", {})

    def is_leader(self) -> bool:
        """Return whether this member says that it leads; False if it does not answer."""
        try:
            status = self.status()
        except (OSError, ValueError):
            return False
        return bool(status.get("leader", "0") == status["header"]["member_id"])

    def log_tail(self, limit_bytes: int = 4000) -> str:
        """Return the end of the server's output."""
        return self.log_path.read_bytes()[-limit_bytes:].decode(errors="replace")

    def _fetch(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        payload = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.endpoint + path, data=payload)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._ssl_context())
        )
        try:
            with opener.open(request, timeout=2.0) as answer:
                parsed = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ValueError(f"{path} answered {error.code}: {error.read()!r}") from error
        if not isinstance(parsed, dict):
            raise ValueError(f"{path} answered {parsed!r}")
        return parsed

    def _ssl_context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=str(self.tls.ca_file))
        if self.tls.is_client_cert_required:
            context.load_cert_chain(self.tls.cert_file, self.tls.key_file)
        return context

    def _tls_flags(self) -> tuple[str, ...]:
        if self.tls is None:
            return ()
        flags = ("--cert-file", str(self.tls.cert_file), "--key-file", str(self.tls.key_file))
        if not self.tls.is_client_cert_required:
            return flags  # a trusted CA alone already makes etcd demand client certificates
        return (*flags, "--trusted-ca-file", str(self.tls.ca_file), "--client-cert-auth")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"etcd {self.name} does not run:\n{self.log_tail()}")
        return self.process

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout_s)
        self.process = None


class EtcdCluster:
    """One member or three (`size`), with a unique cluster token and a folder that goes away with it.

    `flags` are given to every member, e.g. `("--auth-token-ttl", "2")`. Unless `is_synced`, members
    leave out their disk syncs where they can: a SIGKILL loses nothing by that, only a power cut
    would. Use it as a context manager.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        size: int = 1,
        flags: Sequence[str] = (),
        tls: EtcdTls | None = None,
        is_synced: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hsu-etcd-"))
        chosen = binary or default_etcd().path
        self.members = tuple(
            EtcdProcess(chosen, f"m{number}", self.folder, flags=flags, tls=tls, is_synced=is_synced)
            for number in range(size)
        )
        atexit.register(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self) -> Iterator[EtcdProcess]:
        return iter(self.members)

    @property
    def endpoints(self) -> list[str]:
        """Return the client URL of every member."""
        return [member.endpoint for member in self.members]

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start all members and wait until each is healthy; takes new ports if one was snatched."""
        for attempt in range(PORT_ATTEMPTS):
            self._choose_ports()
            try:
                for member in self.members:
                    member.spawn()
                for member in self.members:
                    member.wait_healthy(timeout_s)
            except RuntimeError as error:
                self._end_members()
                if "address already in use" not in str(error) or attempt == PORT_ATTEMPTS - 1:
                    raise
                for member in self.members:
                    shutil.rmtree(self.folder / member.name, ignore_errors=True)
            except BaseException:
                self._end_members()
                raise
            else:
                return

    def stop(self) -> None:
        """Kill every member and remove the folder; a second call does nothing."""
        atexit.unregister(self.stop)
        self._end_members()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leader(self, timeout_s: float = START_TIMEOUT_S) -> EtcdProcess:
        """Return the member that leads, waiting for an election if need be."""
        wait_until(lambda: self._find_leader() is not None, "the election of an etcd leader", timeout_s)
        leader = self._find_leader()
        return leader if leader is not None else self.leader(timeout_s)

    def followers(self) -> list[EtcdProcess]:
        """Return the members that do not lead."""
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def _find_leader(self) -> EtcdProcess | None:
        return next((member for member in self.members if member.is_running and member.is_leader()), None)

    def _choose_ports(self) -> None:
        ports = free_ports(2 * len(self.members))
        token = f"hsu-test-{uuid.uuid4().hex}"
        for member in self.members:
            member.client_port, member.peer_port = ports.pop(), ports.pop()
        peers = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster, member.token = peers, token

    def _end_members(self) -> None:
        for member in self.members:
            member.kill()
