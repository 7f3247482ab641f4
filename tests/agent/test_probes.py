"""Checks against real listeners, friendly and hostile."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hsu_agent.launch import Preparer
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.observed import Desired
from hsu_agent.probes.exec import check_exec
from hsu_agent.probes.http import Exchange
from hsu_agent.probes.runner import ProbeRunner
from hsu_core.model.spec import Check, ExecCheck, HealthSpec, HttpCheck, Probe, ProcessCheck, TcpCheck
from tests.agent.harness import instance, is_running, order
from tests.support.waiting import eventually

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answers(text: bytes) -> Serve:
    """Return a server that answers so and waits for the client to go."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        await reader.read()

    return serve


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one byte at a time, never a whole line."""
    while not writer.is_closing():
        writer.write(b"H")
        await asyncio.sleep(0.02)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer without end and without a line end."""
    while not writer.is_closing():
        writer.write(b"x" * 65536)
        await writer.drain()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close at once."""


def check(make: Callable[[int], Check], serve: Serve | None, tmp_path: Path, timeout_s: float = 0.3) -> Outcome:
    """Return the outcome of a check against a server on a free port."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if serve is not None:
                await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> Outcome:
        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if serve is None:
            server.close()
        assignment, spec = order("sleep", "1", ports=(("http", port),))
        async with asyncio.TaskGroup() as tasks:
            runner = ProbeRunner(Preparer("node-1", "me", tmp_path, os.environ), tasks, lambda *_: None)
            found = await runner.check(Desired(assignment, spec), Probe(make(port), timeout_s=timeout_s))
        server.close()
        return found

    return asyncio.run(run())


OK = b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\nlocation: http://127.0.0.1:1/\r\n\r\nok"


@pytest.mark.parametrize(
    ("status", "is_passed"), [(200, True), (204, True), (302, True), (399, True), (404, False), (503, False)]
)
def test_http_passes_on_status_200_to_399_and_follows_nothing(tmp_path: Path, status: int, is_passed: bool) -> None:
    found = check(lambda port: HttpCheck("http", "/healthz"), answers(OK % status), tmp_path)
    assert found.is_passed == is_passed
    assert found.text.endswith(f"/healthz: status {status}")


@pytest.mark.parametrize(
    ("serve", "text"),
    [
        (drips, "no answer within 0.3 s"),
        (floods, "no HTTP answer"),
        (hangs_up, "closed without"),
        (None, "Connect call failed"),
    ],
)
def test_http_against_hostile_endpoints_fails_in_time(tmp_path: Path, serve: Serve | None, text: str) -> None:
    began_s = time.monotonic()
    found = check(lambda port: HttpCheck("http"), serve, tmp_path)
    assert not found.is_passed
    assert text in found.text
    assert time.monotonic() - began_s < 5


class ForeignTransport:
    """What uvloop hands out: it writes and aborts, and is no subclass of asyncio's transports."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def test_http_asks_over_a_transport_of_another_loop() -> None:
    async def exchange() -> tuple[ForeignTransport, bytes]:
        transport, answered = ForeignTransport(), asyncio.get_running_loop().create_future()
        protocol = Exchange(b"GET / HTTP/1.1\r\n\r\n", answered)
        protocol.connection_made(transport)  # type: ignore[arg-type]
        protocol.data_received(b"HTTP/1.1 200 OK\r\n")
        protocol.close()
        return transport, await answered

    transport, head = asyncio.run(exchange())
    assert transport.written.startswith(b"GET / ")
    assert head.startswith(b"HTTP/1.1 200")
    assert transport.is_aborted


def test_http_by_url_and_with_headers(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK % 200)

    headers = (("Host", "shop"), ("X-Slot", "{slot}"))
    found = check(
        lambda port: HttpCheck(url=f"http://127.0.0.1:{port}/a?b=c", method="HEAD", headers=headers), serve, tmp_path
    )
    assert found.is_passed
    assert seen[0].startswith(b"HEAD /a?b=c HTTP/1.1\r\nhost: shop\r\n")
    assert b"x-slot: 0\r\n" in seen[0]


def test_a_header_cannot_smuggle_a_second_request(tmp_path: Path) -> None:
    found = check(lambda port: HttpCheck("http", headers=(("X", "1\r\nGET / HTTP/1.1"),)), answers(OK % 200), tmp_path)
    assert not found.is_passed


def test_tcp_passes_when_somebody_listens(tmp_path: Path) -> None:
    assert check(lambda port: TcpCheck("http"), hangs_up, tmp_path).is_passed
    assert check(lambda port: TcpCheck(port), hangs_up, tmp_path).is_passed
    assert not check(lambda port: TcpCheck(port), None, tmp_path).is_passed


@pytest.mark.parametrize(
    ("command", "is_passed", "text"),
    [
        (("true",), True, "exec: 0"),
        (("sh", "-c", "echo broken; exit 3"), False, "exec sh: code 3: broken"),
        (("sh", "-c", "kill -9 $$"), False, "exec sh: signal 9"),
        (("/no/such/program",), False, "No such file"),
        (("sh", "-c", "yes | head -c 5000000; exit 1"), False, "exec sh: code 1"),
        (("sleep", "60"), False, "no answer within 1 s"),
    ],
)
def test_exec(tmp_path: Path, command: tuple[str, ...], is_passed: bool, text: str) -> None:
    found = check(lambda port: ExecCheck(command), None, tmp_path, timeout_s=1.0)
    assert found.is_passed == is_passed
    assert text in found.text


def test_exec_is_killed_with_its_children_when_time_is_up(tmp_path: Path) -> None:
    code = f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait"

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await check_exec(("sh", "-c", code), os.environ, "/")
        pids = [int((tmp_path / name).read_text()) for name in ("child", "self")]
        await eventually(lambda: not any(is_running(pid) for pid in pids))

    asyncio.run(run())


def test_process_check_passes(tmp_path: Path) -> None:
    assert check(lambda port: ProcessCheck(), None, tmp_path).is_passed


def test_one_check_at_a_time_and_none_after_the_stop(tmp_path: Path) -> None:
    async def run() -> None:
        running, most, outcomes = 0, 0, []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)  # slower than the period
            writer.write(OK % 200)
            running -= 1
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        probe = Probe(HttpCheck(port), period_s=0.01, timeout_s=2.0)
        assignment, spec = order("sleep", "1", health=HealthSpec(liveness=probe))
        async with asyncio.TaskGroup() as tasks:
            preparer = Preparer("node-1", "me", tmp_path, os.environ)
            runner = ProbeRunner(preparer, tasks, lambda which, kind, outcome: outcomes.append((kind, outcome)))
            runner.run(instance(), Desired(assignment, spec), (ProbeKind.LIVENESS,))
            await eventually(lambda: len(outcomes) >= 5)
            runner.stop(instance())
        count = len(outcomes)
        await asyncio.sleep(0.1)
        assert len(outcomes) == count
        assert most == 1
        assert all(outcome.is_passed for _, outcome in outcomes)
        server.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "wrong",
    [
        HttpCheck(url="http://[::1"),
        HttpCheck(url="http://a..b/"),
        HttpCheck(url="http://\u2024\u2024x/"),
        HttpCheck("70000"),
        TcpCheck(host="..", port=80),
        TcpCheck(host="127.0.0.1", port=70000),
        TcpCheck(host="a" * 70 + ".b", port=80),
        ExecCheck(("/bin/true", "a\0b")),
    ],
)
def test_an_address_that_is_none_is_a_failed_check(tmp_path: Path, wrong: Check) -> None:
    found = check(lambda port: wrong, None, tmp_path)
    assert not found.is_passed
    assert found.text
