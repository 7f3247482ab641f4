"""Fixtures of the store tests: every backend behind one `open`, and real etcd servers.

Coroutine tests run in an event loop of their own; a test that leaves a task behind fails.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsu_core.store.base import Store
from hsu_core.store.etcd import EtcdStore
from hsu_core.store.memory import MemoryStore
from hsu_core.store.sqlite import SqliteStore
from tests.support.etcd import EtcdBinary, EtcdCluster, find_etcd_binaries, missing_etcd

_NUMBERS = itertools.count()
BACKENDS = ["memory", "sqlite", *(f"etcd-{binary.version}" for binary in find_etcd_binaries())]
if len(BACKENDS) == 2:
    BACKENDS.append("etcd")

OLDEST_AND_NEWEST = list(dict.fromkeys((BACKENDS[2], BACKENDS[-1])))
"""The etcd backends for tests that take seconds each."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in a fresh event loop; no task may outlive it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def run() -> None:
        await pyfuncitem.obj(**wanted)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"

    asyncio.run(run(), debug=False)
    return True


@dataclass(frozen=True)
class Backend:
    """A backend under test. `prefix` belongs to the test alone."""

    name: str
    prefix: str
    connect: Callable[[], object]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """Give a store for the time of the context."""
        store: Store = await self.connect()  # type: ignore[misc]
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(scope="session")
def etcd_servers() -> Iterator[Callable[[str], EtcdCluster]]:
    """One single-member server per version and test process, started when first asked for."""
    running: dict[str, EtcdCluster] = {}

    def server(version: str) -> EtcdCluster:
        if version not in running:
            running[version] = EtcdCluster(binary_of(version).path)
            running[version].start()
        return running[version]

    yield server
    for cluster in running.values():
        cluster.stop()


def binary_of(version: str) -> EtcdBinary:
    """Return the etcd of that version, or skip (fail in CI)."""
    for binary in find_etcd_binaries():
        if binary.version == version:
            return binary
    missing_etcd(version or "any version")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, etcd_servers: Callable[[str], EtcdCluster]) -> Backend:
    """Each backend in turn."""
    return make_backend(request.param, tmp_path, etcd_servers)


@pytest.fixture(params=[*BACKENDS[:2], *OLDEST_AND_NEWEST])
def slow_backend(request: pytest.FixtureRequest, tmp_path: Path, etcd_servers: Callable[[str], EtcdCluster]) -> Backend:
    """Each backend in turn, but only two versions of etcd."""
    return make_backend(request.param, tmp_path, etcd_servers)


def make_backend(name: str, tmp_path: Path, etcd_servers: Callable[[str], EtcdCluster]) -> Backend:
    """Return a backend by its name."""
    prefix = f"/test{next(_NUMBERS)}/"

    async def connect() -> Store:
        if name == "memory":
            return MemoryStore()
        if name == "sqlite":
            return await SqliteStore.open(tmp_path / "store.db")
        return await EtcdStore.connect(cluster.endpoints)

    if name.startswith("etcd"):
        cluster = etcd_servers(name.partition("-")[2])
    return Backend(name, prefix, connect)
