"""The ledger: what it remembers, and what damage does to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsu_agent import adopt
from hsu_agent.data_dir import DataDirLock, LedgerUnreadable
from hsu_agent.host.base import Found
from hsu_agent.ledger import Ledger, Run
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import Conflict
from hsu_core.model.lifecycle import State
from hsu_core.wire.codec import to_plain
from tests.agent.harness import instance, order

PROCESS = Process(4321, 99, "boot-1", "run-1", 1000.0)


def fill(ledger: Ledger, slots: int = 3) -> None:
    """Write orders and running processes."""
    ledger.set_leader("cluster-1", 7)
    for slot in range(slots):
        assignment, spec = order("sleep", "1000", slot=slot, epoch=slot + 1)
        wanted = Desired(assignment, spec)
        ledger.put_order(wanted, spec.key, to_plain(spec) | {"from_a_newer_release": [1, 2]})
        ledger.put_intent(Run(instance(slot=slot), f"run-{slot}", wanted, spec.key, restarts=slot))
        ledger.put_process(instance(slot=slot), PROCESS)


def test_orders_processes_and_leader_come_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger)
    ledger.drop_order(instance(slot=1))
    ledger.put_end(instance(slot=2), "failed", LastExit(3, at=5.0), 4)
    ledger.forget(instance(slot=1))
    ledger.close()
    again = Ledger(tmp_path)
    found = again.remembered()
    assert (again.incarnation, again.term, again.agent) == ("cluster-1", 7, ledger.agent)
    assert {which.slot: wanted.assignment.epoch for which, wanted in found.orders.items()} == {0: 1, 2: 3}
    assert set(found.runs) == {instance(slot=0), instance(slot=2)}
    assert found.runs[instance(slot=0)].process == PROCESS
    ended = found.runs[instance(slot=2)]
    assert (ended.state, ended.failures, ended.last_exit, ended.restarts) == ("failed", 4, LastExit(3, at=5.0), 2)


def test_fields_of_a_newer_release_survive(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger)
    ledger.close()
    for _ in range(2):
        ledger = Ledger(tmp_path)
        ledger.close()
    tree = ledger.spec_tree("default/shop/web@1")
    assert tree is not None
    assert tree["from_a_newer_release"] == [1, 2]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder where a sync costs nothing, if this host has one."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hsu-test-", dir=shared)) if os.access(shared, os.W_OK) else tmp_path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_ledger_torn_at_any_byte_is_read_as_far_as_it_is_whole(tmp_path: Path, memory: Path) -> None:
    ledger = Ledger(tmp_path / "whole")
    fill(ledger, 1)
    ledger.close()
    content = (tmp_path / "whole/ledger/journal.jsonl").read_bytes()
    counts = []
    for length in range(len(content) + 1):
        folder = memory / "torn"
        (folder / "ledger").mkdir(parents=True)
        (folder / "ledger/agent-id").write_text("me")
        (folder / "ledger/journal.jsonl").write_bytes(content[:length])
        torn = Ledger(folder)
        found = torn.remembered()
        counts.append((len(found.orders), len(found.runs)))
        for which in found.runs:
            torn.put_process(which, PROCESS)
        torn.close()
        if length % 10 == 0:
            again = Ledger(folder).remembered()
            assert (len(again.orders), len(again.runs)) == counts[-1]
        shutil.rmtree(folder)
    assert counts == sorted(counts)
    assert counts[0] == (0, 0)
    assert counts[-1] == (1, 1)


@pytest.mark.parametrize(
    "content",
    [b"\x00" * 500, b"[]\n1\nnull\n", b'{"t":"order","key":"x"}\n', b'{"t":"run","key":5}\n', b"\xff\xfe\n" * 9],
)
def test_rubbish_in_the_ledger_is_skipped(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/journal.jsonl").write_bytes(content)
    ledger = Ledger(tmp_path)
    assert ledger.remembered().orders == {}
    fill(ledger)
    ledger.close()
    assert len(Ledger(tmp_path).remembered().orders) == 3


def test_the_file_stays_small_over_many_starts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assignment, spec = order("sleep", "1000")
    wanted = Desired(assignment, spec)
    ledger.put_order(wanted, spec.key, to_plain(spec))
    for number in range(8000):
        ledger.put_intent(Run(instance(), f"run-{number}", wanted, spec.key))
        ledger.put_process(instance(), PROCESS)
    assert (tmp_path / "ledger/journal.jsonl").stat().st_size < 1_300_000
    ledger.close()
    assert Ledger(tmp_path).remembered().runs[instance()].run == "run-7999"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system of its own")
def test_a_full_disk_is_survived_and_made_good_afterwards(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        ledger = Ledger(disk)
        fill(ledger, 1)
        ballast = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(ballast, b"x" * 4096):
                pass
        for slot in range(40):
            assignment, spec = order("sleep", "1000", slot=slot)
            ledger.put_order(Desired(assignment, spec), spec.key, to_plain(spec))
        assert ledger.is_behind
        os.ftruncate(ballast, 0)
        os.close(ballast)
        ledger._retry_at_s = 0.0
        ledger.flush()
        assert not ledger.is_behind
        ledger.close()
        assert len(Ledger(disk).remembered().orders) == 40
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_second_user_of_the_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = DataDirLock(tmp_path)
    with pytest.raises(Conflict, match=f"another agent \\(pid {os.getpid()}\\) holds it"):
        DataDirLock(tmp_path)
    lock.release()
    DataDirLock(tmp_path).release()


# -- what a new agent makes of it -----------------------------------------------------------------


def remembered_run(process: Process | None, state: str = "") -> Run:
    """Return a start that the ledger remembers."""
    assignment, spec = order("sleep", "1000")
    return Run(instance(), "run-1", Desired(assignment, spec), spec.key, process=process, state=state)


def take(run: Run | None, *found: Found) -> adopt.Taken:
    """Return what is taken over on boot-1."""
    remembered = adopt.Remembered(runs={run.instance: run} if run else {})
    return adopt.take_over(remembered, found, "boot-1")


def test_a_written_process_is_watched_again() -> None:
    assert take(remembered_run(PROCESS)).processes == {instance(): PROCESS}


def test_a_start_that_was_only_intended_is_recognised_by_its_run_number() -> None:
    leader = Found(instance(), PROCESS, is_leader=True)
    child = Found(instance(), Process(4322, 100, "boot-1", "run-1"), is_leader=True)
    assert take(remembered_run(None), leader, child).processes == {instance(): PROCESS}


def test_an_intended_start_that_never_came_leaves_nothing_to_watch_but_a_tree_to_prove_empty() -> None:
    taken = take(remembered_run(None))
    assert taken.processes == {}
    assert taken.observed[instance()].state is State.REGISTERED
    assert not taken.observed[instance()].is_tree_empty


def test_a_process_of_another_boot_is_gone_and_its_number_is_nobodys() -> None:
    taken = take(remembered_run(Process(4321, 99, "boot-0", "run-1")))
    assert taken.processes == {}
    assert taken.observed[instance()].is_tree_empty
    assert taken.observed[instance()].reason == "ended when the host was restarted"


def test_a_marked_process_that_is_not_in_the_ledger_is_left_alone_and_adopted_if_ordered() -> None:
    leader = Found(instance(), PROCESS, is_leader=True)
    child = Found(instance(), Process(4322, 100, "boot-1", "run-1"), is_leader=True)
    taken = take(None, leader, child)
    assert taken.processes == {}
    assert taken.strays == {instance(): (leader, child)}
    assert not taken.observed[instance()].is_tree_empty
    wanted = Desired(*order("sleep", "1000"))
    adopted = adopt.adopt_stray(instance(), wanted, (leader, child))
    assert adopted is not None
    assert (adopted[0].order, adopted[1]) == (wanted, PROCESS)
    other = Found(instance(), Process(4323, 101, "boot-1", "run-2"), is_leader=True)
    assert adopt.adopt_stray(instance(), wanted, (leader, other)) is None


def test_an_instance_of_which_a_record_cannot_be_read_is_left_alone() -> None:
    run = remembered_run(PROCESS)
    taken = adopt.take_over(adopt.Remembered(runs={run.instance: run}, unreadable={instance(slot=1)}), (), "boot-1")
    assert taken.processes == {instance(): PROCESS}
    assert taken.strays == {instance(slot=1): ()}
    assert not taken.observed[instance(slot=1)].is_tree_empty


def test_a_specification_of_a_newer_release_leaves_out_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger, 2)
    assignment, spec = order("sleep", "1000", worker="new")
    newer = to_plain(spec) | {"worker": to_plain(spec)["worker"] | {"restart": {"policy": "of a newer release"}}}
    ledger.put_order(Desired(assignment, spec), "new", newer)
    ledger.close()
    for _ in range(2):
        again = Ledger(tmp_path)
        found = again.remembered()
        assert set(found.orders) == set(found.runs) == {instance(slot=0), instance(slot=1)}
        assert found.unreadable == {instance("new")}
        again.close()
    assert b"of a newer release" in again.path.read_bytes()


def test_a_ledger_that_cannot_be_read_is_neither_taken_for_empty_nor_overwritten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger)
    ledger.close()
    kept = ledger.path.rename(tmp_path / "kept")
    ledger.path.symlink_to(ledger.path)  # read as root too: too many levels of links
    with pytest.raises(LedgerUnreadable, match="workers run on"):
        Ledger(tmp_path)
    kept.replace(ledger.path)
    assert len(Ledger(tmp_path).remembered().runs) == 3
    identity = tmp_path / "ledger/agent-id"
    identity.rename(kept)
    identity.mkdir()
    with pytest.raises(LedgerUnreadable, match="agent-id"):
        Ledger(tmp_path)


@pytest.mark.parametrize(("text", "has_finished"), [("failed", True), ("stopped", True), ("restarting", False)])
def test_an_end_comes_back_as_it_was(text: str, has_finished: bool) -> None:
    observed = take(remembered_run(PROCESS, text)).observed[instance()]
    assert (str(observed.state), observed.has_finished, observed.is_alive) == (text, has_finished, False)
