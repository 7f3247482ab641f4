"""A limit of output per second: the worker never waits, what is dropped is counted and told where it is missing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hsu_agent.logs.segments import Segments
from tests.support.waiting import eventually

LINE = b"x" * 99 + b"\n"


async def _told(segments: Segments, pipe: tuple[int, int], path: Path) -> bytes:
    def look() -> bytes:
        os.write(pipe[1], b"after\n")
        segments.drain(pipe[0])
        text = path.read_bytes()
        return text if b"[hsu:" in text and text.endswith(b"after\n") else b""

    return await eventually(look)


def test_output_beyond_the_limit_is_dropped_counted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    segments = Segments(path, 10_000_000, 2, rate_bytes_s=1000)
    pipe = os.pipe2(os.O_NONBLOCK)
    for _ in range(100):
        os.write(pipe[1], LINE)
        while segments.drain(pipe[0]):
            pass
    assert 1000 <= path.stat().st_size < 3000
    assert segments.dropped_bytes >= 7000
    text = asyncio.run(_told(segments, pipe, path))
    assert b"bytes of output were lost here: more than 1000 bytes per second (logs.rate_limit)]\n" in text
    segments.close_idle()
    for descriptor in pipe:
        os.close(descriptor)


def test_without_a_limit_everything_is_kept(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "stdout.log", 10_000_000, 2)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, LINE * 600)
    while segments.drain(reader):
        pass
    assert (tmp_path / "stdout.log").stat().st_size == 60_000
    segments.close_idle()
    os.close(reader)
    os.close(writer)
