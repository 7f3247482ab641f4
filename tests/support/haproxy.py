"""A real HAProxy for tests, on sockets that are bound here and inherited: no port is ever guessed, or lost on restart.

This module knows nothing of the product.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

START_TIMEOUT_S = 30.0

CONFIG = """\
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats socket fd@{admin} level admin
    stats socket {folder}/operator.sock mode 600 level operator
    hard-stop-after 1s

defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 0
    no option redispatch

frontend front
    bind fd@{front}
    default_backend shop

frontend preview
    bind fd@{preview}
    default_backend shop-preview

backend shop
    balance roundrobin
    server somebody-elses 127.0.0.1:9 weight 0

backend shop-preview
    balance roundrobin

backend static
    balance source
    hash-type map-based
"""


def find_haproxy() -> str:
    """Return the program; skip the test where there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("haproxy", path=path)
    if found is None:
        pytest.skip("haproxy is not installed (apt-get install haproxy)")
    return found


class Haproxy:
    """One HAProxy process; `kill` and `start` as often as wanted, its ports stay.

    `config` may name `{folder}`, and the descriptors `{front}`, `{preview}` and `{admin}`.
    """

    def __init__(self, config: str = CONFIG) -> None:
        self._program = find_haproxy()
        self._folder = tempfile.TemporaryDirectory(prefix="hsu-lb-", dir="/tmp")  # short: it holds sockets
        self.folder = Path(self._folder.name)
        self._sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("front", "preview", "admin")}
        self._process: subprocess.Popen[bytes] | None = None
        descriptors = {name: each.fileno() for name, each in self._sockets.items()}
        text = config.format(folder=self.folder, **descriptors)
        (self.folder / "haproxy.cfg").write_text(text)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for each in self._sockets.values():
            each.close()
        self._folder.cleanup()

    @property
    def socket_path(self) -> str:
        """Return the path of the runtime API."""
        return str(self.folder / "admin.sock")

    @property
    def socket_address(self) -> str:
        """Return HOST:PORT of the runtime API."""
        return f"127.0.0.1:{self._sockets['admin'].getsockname()[1]}"

    def url(self, frontend: str = "front") -> str:
        """Return the URL of a frontend."""
        return f"http://127.0.0.1:{self._sockets[frontend].getsockname()[1]}"

    def start(self) -> None:
        """Start it and wait until its runtime API answers."""
        self._process = subprocess.Popen(
            [self._program, "-db", "-q", "-f", str(self.folder / "haproxy.cfg")],
            pass_fds=[each.fileno() for each in self._sockets.values()],
            stdin=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.ask("show info")
                return
            except OSError:
                assert self._process.poll() is None, "haproxy ended at once"
                assert time.monotonic() < deadline_s, "haproxy does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it without an end, as a hung one."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, command: str) -> str:
        """Return the answer of the runtime API, read with nothing of the product."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.socket_path)
            connection.sendall(f"{command}\n".encode())
            found = b""
            while part := connection.recv(65536):
                found += part
        return found.decode()

    def servers(self, backend: str = "shop") -> dict[str, tuple[str, int, bool]]:
        """Return (host:port, weight, whether it takes requests) by name."""
        lines = self.ask(f"show servers state {backend}").splitlines()[2:]
        rows = [line.split() for line in lines if line.strip()]
        return {row[3]: (f"{row[4]}:{row[18]}", int(row[7]), row[6] == "0") for row in rows}
