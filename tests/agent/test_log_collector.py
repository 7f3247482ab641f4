"""Log collection: files, syslog over UDP, TCP and unix socket, HTTP; filters, formats, drops; a worker never waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from hsu_agent.logs.capture import Capture
from hsu_agent.logs.collector import LogCollector
from hsu_agent.logs.sinks import FileSink, QueuedSink
from hsu_agent.planning.log_lines import parse_fields
from hsu_core.model.logging_rules import LineFormat, LogRules, LogTarget, TargetKind
from hsu_core.model.spec import LogSpec
from tests.agent.harness import AgentProcess, instance, order, shell
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

SPEC = LogSpec()


class Bench:
    """A capture with one attached instance, and a collector that reads from it."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self.folder = folder
        self.capture = Capture(folder)
        self.capture.attach(instance(), SPEC)
        self.collector = LogCollector(self.capture, folder, "node-1", tasks)

    def write(self, text: bytes, stream: str = "stdout") -> None:
        """Write as the worker would."""
        pipe = self.folder / "run/default/shop/web.0" / stream
        with pipe.open("wb", buffering=0) as file:
            file.write(text)

    def collected(self, name: str) -> bytes:
        """Return what a target file holds."""
        path = self.folder / "collected/default/shop" / name
        return path.read_bytes() if path.exists() else b""


@contextlib.asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with asyncio.TaskGroup() as tasks:
        made = Bench(folder, tasks)
        try:
            yield made
        finally:
            await made.collector.close()
            made.capture.close()


def target_file(name: str, **fields: object) -> LogTarget:
    return LogTarget(TargetKind.FILE, name, **fields)  # type: ignore[arg-type]


