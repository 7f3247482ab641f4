"""The examples are valid without a warning, and what they start exists and ends cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hsu_core.model.spec import HttpCheck
from tests.wire.builders import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """Return the body of `url`, once the program answers."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            assert process.poll() is None, "the program ended"
            assert time.monotonic() < deadline_s, "no answer"


def test_the_shop_is_valid_and_complete() -> None:
    text = (EXAMPLES / "shop.yaml").read_bytes()
    parsed = parse(text, read_file=lambda path: (EXAMPLES / path).read_bytes(), base_directory=str(EXAMPLES))
    assert parsed.warnings == ()
    assert [worker.id for worker in parsed.spec.workers] == ["web", "clock", "flaky", "gateway"]
    for worker in parsed.spec.workers:
        assert (EXAMPLES / worker.execution.args[0]).is_file()
    web = parsed.spec.workers[0]
    assert web.health.readiness is not None
    assert web.health.readiness.check == HttpCheck("http", "/healthz")
    assert "Hello from the shop" in web.files[0].content


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (["web.py", "--port"], "/healthz", b"ok\n"),
        (["gateway.py", "--app", "shop", "--port"], "/", b"gateway of shop\n"),
    ],
)
def test_servers_answer_and_end_cleanly(arguments: list[str], path: str, body: bytes) -> None:
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "shop" / arguments[0]), *arguments[1:], str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert fetch(f"http://127.0.0.1:{port}{path}", process) == body
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


def test_the_clock_prints_and_ends_cleanly() -> None:
    with subprocess.Popen(["/bin/sh", str(EXAMPLES / "shop" / "clock.sh"), "1"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"20")
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


def test_the_flaky_worker_crashes() -> None:
    command = [sys.executable, str(EXAMPLES / "shop" / "flaky.py"), "--within", "0.1"]
    assert subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False).returncode == 1
