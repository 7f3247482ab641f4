"""What only the SQLite store promises: durability, one process per file, recovery, small slices."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsu_core.model.errors import LeaseLost, StoreInUse, StoreUnavailable
from hsu_core.store.base import range_all
from hsu_core.store.sqlite import SWEEP_VERSIONS, SqliteStore
from tests.support.etcd import ROOT
from tests.support.stores import contents, eventually

WRITER = """
import asyncio, sys
from hsu_core.store.sqlite import SqliteStore

async def write(store, worker):
    number = 0
    while True:
        key = f"/{worker}/{number:06}"
        await store.put(key, b"x" * 100)
        print(key, flush=True)
        number += 1

async def main():
    store = await SqliteStore.open(sys.argv[1], history_revisions=200)
    async with asyncio.TaskGroup() as group:
        for worker in range(int(sys.argv[2]), int(sys.argv[2]) + 8):
            group.create_task(write(store, worker))

asyncio.run(main())
"""

LIMITED_WRITER = """
import asyncio, resource, sys
from hsu_core.model.errors import OutcomeUnknown, StoreUnavailable
from hsu_core.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    outcome = {}
    failures_in_a_row = number = 0
    while failures_in_a_row < 3:
        key = f"/{number:04}"
        number += 1
        try:
            await store.put(key, bytes(20_000))
            outcome[key], failures_in_a_row = "stored", 0
        except (OutcomeUnknown, StoreUnavailable) as error:
            print(error)
            outcome[key] = type(error).__name__
            failures_in_a_row += 1
    assert await store.get("/0000") is not None, "reads go on"
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for _ in range(2):
        try:
            await store.put("/after", b"room again")
            break
        except StoreUnavailable as error:
            print(error)
    await store.close()
    store = await SqliteStore.open(sys.argv[1])
    assert (await store.get("/after")).value == b"room again"
    for key, result in outcome.items():
        entry = await store.get(key)
        assert result != "stored" or entry.value == bytes(20_000), key
        assert result != "StoreUnavailable" or entry is None, key
    await store.close()
    print("recovered")

asyncio.run(main())
"""

FAILING_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) { return access(getenv("FAIL_SYNC_IF"), F_OK) == 0; }
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""

SYNC_WRITER = """
import asyncio, os, pathlib, sys
from hsu_core.model.errors import OutcomeUnknown, StoreUnavailable
from hsu_core.store.sqlite import SqliteStore

async def main():
    switch = pathlib.Path(os.environ["FAIL_SYNC_IF"])
    store = await SqliteStore.open(sys.argv[1])
    await store.put("/before", b"1")
    switch.touch()
    for number in range(3):
        try:
            await store.put(f"/failed{number}", b"2")
            raise SystemExit("nothing was synced and yet it was acknowledged")
        except (OutcomeUnknown, StoreUnavailable) as error:
            print(type(error).__name__, error)
    switch.unlink()
    for _ in range(2):
        try:
            await store.put("/after", b"3")
            break
        except StoreUnavailable as error:
            print(error)
    keys = ("/before", "/failed0", "/failed1", "/failed2", "/after")
    seen = {key: (await store.get(key)) is not None for key in keys}
    await store.close()
    store = await SqliteStore.open(sys.argv[1])
    again = {key: (await store.get(key)) is not None for key in seen}
    assert seen == again, (seen, again)
    assert seen["/before"] and seen["/after"], seen
    await store.close()
    print("recovered")

