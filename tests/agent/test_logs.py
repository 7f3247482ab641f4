"""Capture of output: nothing blocks, nothing is lost, files rotate at line ends; tail and follow."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from hsu_agent.logs.capture import Capture
from hsu_agent.logs.merge import MergedFollower, merged_tail
from hsu_agent.logs.segments import Segments, segment_files
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import LogSpec
from tests.agent.harness import AgentProcess, instance, order, python, status_where
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually


def pipe_with(text: bytes) -> int:
    """Return the reading end of a pipe that holds `text`."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, text)
    os.close(writer)
    return reader


def feed(segments: Segments, text: bytes) -> None:
    """Drain a pipe that holds `text` completely."""
    pipe = pipe_with(text)
    for _ in range(1000):
        if not segments.drain(pipe) and not segments._can_splice:
            break
        if not os.get_blocking(pipe) and segments.drain(pipe) == 0:
            break
    os.close(pipe)


def whole(path: Path) -> bytes:
    """Return all segments of a stream in order."""
    return b"".join(found.read_bytes() for found, _ in segment_files(path)) + path.read_bytes()


def test_segments_end_at_line_ends_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    segments = Segments(path, 1000, 3)
    lines = [b"%05d " % number + b"x" * (number % 50) + b"\n" for number in range(400)]
    for start in range(0, 400, 20):
        feed(segments, b"".join(lines[start : start + 20]))
    files = [found for found, _ in segment_files(path)]
    assert [found.name for found in files] == ["stdout.log.2", "stdout.log.1"]
    for found in files:
        text = found.read_bytes()
        assert text.endswith(b"\n")
        assert 1000 <= len(text) < 1000 + 20 * 56, "a full segment takes whole portions of the pipe"
    assert b"".join(lines).endswith(whole(path))


def test_a_line_longer_than_any_segment_is_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    segments = Segments(path, 1000, 100)
    for _ in range(50):
        feed(segments, b"y" * 60_000)
    assert len(whole(path)) == 3_000_000
    assert len(segment_files(path)) >= 1


def test_bytes_that_are_no_text_pass_as_they_are(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "stdout.log", 10_000_000, 2)
    text = bytes(range(256)) * 100
    feed(segments, text)
    assert whole(tmp_path / "stdout.log") == text


def test_a_symbolic_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "stdout.log").symlink_to(tmp_path / "secret")
    segments = Segments(tmp_path / "stdout.log", 1000, 2)
    feed(segments, b"hello\n")
    assert (tmp_path / "secret").read_text() == "mine"
    assert segments.dropped_bytes == 6
    assert tail(tmp_path, 10) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system of its own")
def test_a_full_disk_drops_output_and_tells_how_much(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        path = disk / "stdout.log"
        segments = Segments(path, 10_000_000, 2)
        (disk / "ballast").write_bytes(b"x" * 32_000)
        written = 0
        for _ in range(20):
            feed(segments, b"z" * 9_999 + b"\n")
            written += 10_000
        dropped = segments.dropped_bytes
        assert dropped > 0
        (disk / "ballast").unlink()
        segments._retry_at_s = 0.0
        feed(segments, b"after\n")
        text = path.read_bytes()
        assert f"[hsu: {dropped} bytes of output were lost here: No space left on device]\n".encode() in text
        assert text.endswith(b"after\n")
        assert text.count(b"z") + text.count(b"\n") - 2 + dropped <= written + 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_writer_never_blocks_while_the_agent_drains(tmp_path: Path) -> None:
    async def scenario() -> None:
        capture = Capture(tmp_path)
        capture.attach(instance(), LogSpec())
        out, err = capture.open_for_worker(instance())
        writer = subprocess.Popen(["head", "-c", "3000000", "/dev/zero"], stdout=out, stderr=err)
        os.close(out)
        os.close(err)
        await eventually(lambda: writer.poll() == 0)
        await eventually(lambda: capture.written_bytes == 3_000_000)
        capture.close()

    asyncio.run(scenario())


# -- reading --------------------------------------------------------------------------------------


def tail(folder: Path, lines: int) -> list[bytes]:
    return [line for _, _, line in merged_tail(folder, ("stdout",), lines, None)]


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        (b"a\nb\nc\n", 2, [b"b", b"c"]),
        (b"a\nb\nc", 2, [b"b", b"c"]),
        (b"a\n", 5, [b"a"]),
        (b"", 5, []),
        (b"a\nb\n", 0, []),
        (b"\n\n\n", 2, [b"", b""]),
    ],
)
def test_the_last_lines(tmp_path: Path, text: bytes, lines: int, expected: list[bytes]) -> None:
    (tmp_path / "stdout.log").write_bytes(text)
    assert tail(tmp_path, lines) == expected


