"""All agents of a fleet come in one moment: how long until all are in, and how many of them are judged lost (none).

    python bench/storm.py [--agents 5000] [--instances 2] [--tls]

One real master (SQLite) in a process of its own, and agents that are a WebSocket each in this one: they dial, report,
beat and dial again by the rules of `hsu_agent.sync`. Three storms: all join for the first time; the master is killed
and started again (a takeover: everybody comes back, and nobody knows whom it has heard); all connections break while
the leader lives, so that no grace of a new leader helps. "In" means welcomed, and in possession of its full orders.

The limit of open files has to allow one descriptor per agent in each of the two processes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

from hsu_agent.masters import RETRY_BASE_S, RETRY_CEILING_S
from hsu_agent.sync import FIRST_ANSWER_CEILING_S, FIRST_ANSWER_S
from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity
from hsu_core.wire import frames

PATIENCE_S = 300.0

INSTANCES_PER_APP = 200

SHARED_CONNECT_S = 60.0
"""Longest wait for a connection: an agent waits 2 s, but 5,000 of them share one event loop here, which needs longer to
begin them all; each would give up before it was looked at."""


class Master:
    """`hsu-cluster master` in a folder."""

    def __init__(self, folder: Path, *, is_tls: bool) -> None:
        self.folder = folder
        self.log = folder / "master.log"
        self.context: ssl.SSLContext | None = None
        settings: dict[str, Any] = {"name": "master", "listen": "127.0.0.1:0", "data_dir": str(folder / "data")}
        if is_tls:
            subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"]
            subprocess.run(
                ["openssl", "req", "-x509", *key, "-out", "cert.pem", "-days", "2", *subject],
                cwd=folder, check=True, capture_output=True,
            )  # fmt: skip
            settings["tls"] = {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}
            self.context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it listens."""
        endpoint = self.folder / "data" / "endpoint"
        if self.url:
            self._settings["listen"] = "127.0.0.1:" + self.url.rsplit(":", 1)[1]
            endpoint.unlink()
        config = self.folder / "master.yaml"
        config.write_text(yaml.safe_dump(self._settings))
        command = [sys.executable, "-m", "hsu_cluster.cli.main", "master", "--config", str(config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not endpoint.exists() or not endpoint.read_text():
            if time.monotonic() > deadline:
                raise SystemExit(f"the master does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.url = endpoint.read_text().strip()

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def token(self, name: str) -> str:
        """Return a token: admin or node."""
        return (self.folder / "data" / f"{name}.token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API."""
        headers = {"Authorization": f"Bearer {self.token('admin')}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=content, headers=headers)
        with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
            return json.loads(answer.read() or b"null")

    def usage(self) -> tuple[float, float]:
        """Return the seconds of processor time and the MiB of memory that it uses."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss / 2**20

    def lost(self) -> int:
        """Return how often a node was judged lost so far."""
        return self.log.read_text().count(" is lost: silent")


class Socket(asyncio.Protocol):
    """A WebSocket with as little work as possible: the master is to be measured, and 5,000 agents are one process here.

    `received` gives the binary messages, None at the end.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.is_open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received: asyncio.Queue[bytes | None] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take bytes; messages are whole and not masked, as servers send them."""
        self._buffer += data
        if not self.is_open.done():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in self._buffer[:end].split(b"\r\n")[0]:
                self.close()
                return
            del self._buffer[: end + 4]
            self.is_open.set_result(None)
        while (message := self._take()) is not None:
            kind, payload = message
            if kind == 2:
                self.received.put_nowait(payload)
            elif kind == 8:
                self.close()

    def _take(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, head = buffer[1] & 127, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            if len(buffer) < head:
                return None
            size = int.from_bytes(buffer[2:head], "big")
        if len(buffer) < head + size:
            return None
        kind, payload = buffer[0] & 15, bytes(buffer[head : head + size])
        del buffer[: head + size]
        return kind, payload

    def send(self, frame: frames.Frame) -> None:
        """Send a frame, masked with zeros."""
        payload = frames.encode_frame(frame)
        size = len(payload)
        head = bytes([130, 128 | size]) if size < 126 else bytes([130, 254]) + size.to_bytes(2, "big")
        if size >= 2**16:
            head = bytes([130, 255]) + size.to_bytes(8, "big")
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head + b"\0\0\0\0" + payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if not self.is_open.done():
            self.is_open.set_exception(exc or ConnectionError("closed"))
            self.is_open.exception()  # it may be that nobody waits any more
        self.received.put_nowait(None)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


class Agent:
    """One node: a socket, and what it runs."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.name = f"node-{number:05d}"
        self.held: dict[Any, Assignment] = {}
        self.is_in = False
        self.socket: Socket | None = None

    async def run(self) -> None:
        """Hold a session for ever."""
        delay_s, patience_s = RETRY_BASE_S, FIRST_ANSWER_S
        while True:
            try:
                if await self._session(patience_s):
                    delay_s, patience_s = RETRY_BASE_S, FIRST_ANSWER_S
            except TimeoutError:
                self.fleet.failures += 1
                patience_s = min(2 * patience_s, FIRST_ANSWER_CEILING_S)
            except OSError:
                self.fleet.failures += 1
            self.is_in = False
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(RETRY_CEILING_S, 2 * delay_s)

    async def _session(self, patience_s: float) -> bool:
        fleet = self.fleet
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SHARED_CONNECT_S):
            _, self.socket = await loop.create_connection(
                lambda: Socket(fleet.request), fleet.host, fleet.port, ssl=fleet.context, server_hostname=fleet.tls_name
            )
        socket = self.socket
        beating: asyncio.Task[None] | None = None
        silence_s = patience_s
        try:
            async with asyncio.timeout(patience_s):
                await socket.is_open
            socket.send(frames.Hello(self.name, Capacity(8000, 2**33), boot_id="b"))
            while True:
                async with asyncio.timeout(silence_s):
                    payload = await socket.received.get()
                if payload is None:
                    return self.is_in
                frame = frames.decode_frame(payload)
                if isinstance(frame, frames.Queued):
                    fleet.queued += 1
                elif isinstance(frame, frames.Welcome):
                    silence_s = frame.silence_s
                    beating = asyncio.create_task(self._beat(socket, frame.beat_s))
                    socket.send(frames.Report(self._statuses(), is_full=True))
                elif isinstance(frame, frames.Orders):
                    self.is_in = self.is_in or frame.is_full
                    changed = {order.assignment.instance: order.assignment for order in frame.orders}
                    self.held.update(changed)
                    if changed and not frame.is_full:
                        socket.send(frames.Report(self._statuses()))
                elif isinstance(frame, frames.Redirect | frames.Refuse):
                    return False
        finally:
            if beating is not None:
                beating.cancel()
            socket.close()

    async def _beat(self, socket: Socket, beat_s: float) -> None:
        while True:
            await asyncio.sleep(beat_s)
            socket.send(frames.Beat(0.0))

    def _statuses(self) -> tuple[InstanceStatus, ...]:
        return tuple(
            InstanceStatus(
                one.instance, self.name, one.epoch, State.RUNNING, True, one.revision, one.spec_hash, pid=4711
            )
            for one in self.held.values()
        )


class Fleet:
    """All agents."""

    def __init__(self, count: int, master: Master) -> None:
        url = urllib.parse.urlsplit(master.url)
        self.host, self.port, self.context = url.hostname or "", url.port or 0, master.context
        self.tls_name = "localhost" if master.context is not None else None
        self.request = (
            f"GET /v1/session HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {master.token('node')}\r\n\r\n"
        ).encode()
        self.failures = 0
        self.queued = 0
        self.agents = [Agent(self, number) for number in range(count)]

    async def all_in(self, began_s: float) -> float:
        """Return after how many seconds everybody is in."""
        while not all(agent.is_in for agent in self.agents):
            if time.monotonic() - began_s > PATIENCE_S:
                raise SystemExit(f"only {sum(agent.is_in for agent in self.agents)} are in after {PATIENCE_S:g} s")
            await asyncio.sleep(0.02)
        return time.monotonic() - began_s


async def measure(master: Master, count: int, instances: int) -> int:
    """Run the storms and print a line for each; return how many nodes were judged lost."""
    fleet = Fleet(count, master)
    print(f"{count} agents, {count * instances} instances{', TLS' if master.context else ''}", flush=True)
    began_s = time.monotonic()
    tasks = [asyncio.create_task(agent.run()) for agent in fleet.agents]
    try:
        _line("all join", await fleet.all_in(began_s), fleet, master, 0.0)
        if instances:
            execution = {"executable_path": "sleep", "args": ["3600"]}
            unit = {"managed": {"metadata": {"name": "w"}, "control": {"execution": execution}}}
            apps = -(-count * instances // INSTANCES_PER_APP)
            for number in range(apps):
                worker = {"id": "w", "type": "managed", "replicas": count * instances // apps, "unit": unit}
                path, body = f"/v1/namespaces/default/apps/app{number}", {"app": f"app{number}", "workers": [worker]}
                await asyncio.to_thread(master.call, "PUT", path, body)
            while sum(len(agent.held) for agent in fleet.agents) < count * instances // apps * apps:
                await asyncio.sleep(0.1)
        await asyncio.sleep(5.0)
        fleet.failures = fleet.queued = 0
        for agent in fleet.agents:
            agent.is_in = False
        master.kill()
        await asyncio.to_thread(master.start)
        _line("master killed, all come back", await fleet.all_in(time.monotonic()), fleet, master, 0.0)
        await asyncio.sleep(12.0)  # longer than a TTL: who was forgotten is judged lost by now
        used_s, _ = master.usage()
        began_s = time.monotonic()
        for agent in fleet.agents:
            agent.is_in = False
            if agent.socket is not None:
                agent.socket.close()
        _line("all connections break", await fleet.all_in(began_s), fleet, master, used_s)
        used_s, _ = master.usage()
        await asyncio.sleep(12.0)
        idle_s = master.usage()[0] - used_s
        print(f"{'then at rest':<30} {100 * idle_s / 12:5.1f} % of a core, {master.usage()[1]:.0f} MiB")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return master.lost()


def _line(what: str, took_s: float, fleet: Fleet, master: Master, before_s: float) -> None:
    used_s, memory_mib = master.usage()
    print(
        f"{what:<29} {took_s:5.1f} s until all are in ({len(fleet.agents) / took_s:,.0f} /s), master "
        f"{used_s - before_s:5.1f} s cpu, {memory_mib:4.0f} MiB; {fleet.failures} dials failed, {fleet.queued} words "
        f"to the line, {master.lost()} judged lost",
        flush=True,
    )
    fleet.failures = fleet.queued = 0


def main() -> int:
    """Run the storms; exit 1 if a node was judged lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=5000)
    parser.add_argument("--instances", type=int, default=2, help="per agent")
    parser.add_argument("--tls", action="store_true", help="encrypt (needs the program openssl)")
    options = parser.parse_args()
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    count = min(options.agents, allowed - 500) if allowed != resource.RLIM_INFINITY else options.agents
    if options.tls and shutil.which("openssl") is None:
        raise SystemExit("--tls needs the program openssl")
    with tempfile.TemporaryDirectory() as folder:
        master = Master(Path(folder), is_tls=options.tls)
        master.start()
        try:
            lost = asyncio.run(measure(master, count, options.instances))
        finally:
            master.kill()
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