asyncio.run(main())
"""


def run_script(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script that imports the product, to its end."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def script_running(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script in the background; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_no_acknowledged_write_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: list[str] = []
    for round_number in range(3):
        with script_running(WRITER, path, str(round_number * 8)) as writer:
            assert writer.stdout is not None
            for _ in range(random.randint(100, 700)):
                acknowledged.append(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        store = await SqliteStore.open(path, history_revisions=200)
        stored = await contents(store, "/")
        assert set(acknowledged) <= stored.keys()
        assert set(stored.values()) == {b"x" * 100}
        revision = await store.put("/revision", b"x" * 100)
        assert revision > len(stored)
        await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with script_running(WRITER, path, "0") as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(StoreInUse, match=f"process {writer.pid} has it open") as caught:
            await SqliteStore.open(path)
        assert caught.value.fix
    store = await SqliteStore.open(path)
    with pytest.raises(StoreInUse):
        await SqliteStore.open(path)
    await store.close()


async def test_many_callers_share_one_sync(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(store.put(f"/{number}", b"x"))
    await store.close()
    connection = sqlite3.connect(path)
    (writes,) = connection.execute("SELECT sequence FROM numbers").fetchone()
    connection.close()
    assert writes <= 10


async def test_identity_revisions_and_history_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    first = await store.put("/a", b"1")
    second = await store.put("/a", b"2")
    await store.delete("/a")
    identity = (await store.status()).cluster_id
    await store.close()
    store = await SqliteStore.open(path)
    assert (await store.status()).cluster_id == identity
    assert await store.put("/b", b"") == second + 2
    assert [entry.value for entry in (await store.range("/a", revision=second)).entries] == [b"2"]
    async with store.watch("/a", after_revision=first) as watch:
        batch = await anext(watch)
        assert [event.is_delete for event in getattr(batch, "events", ())] == [False, True]
    await store.close()


async def test_leases_survive_a_restart_with_their_full_ttl(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    clock = [1000.0]
    store = await SqliteStore.open(path, monotonic=lambda: clock[0])
    lease = await store.grant(10)
    await store.put("/a", b"1", lease=lease.id)
    clock[0] += 9
    await store.close()
    clock[0] = 5.0
    store = await SqliteStore.open(path, monotonic=lambda: clock[0])
    clock[0] += 9
    store.expire_leases()
    assert await store.renew(lease.id) == 10
    clock[0] += 11
    with pytest.raises(LeaseLost):
        await store.renew(lease.id)
    store.expire_leases()

    async def is_gone() -> bool:
        return await store.get("/a") is None

    await eventually(is_gone, "the end of the lease's key")
    await store.close()
    store = await SqliteStore.open(path)
    with pytest.raises(LeaseLost):
        await store.renew(lease.id)
    await store.close()


async def test_history_is_bounded_and_compaction_under_load_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    keys, kept = 20, 100
    store = await SqliteStore.open(path, history_revisions=kept)

    async def write(worker: int) -> None:
        for number in range(200):
            await store.put(f"/{worker:02}", str(number).encode())
            if number % 50 == 49:
                await store.compact((await store.txn([], [])).revision)

    async with asyncio.TaskGroup() as group:
        for worker in range(keys):
            group.create_task(write(worker))
    expected = {f"/{worker:02}": b"199" for worker in range(keys)}
    assert await contents(store, "/") == expected
    await store.close()
    connection = sqlite3.connect(path)
    (rows,) = connection.execute("SELECT count(*) FROM history").fetchone()
    connection.close()
    assert rows <= keys + kept + SWEEP_VERSIONS
    store = await SqliteStore.open(path, history_revisions=kept)
    assert await contents(store, "/") == expected
    assert len((await range_all(store, "/")).entries) == keys
    await store.close()


async def test_a_full_disk_refuses_writes_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    done = run_script(LIMITED_WRITER, tmp_path / "store.db")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("recovered\n")
    assert "cannot write to the store" in done.stdout


async def test_a_failed_sync_is_never_acknowledged(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a failing fsync with")
    source = tmp_path / "sync.c"
    source.write_text(FAILING_SYNC)
    library = tmp_path / "sync.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    done = run_script(
        SYNC_WRITER, tmp_path / "store.db", LD_PRELOAD=str(library), FAIL_SYNC_IF=str(tmp_path / "switch")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("recovered\n")


async def test_a_file_that_is_no_store_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is not a database, it only looks like a file" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="No such file"):
        await SqliteStore.open(tmp_path / "missing" / "store.db")


async def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await SqliteStore.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema is 99"):
        await SqliteStore.open(path)


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await SqliteStore.open(path)).close()
    assert path.stat().st_mode & 0o077 == 0