def test_a_tail_goes_back_over_segments(tmp_path: Path) -> None:
    (tmp_path / "stdout.log.2").write_text("1\n2\n")
    (tmp_path / "stdout.log.1").write_text("3\n4\n")
    (tmp_path / "stdout.log").write_text("5\n6")
    for lines, expected in [(1, "6"), (2, "56"), (3, "456"), (5, "23456"), (99, "123456")]:
        assert b"".join(tail(tmp_path, lines)).decode() == expected


def test_following_loses_nothing_over_rotations(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    segments = Segments(path, 500, 4)
    feed(segments, b"old\n")
    follower = MergedFollower(tmp_path, ("stdout",), 0)
    assert follower.more() == []
    expected, seen = [], []
    for number in range(300):
        feed(segments, b"line %d\n" % number)
        expected.append(b"line %d" % number)
        if number % 30 == 0:  # the reader is slower than one segment at times
            seen += [line for _, _, line in follower.more()]
    while lines := follower.more():
        seen += [line for _, _, line in lines]
    assert seen == expected
    feed(segments, b"unfinished")
    assert follower.more() == []
    assert [line for _, _, line in follower.rest()] == [b"unfinished"]
    follower.close()


WRITER = """
import os, sys, time
for number in range(int(sys.argv[1])):
    os.write(1, b"%07d " % number + b"x" * 91 + b"\\n")
open(sys.argv[2], "w").write("done")
time.sleep(1000)
"""


def test_no_line_is_lost_while_the_agent_is_killed_under_load(tmp_path: Path, agents: list[AgentProcess]) -> None:
    count = 60_000

    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await master.put(order(*python(WRITER, str(count), f"{tmp_path}/done"), logs=LogSpec(1_000_000, 50)))
            path = agent.data_dir / "logs/default/shop/web.0/stdout.log"
            await eventually(lambda: path.exists() and path.stat().st_size > 0)
            first = await status_where(master, instance(), state=State.RUNNING)
            for _ in range(2):
                pid = await eventually(agent.agent_pid)
                os.kill(pid, signal.SIGKILL)
                hellos = len(master.hellos)
                await eventually(lambda: len(master.hellos) > hellos)  # noqa: B023
            await eventually(lambda: (tmp_path / "done").exists(), within_s=60)
            await eventually(lambda: len(whole(path)) == count * 100)
            numbers = [int(line[:7]) for line in whole(path).splitlines()]
            assert numbers == list(range(count))
            await status_where(master, instance(), pid=first.pid, restarts=0)
            assert len(segment_files(path)) >= 5

    asyncio.run(scenario())


def test_logs_are_followed_until_cancelled(tmp_path: Path, agents: list[AgentProcess]) -> None:
    code = "import time\nfor n in range(100000):\n print('tick', n, flush=True)\n time.sleep(0.02)"

    async def scenario() -> None:
        async with FakeMaster() as master:
            agent = AgentProcess(tmp_path, master.url)
            agents.append(agent)
            agent.start()
            await master.put(order(*python(code)))
            await status_where(master, instance(), state=State.RUNNING)
            number = await master.ask("logs", instance(), tail=5, follow=True, stream="stdout")
            await eventually(lambda: len(master.chunks[number]) >= 10)
            text = b"".join(chunk.payload for chunk in master.chunks[number])
            seen = [int(line.split()[1]) for line in text.splitlines()]
            assert seen == list(range(seen[0], seen[0] + len(seen)))
            unknown = await master.ask("logs", instance(worker="nobody"))
            await eventually(lambda: unknown in master.answers)
            assert master.answers[unknown].code == "not-found"

    asyncio.run(scenario())
