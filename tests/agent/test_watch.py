"""`run --local FILE --watch`: changed files are read again, and so is what they name; broken ones touch nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from hsu_agent.local.sources import Sources, Stamps, look, stamp
from hsu_agent.local.watch import POLL_S, watch
from tests.agent.local_harness import LocalAgent, kill, local_agent, manifest, worker
from tests.support.waiting import eventually

FOREVER = "exec sleep 1000"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LocalAgent]:
    with local_agent(tmp_path) as found:
        yield found


def write(path: Path, text: str) -> None:
    """Replace a file at once, as careful programs do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)


def templated(name: str) -> str:
    return worker("web", FOREVER, f"files: {{a.txt: {{template: {name}}}}}")


def test_a_changed_file_is_read_again_and_only_what_differs_is_touched(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start("--watch")
    agent.until(agent.all_run, "web runs")
    before = agent.instances()
    write(agent.file, manifest(worker("web", FOREVER), worker("db", FOREVER)))
    agent.until(lambda: agent.instances().get("shop/db.0", {}).get("ready"), "db runs")
    assert agent.instances()["shop/web.0"]["pid"] == before["shop/web.0"]["pid"]


def test_a_broken_file_is_told_of_once_and_everything_runs_on_until_it_is_mended(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start("--watch")
    agent.until(agent.all_run, "web runs")
    before = agent.instances()

    def told() -> int:
        return agent.log.read_text().count("needs a whole number")

    write(agent.file, manifest(worker("web", FOREVER, "replicas: many")))
    agent.until(lambda: told() == 1, "the fault is told")
    looked_s = time.monotonic() + 2.5 * POLL_S
    agent.until(lambda: time.monotonic() > looked_s, "it looks twice more")
    assert told() == 1
    kill(agent.agent_pid())  # the next agent starts with the broken file, and watches on
    agent.until(lambda: agent.run("status").returncode == 0, "the next agent answers")
    assert agent.instances()["shop/web.0"]["pid"] == before["shop/web.0"]["pid"]
    write(agent.file, manifest(worker("web", FOREVER, "replicas: 2")))
    agent.until(lambda: agent.instances().get("shop/web.1", {}).get("ready"), "a second copy runs")
    assert told() == 2, "the next agent tells it once more, when it starts"


def test_a_template_that_a_file_names_counts_and_a_new_one_too(agent: LocalAgent, tmp_path: Path) -> None:
    (tmp_path / "one.tmpl").write_text("one")
    agent.file.write_text(manifest(templated("one.tmpl")))
    agent.start("--watch")
    agent.until(agent.all_run, "web runs")
    written = agent.data_dir / "instances/default/shop/web.0/files/a.txt"
    assert written.read_text() == "one"
    write(tmp_path / "one.tmpl", "another")
    agent.until(lambda: written.read_text() == "another", "the template is written anew")
    (tmp_path / "two.tmpl").write_text("two")
    write(agent.file, manifest(templated("two.tmpl")))
    agent.until(lambda: written.read_text() == "two", "the other template is written")
    write(tmp_path / "two.tmpl", "last")
    agent.until(lambda: written.read_text() == "last", "the other template is watched")


def test_without_the_flag_nothing_is_read_again(agent: LocalAgent) -> None:
    agent.file.write_text(manifest(worker("web", FOREVER)))
    agent.start()
    agent.until(agent.all_run, "web runs")
    write(agent.file, manifest(worker("db", FOREVER)))
    assert agent.said("reload", "--dry-run").count("\n") >= 2, "the change is there to be read"
    assert "changed:" not in agent.log.read_text()


def test_an_agent_of_a_cluster_has_nothing_to_watch(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("masters: [http://127.0.0.1:1]\n")
    command = [sys.executable, "-m", "hsu_agent.commands", "run", "--config", str(config), "--watch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "leave out --watch" in done.stderr


# -- the watcher alone -----------------------------------------------------------------------------


def watched(path: Path, scenario: Callable[[list[float]], Awaitable[None]], known: Stamps | None = None) -> None:
    """Run the watcher on a file (or folder) beside a scenario, which gets the times at which it told of changes."""

    async def run() -> None:
        told: list[float] = []
        stamps = look([str(path)]) if known is None else known
        work = watch([path], stamps, lambda: told.append(time.monotonic()), poll_s=0.02, quiet_s=0.2)
        task = asyncio.ensure_future(work)
        try:
            await scenario(told)
        finally:
            task.cancel()

    asyncio.run(run())


def test_a_change_between_reading_and_watching_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(manifest(worker("web", FOREVER)))
    sources = Sources()
    sources.note(path)
    path.write_text(manifest(worker("web", FOREVER), worker("db", FOREVER)))
    sources.note(path)

    async def scenario(told: list[float]) -> None:
        await eventually(lambda: told)

    watched(path, scenario, sources.stamps)


def test_a_file_that_is_being_written_is_read_when_it_is_quiet(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("")

    async def scenario(told: list[float]) -> None:
        written_s: list[float] = []
        for number in range(30):
            path.write_text("# " + "x" * number)
            written_s.append(time.monotonic())
            await asyncio.sleep(0.03)
        await eventually(lambda: told and told[-1] > written_s[-1])
        pauses = sum(after - before >= 0.2 for before, after in pairwise(written_s))  # a machine under load makes them
        assert len(told) <= 1 + pauses
        assert told[-1] - written_s[-1] >= 0.2

    watched(path, scenario)


def test_a_file_that_goes_and_comes_back_is_a_change_each_time(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(manifest(worker("web", FOREVER)))

    async def scenario(told: list[float]) -> None:
        path.unlink()
        await eventually(lambda: len(told) == 1)
        path.write_text(manifest(worker("web", FOREVER)))
        await eventually(lambda: len(told) == 2)

    watched(path, scenario)


def test_a_folder_counts_by_its_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("app: a\n" + manifest(worker("web", FOREVER)).removeprefix("app: shop\n"))

    async def scenario(told: list[float]) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        (tmp_path / "b.yaml").write_text("app: b\n" + manifest(worker("web", FOREVER)).removeprefix("app: shop\n"))
        await eventually(lambda: len(told) == 1)
        (tmp_path / "b.yaml").write_text("app: c\n" + manifest(worker("web", FOREVER)).removeprefix("app: shop\n"))
        await eventually(lambda: len(told) == 2)

    watched(tmp_path, scenario)


def test_another_file_of_the_same_size_and_time_has_another_stamp(tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    path.write_text("1")
    other.write_text("2")
    os.utime(path, ns=(5, 5))
    os.utime(other, ns=(5, 5))
    before = stamp(str(path))
    os.replace(other, path)
    assert stamp(str(path)) != before
    assert stamp(str(tmp_path / "nothing")) == ()
