"""Segments that are compressed and that grow old: nothing is lost, nothing is told twice."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hsu_agent.logs.capture import Capture
from hsu_agent.logs.compress import Compressor, compress, open_segment, origin_of
from hsu_agent.logs.index import index_path
from hsu_agent.logs.merge import LineCursor, MergedFollower, merged_tail
from hsu_agent.logs.segments import Segments, segment_files
from hsu_core.model.spec import LogSpec
from tests.agent.harness import instance
from tests.agent.test_logs import feed

Test = Callable[[], Awaitable[None]]
LINES = [b"line %04d" % number for number in range(500)]


def filled(folder: Path, lines: list[bytes] = LINES) -> Segments:
    """Return the segments of a stream with these lines, some fifty in each."""
    segments = Segments(folder / "stdout.log", 500, 20)
    for line in lines:
        feed(segments, line + b"\n")
    return segments


def tail(folder: Path, lines: int = -1, since_at: float | None = None) -> list[bytes]:
    return [line for _, _, line in merged_tail(folder, ("stdout",), lines, since_at)]


async def until(look: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.01)


def packed(folder: Path) -> list[Path]:
    return [path for path, _ in segment_files(folder / "stdout.log") if path.suffix == ".gz"]


def are_packed(folder: Path) -> bool:
    return len(packed(folder)) == len(segment_files(folder / "stdout.log"))


def run(test: Test) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_full_segments_are_compressed_and_read_as_before(tmp_path: Path) -> None:
    async def test() -> None:
        segments = filled(tmp_path)
        raw = {number: path.read_bytes() for path, number in segment_files(segments.path)}
        compressor = Compressor()
        compressor.add(segments.path)
        await until(lambda: are_packed(tmp_path), "all are compressed")
        assert {number: gzip.decompress(path.read_bytes()) for path, number in segment_files(segments.path)} == raw
        assert {path.stat().st_mode & 0o777 for path in packed(tmp_path)} == {0o600}
        assert tail(tmp_path) == LINES
        assert tail(tmp_path, 120) == LINES[-120:]
        compressor.close()

    run(test)


def test_times_stay_with_the_lines(tmp_path: Path) -> None:
    async def test() -> None:
        segments = filled(tmp_path)
        before = list(merged_tail(tmp_path, ("stdout",), -1, None))
        compressor = Compressor()
        compressor.add(segments.path)
        await until(lambda: are_packed(tmp_path), "all are compressed")
        assert list(merged_tail(tmp_path, ("stdout",), -1, None)) == before
        assert not Path(index_path(str(segments.path), 0)).exists()
        compressor.close()

    run(test)


def test_a_reader_goes_on_while_its_segment_is_compressed_and_rotated(tmp_path: Path) -> None:
    async def test() -> None:
        segments = filled(tmp_path, LINES[:200])
        follower = MergedFollower(tmp_path, ("stdout",), 150)
        cursor = LineCursor(segments.path)
        cursor.place(-1, None)
        half = [next(lines)[2] for lines in [cursor.lines()] for _ in range(60)]
        seen = [line for _, _, line in follower.more()]
        compressor = Compressor()
        segments.on_full = compressor.add
        compressor.add(segments.path)
        await until(lambda: are_packed(tmp_path), "all are compressed")
        for line in LINES[200:400]:
            feed(segments, line + b"\n")
        await until(lambda: are_packed(tmp_path), "all are compressed again")
        seen += [line for _, _, line in follower.more()]
        assert seen == LINES[50:400]
        position = cursor.position
        cursor.close()
        resumed = LineCursor(segments.path)
        assert resumed.seek(*position), "its segment is known by the inode that it had"
        assert half + [line for _, _, line in resumed.lines()] == LINES[:400]
        resumed.close()
        follower.close()
        compressor.close()

    run(test)


def test_a_death_at_any_line_loses_nothing(tmp_path: Path) -> None:
    """The states between two renames, made by hand: the raw segment counts, and the next rotation clears up."""
    segments = filled(tmp_path)
    path, number = segment_files(segments.path)[3]
    (tmp_path / "stdout.log.compressing").write_bytes(b"half of it")
    assert tail(tmp_path) == LINES
    (tmp_path / "stdout.log.compressing").unlink()
    compress(path, path.with_name(f"{path.name}.gz"))
    assert tail(tmp_path) == LINES
    for line in LINES[:60]:
        feed(segments, line + b"\n")
    assert not packed(tmp_path)
    assert tail(tmp_path) == LINES + LINES[:60]

    async def test() -> None:
        (tmp_path / "stdout.log.compressing").write_bytes(b"half of it")
        compressor = Compressor()
        compressor.add(segments.path)
        await until(lambda: are_packed(tmp_path), "all are compressed")
        compressor.close()
        assert tail(tmp_path) == LINES + LINES[:60]
        assert not (tmp_path / "stdout.log.compressing").exists()

    run(test)
    assert number > 0


def test_a_damaged_or_planted_file_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_bytes(b"mine\n")
    (tmp_path / "stdout.log.1.gz").write_bytes(b"\x1f\x8b nonsense")
    (tmp_path / "secret").write_bytes(gzip.compress(b"secret\n"))
    (tmp_path / "stdout.log.2.gz").symlink_to(tmp_path / "secret")
    assert tail(tmp_path, 5) == [b"mine"]
    assert origin_of(tmp_path / "stdout.log.2.gz") == 0
    with pytest.raises(OSError):
        open_segment(tmp_path / "stdout.log", tmp_path / "stdout.log.1.gz")


def test_old_output_is_removed(tmp_path: Path) -> None:
    segments = filled(tmp_path)
    segments.limit(500, 20, max_age_s=3600.0)
    files = segment_files(segments.path)
    for path, _ in files[:3]:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    segments.expire(time.time())
    assert segment_files(segments.path) == files[3:]
    assert tail(tmp_path)[-1] == LINES[-1]
    segments.expire(time.time() + 7200)  # what is written now is old then: it is ended, and goes at the next look
    segments.expire(time.time() + 7200)
    assert tail(tmp_path) == []
    feed(segments, b"new\n")
    assert tail(tmp_path) == [b"new"]
    assert [path.name for path in tmp_path.glob("*.idx*")] == [
        Path(index_path(str(segments.path), segments.path.stat().st_ino)).name
    ]


def test_a_worker_is_captured_so(tmp_path: Path) -> None:
    async def test() -> None:
        capture = Capture(tmp_path)
        which = instance()
        capture.attach(which, LogSpec(500, 20, is_compressed=True, max_age_s=3600.0))
        descriptors = capture.open_for_worker(which)
        folder = capture.log_path(which, "stdout").parent
        for begin in range(0, len(LINES), 50):
            os.write(descriptors[0], b"".join(line + b"\n" for line in LINES[begin : begin + 50]))
            await until(lambda end=begin + 50: len(tail(folder)) == end, "it is captured")
        await until(lambda: packed(folder) and are_packed(folder), "full segments are compressed")
        assert tail(folder) == LINES
        for descriptor in descriptors:
            os.close(descriptor)
        capture.close()

    run(test)
