"""Streams merged in time order: tail, since, follow over rotations; any bytes; no links."""

from __future__ import annotations

import os
from pathlib import Path

from hsu_agent.logs.index import index_path
from hsu_agent.logs.merge import ALL_LINES, LineCursor, MergedFollower, merged_tail
from hsu_agent.logs.segments import Segments

STREAMS = ("stdout", "stderr")


def put(folder: Path, stream: str, *lines: tuple[float, bytes], number: int = 0) -> None:
    """Write lines with their times to a segment."""
    path = folder / (f"{stream}.log.{number}" if number else f"{stream}.log")
    for at, text in lines:
        offset = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(text)
        with Path(index_path(f"{folder}/{stream}.log", path.stat().st_ino)).open("ab") as index:
            index.write(b"%.6f %d\n" % (at, offset))


def texts(
    folder: Path, lines: int = ALL_LINES, since_at: float | None = None, until_at: float | None = None
) -> list[bytes]:
    return [text for _, _, text in merged_tail(folder, STREAMS, lines, since_at, until_at)]


def test_streams_are_merged_in_time_order_over_segments(tmp_path: Path) -> None:
    put(tmp_path, "stdout", (1, b"a\n"), (3, b"c\n"), number=1)
    put(tmp_path, "stdout", (5, b"e\n"))
    put(tmp_path, "stderr", (2, b"b\n"), (4, b"d\n"), (6, b"f"))
    assert texts(tmp_path) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert texts(tmp_path, 3) == [b"d", b"e", b"f"]
    assert texts(tmp_path, 0) == []
    assert texts(tmp_path, 100) == texts(tmp_path)
    assert [line[:2] for line in merged_tail(tmp_path, STREAMS, 2, None)] == [(5.0, "stdout"), (6.0, "stderr")]


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    put(tmp_path, "stdout", (10, b"a1\na2\n"), (20, b"b\n"), (30, b"c\n"))
    assert texts(tmp_path, since_at=20) == [b"b", b"c"]
    assert texts(tmp_path, since_at=11) == [b"b", b"c"]
    assert texts(tmp_path, 1, since_at=11) == [b"c"]
    assert texts(tmp_path, since_at=31) == []
    assert texts(tmp_path, since_at=0) == [b"a1", b"a2", b"b", b"c"]


def test_until_leaves_out_what_came_then_or_later_and_the_tail_is_before_it(tmp_path: Path) -> None:
    put(tmp_path, "stdout", (10, b"a1\na2\n"), (20, b"b\n"), (30, b"c\n"))
    put(tmp_path, "stderr", (25, b"bad\n"))
    assert texts(tmp_path, until_at=30) == [b"a1", b"a2", b"b", b"bad"]
    assert texts(tmp_path, 2, until_at=30) == [b"b", b"bad"]
    assert texts(tmp_path, since_at=20, until_at=25) == [b"b"]
    assert texts(tmp_path, until_at=10) == []


def test_a_follower_begins_with_the_tail_and_misses_nothing_when_files_rotate(tmp_path: Path) -> None:
    put(tmp_path, "stdout", (1, b"old\n"), (2, b"last\n"))
    follower = MergedFollower(tmp_path, STREAMS, lines=1)
    assert [line[2] for line in follower.more()] == [b"last"]
    assert follower.more() == []
    put(tmp_path, "stdout", (3, b"half"))
    assert follower.more() == []
    put(tmp_path, "stdout", (4, b"-whole\n"))
    os.replace(f"{tmp_path}/stdout.log", f"{tmp_path}/stdout.log.1")
    put(tmp_path, "stdout", (6, b"new\n"))
    put(tmp_path, "stderr", (5, b"bad\n"))
    assert [line[2] for line in follower.more()] == [b"half-whole", b"bad", b"new"]
    follower.close()


def test_long_lines_and_bytes_that_are_no_text_pass_as_they_are(tmp_path: Path) -> None:
    odd = b"\x00\xff\xfe" + b"z" * 70_000
    put(tmp_path, "stdout", (1, b"before\n"), (2, odd + b"\n"), (3, b"after\n"))
    assert texts(tmp_path) == [b"before", odd, b"after"]
    assert texts(tmp_path, 2) == [odd, b"after"]


def test_a_symbolic_link_in_the_place_of_a_log_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine\n")
    (tmp_path / "stdout.log").symlink_to(tmp_path / "secret")
    assert texts(tmp_path) == []
    follower = MergedFollower(tmp_path, STREAMS, lines=ALL_LINES)
    assert follower.more() == []
    follower.close()


def test_a_cursor_goes_on_where_another_stood(tmp_path: Path) -> None:
    put(tmp_path, "stdout", (1, b"a\n"), (2, b"b\nhalf"))
    first = LineCursor(tmp_path / "stdout.log")
    first.place(ALL_LINES, None)
    lines = first.lines()
    assert next(lines)[2] == b"a"
    assert [line[2] for line in lines] == [b"b"]
    position = first.position
    first.close()
    put(tmp_path, "stdout", (3, b"-done\n"))
    second = LineCursor(tmp_path / "stdout.log")
    assert second.seek(*position)
    assert [line[2] for line in second.lines()] == [b"half-done"]
    assert not second.seek(1, 0)
    second.close()


def test_what_is_captured_has_the_time_at_which_it_came(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "stdout.log", 100, 3)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for number in range(30):
        os.write(writer, b"line %03d ....\n" % number)
        while segments.drain(reader):
            pass
    assert texts(tmp_path)[-1] == b"line 029 ...."
    found = list(merged_tail(tmp_path, STREAMS, ALL_LINES, None))
    assert all(at > 1_500_000_000 for at, _, _ in found)
    inodes = {path.stat().st_ino for path in tmp_path.glob("*.log*") if path.suffix != ".idx"}
    assert {path.name for path in tmp_path.glob("*.idx")} <= {f"stdout.log.{inode}.idx" for inode in inodes}
    segments.close_idle()
    os.close(reader)
    os.close(writer)