def test_lines_are_filtered_formatted_and_split_by_stream(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as work:
            rules = LogRules(
                targets=(
                    target_file("{worker_id}-out.log", streams=("stdout",)),
                    target_file("err.json", streams=("stderr",), format=LineFormat.JSON, prefix="[{worker_id}]"),
                    target_file("all.log", format=LineFormat.ENHANCED_PLAIN),
                ),
                exclude=("heartbeat",),
                level="info",
                is_parsed=True,
                metadata=("hostname", "sequence", "line_number", "master_id"),
            )
            work.collector.start(instance(), rules)
            await asyncio.to_thread(
                work.write, b"hello\nheartbeat 1\nDEBUG: little\nlevel=debug msg=x\n\x00\xff\n" + b"z" * 60_000
            )
            await asyncio.to_thread(work.write, b"z" * 10_000 + b"\nlast\n")
            work.write(b'{"level": "error", "msg": "broken"}\n', "stderr")
            await eventually(lambda: work.collected("web-out.log").endswith(b"last\n"))
            out = work.collected("web-out.log")
            assert out == b"hello\n\x00\xef\xbf\xbd\n" + b"z" * 70_000 + b"\nlast\n"
            await eventually(lambda: work.collected("err.json").endswith(b"\n"))
            found = json.loads(work.collected("err.json"))
            assert (found["level"], found["fields"]["msg"], found["stream"]) == ("error", "broken", "stderr")
            assert (found["prefix"], found["master_id"], found["line_number"]) == ("[web]", "node-1", 1)
            await eventually(lambda: b"[web][stderr]" in work.collected("all.log"))
            assert b"[web][stdout] hostname=" in work.collected("all.log").splitlines()[0]

    asyncio.run(scenario())


def test_the_next_collector_goes_on_where_the_last_one_stood(tmp_path: Path) -> None:
    rules = LogRules((target_file("out.log"),))

    async def once(text: bytes, wanted: bytes) -> None:
        async with bench(tmp_path) as work:
            work.collector.start(instance(), rules)
            work.write(text)
            await eventually(lambda: work.collected("out.log") == wanted)
            await work.collector.stop(instance())

    asyncio.run(once(b"one\ntwo\nhal", b"one\ntwo\n"))
    asyncio.run(once(b"f\nthree\n", b"one\ntwo\nhalf\nthree\n"))


def test_syslog_over_udp_unix_socket_and_tcp(tmp_path: Path) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: list[bytes] = []

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.got.append(data)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        stream = bytearray()

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while block := await reader.read(4096):
                stream.extend(block)
            writer.close()

        tcp = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        udp, udp_got = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
        path = str(tmp_path / "log.sock")
        unix_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        unix_socket.setblocking(False)
        unix_socket.bind(path)
        unix, unix_got = await loop.create_datagram_endpoint(Receiver, sock=unix_socket)
        places = (
            f"tcp://127.0.0.1:{tcp.sockets[0].getsockname()[1]}",
            f"udp://127.0.0.1:{udp.get_extra_info('sockname')[1]}",
            f"unix:{path}",
        )
        async with bench(tmp_path) as work:
            work.collector.start(
                instance(), LogRules(tuple(LogTarget(TargetKind.SYSLOG, place) for place in places), is_parsed=True)
            )
            work.write(b"WARN: careful\n")
            for got in (udp_got.got, unix_got.got):
                await eventually(lambda: got)  # noqa: B023
                header, _, text = got[0].partition(b" web - stdout - ")
                assert header.startswith(b"<12>1 20")
                assert text == b"WARN: careful"
            await eventually(lambda: stream.endswith(b"careful"))
            length, _, message = bytes(stream).partition(b" ")
            assert int(length) == len(message)
        udp.close()
        unix.close()
        tcp.close()

    asyncio.run(scenario())


def test_http_batches_are_tried_again_until_they_are_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        got: list[str] = []
        refusals = [503, 503]

        async def take(request: web.Request) -> web.Response:
            if refusals:
                return web.Response(status=refusals.pop())
            assert request.headers["Authorization"] == "Bearer key"
            got.extend((await request.text()).splitlines())
            return web.Response(status=204)

        app = web.Application()
        app.router.add_post("/in", take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with bench(tmp_path) as work:
            place = f"http://127.0.0.1:{port}/in"
            target = LogTarget(TargetKind.HTTP, place, LineFormat.JSON, authorization="Bearer key")
            work.collector.start(instance(), LogRules((target,)))
            work.write(b"a\nb\n")
            await eventually(lambda: len(got) == 2)
            assert [json.loads(line)["message"] for line in got] == ["a", "b"]
        await runner.cleanup()

    asyncio.run(scenario())


def test_what_a_receiver_does_not_take_is_bounded_and_counted() -> None:
    async def scenario() -> None:
        is_away = True
        got: list[bytes] = []

        async def send(batch: list[bytes]) -> None:
            if is_away:
                raise OSError("away")
            got.extend(batch)

        sink = QueuedSink("test", send, lambda: None)
        for _ in range(6):
            sink.put([b"x" * 1_000_000])
        assert sink.dropped == 2
        is_away = False
        await eventually(lambda: len(got) == 4)
        await sink.close()

    asyncio.run(scenario())


def test_a_target_file_rotates_and_is_never_written_through_a_link(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.log", target_file("a.log", max_bytes=100, max_files=3))
    for number in range(40):
        sink.put([b"line %03d 0123456789" % number])
    asyncio.run(sink.close())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "b.log").symlink_to(tmp_path / "secret")
    refused = FileSink(tmp_path / "b.log", target_file("b.log"))
    refused.put([b"evil"])
    assert (refused.dropped, (tmp_path / "secret").read_bytes()) == (1, b"mine")


def test_json_and_logfmt_are_told_from_plain_text() -> None:
    assert parse_fields('{"a": 1}') == {"a": 1}
    assert parse_fields('level=info msg="two \\"words\\"" n=3') == {"level": "info", "msg": 'two "words"', "n": "3"}
    assert parse_fields("plain text a=b") == {}
    assert parse_fields("{" * 5000) == {}


def test_a_real_agent_collects_what_the_order_says(tmp_path: Path, agents: list[AgentProcess]) -> None:
    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            rules = LogRules((target_file("{worker_id}.log", prefix=">"),))
            await master.put(order(*shell("echo one; exec sleep 1000"), logs=LogSpec(rules=rules)))
            path = agent.data_dir / "collected/default/shop/web.log"
            await eventually(lambda: path.exists() and path.read_bytes() == b"> one\n")

    asyncio.run(scenario())
