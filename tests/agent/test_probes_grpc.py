"""gRPC checks against a real server with the real health service, and against endpoints that are none."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from hsu_agent.launch import Preparer
from hsu_agent.planning.health import Outcome
from hsu_agent.planning.observed import Desired
from hsu_agent.probes.grpc import check_grpc, judge
from hsu_agent.probes.runner import ProbeRunner
from hsu_core.model.spec import GrpcCheck, Probe
from tests.agent.harness import order


class Core(grpc.GenericRpcHandler):
    """HSU's CoreService with its Ping, and a method that refuses."""

    def service(self, details: Any) -> Any:
        if details.method == "/proto.CoreService/Ping":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01\x12\x04pong")
        if details.method == "/proto.CoreService/Refuse":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you: ä\n")
            )
        if details.method == "/proto.CoreService/Secret":
            token = dict(details.invocation_metadata).get("x-token")
            code = grpc.StatusCode.OK if token == "0" else grpc.StatusCode.UNAUTHENTICATED
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.set_code(code) or b"")
        return None


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    states = health_pb2.HealthCheckResponse
    servicer.set("", states.SERVING)
    servicer.set("shop.Web", states.SERVING)
    servicer.set("shop.Ill", states.NOT_SERVING)
    server.add_generic_rpc_handlers((Core(),))
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield number
    server.stop(None).wait()


def check(port: int, service: str = "", method: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Outcome:
    async def run() -> Outcome:
        async with asyncio.timeout(10):
            return await check_grpc("127.0.0.1", port, service, method, headers)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("service", "method", "is_passed", "text"),
    [
        ("", "", True, "the server is SERVING"),
        ("shop.Web", "", True, "service shop.Web is SERVING"),
        ("shop.Ill", "", False, "service shop.Ill is NOT_SERVING"),
        ("shop.No", "", False, "NOT_FOUND: the server knows no service 'shop.No'"),
        ("", "proto.CoreService/Ping", True, "proto.CoreService/Ping answers OK"),
        ("", "proto.CoreService/No", False, "UNIMPLEMENTED: the server does not offer proto.CoreService/No"),
        ("", "proto.CoreService/Refuse", False, "PERMISSION_DENIED: not you: ä"),
        ("", "proto.CoreService/Secret", False, "UNAUTHENTICATED"),
    ],
)
def test_what_a_real_server_says(port: int, service: str, method: str, is_passed: bool, text: str) -> None:
    found = check(port, service, method)
    assert found.is_passed == is_passed
    assert text in found.text


def test_a_server_without_the_health_service_is_named_so() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found = check(number)
    server.stop(None).wait()
    assert not found.is_passed
    assert "UNIMPLEMENTED" in found.text
    assert "register the gRPC health service" in found.text


def test_headers_are_sent_and_rendered(port: int, tmp_path: Path) -> None:
    async def run() -> Outcome:
        assignment, spec = order("sleep", "1", ports=(("grpc", port),))
        async with asyncio.TaskGroup() as tasks:
            runner = ProbeRunner(Preparer("node-1", "me", tmp_path, os.environ), tasks, lambda *_: None)
            asked = GrpcCheck("grpc", method="proto.CoreService/Secret", headers=(("X-Token", "{slot}"),))
            return await runner.check(Desired(assignment, spec), Probe(asked, timeout_s=5.0))

    assert asyncio.run(run()).is_passed


ANSWERS = {
    b"HTTP/1.1 400 Bad Request\r\n\r\n": "does not speak gRPC",
    b"": "closed the connection",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\6\0\0\0\0\0" * 1 + b"\xff" * 8: "closed the connection",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\3\0\0\0\0\1\0\0\0\7": "refused the call (HTTP/2 error 7)",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\2": "refused the call (HTTP/2 error 2)",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\3\1\5\0\0\0\1\xff\xff\xff": "does not speak gRPC",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\5\0\0\0\1\x88": "no gRPC answer, HTTP status 200",
    b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\0\0\0\0\0" * 9000: "more than 65536 bytes",
}


@pytest.mark.parametrize(("answer", "text"), ANSWERS.items(), ids=range(len(ANSWERS)))
def test_what_is_no_grpc_server_fails_with_the_reason(answer: bytes, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                try:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        found = check(listener.getsockname()[1])
        thread.join()
    assert not found.is_passed
    assert text in found.text


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    assert "Connect call failed" in check(number).text


@pytest.mark.parametrize(
    ("content", "is_passed"),
    [
        (b"\0\0\0\0\2\x08\1", True),
        (b"\0\0\0\0\2\x08\2", False),
        (b"\0\0\0\0\0", False),
        (b"", False),
        (b"\0\0\0\0\1\x08", False),
    ],
)
def test_the_state_of_an_answer(content: bytes, is_passed: bool) -> None:
    assert judge("x", "", "", {"grpc-status": "0"}, content).is_passed == is_passed


def test_an_agent_without_a_grpc_check_does_not_load_http2() -> None:
    code = "import sys, hsu_agent.daemon; sys.exit(any(n.split('.')[0] in ('h2', 'hpack') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
