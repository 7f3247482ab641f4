"""Composition root of the master: opens the store, joins API and leader, and runs them until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import ssl
import time
from dataclasses import replace
from importlib import metadata

from yarl import URL

from hsu_cluster.api.auth import ensure_tokens
from hsu_cluster.api.events import trim_events
from hsu_cluster.api.server import create_app, refuse_open_listen, serve
from hsu_cluster.leader.metrics import leader_registry
from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_core.model.errors import InvalidSettings, StoreError
from hsu_core.model.records import ClusterRecord, MasterAdvert
from hsu_core.runtime.files import private_folder, write_atomically
from hsu_core.runtime.settings import EtcdStoreSettings, Listen, MasterSettings
from hsu_core.runtime.tasks import keep_running
from hsu_core.store.base import Compare, Put, Store, Target
from hsu_core.store.etcd import EtcdStore
from hsu_core.store.sqlite import SqliteStore
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode

log = logging.getLogger(__name__)

VERSION = metadata.version("hsu-cluster")

ADVERT_TTL_S = 15.0
"""Lease of a master's own advert: how long a dead master is still listed."""

ENDPOINT_FILE = "endpoint"
"""File in the data folder that names the URL of the running master; the command line looks there."""


async def open_store(settings: MasterSettings) -> Store:
    """Open the store that the settings name. Raises StoreError."""
    if not isinstance(settings.store, EtcdStoreSettings):
        private_folder(settings.store.path.parent)
        embedded = await SqliteStore.open(settings.store.path)
        # We hold the file alone, so whoever held this key is dead: no need to wait for its lease.
        await embedded.delete(keys.LEADER)
        return embedded
    etcd = settings.store
    try:
        context, password = _etcd_credentials(etcd)
    except (OSError, ssl.SSLError) as error:
        named = [str(file) for file in (etcd.ca_file, etcd.cert_file, etcd.key_file, etcd.password_file) if file]
        raise InvalidSettings(
            "use the files of store.etcd",
            f"{error.strerror or error} (named are {', '.join(named) or 'none'})",
            "give files that exist and that this user may read",
            code="settings.store",
        ) from error
    return await EtcdStore.connect(
        list(etcd.endpoints), username=etcd.username or None, password=password, ssl_context=context
    )


def _etcd_credentials(etcd: EtcdStoreSettings) -> tuple[ssl.SSLContext | None, str | None]:
    """Return the TLS context and the password that the settings name. Raises OSError, ssl.SSLError."""
    context: ssl.SSLContext | None = None
    if any(url.startswith("https:") for url in etcd.endpoints):
        context = ssl.create_default_context(cafile=str(etcd.ca_file) if etcd.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if etcd.cert_file is not None and etcd.key_file is not None:
            context.load_cert_chain(etcd.cert_file, etcd.key_file)
    return context, etcd.password_file.read_text().strip() if etcd.password_file else None


async def ensure_cluster(store: Store, now_s: float) -> ClusterRecord:
    """Return the cluster's identity; the first master makes it."""
    record = ClusterRecord(secrets.token_hex(8), now_s)
    answer = await store.txn([Compare(keys.CLUSTER, Target.VERSION, 0)], [Put(keys.CLUSTER, encode(record))])
    if answer.succeeded:
        return record
    entry = await store.get(keys.CLUSTER)
    if entry is None:
        raise StoreError("read the cluster's identity", "it vanished", "start the master again")
    return decode(ClusterRecord, entry.value)


async def run_master(
    settings: MasterSettings, *, stop: asyncio.Event | None = None, ready: asyncio.Future[str] | None = None
) -> int:
    """Run a master until `stop` is set (or SIGTERM, SIGINT when none is given); return the exit code.

    `ready` gets the URL of the API once it listens.
    """
    refuse_open_listen(settings)
    try:
        private_folder(settings.data_dir)
    except OSError as error:
        raise InvalidSettings(
            f"use data folder {settings.data_dir}",
            error.strerror or str(error),
            "give one that this user may write to (`data_dir`, --data-dir)",
            code="settings.data-dir",
        ) from error
    stop = stop or stop_on_signals()
    bound = bind(settings.listen)
    settings = with_actual_port(settings, bound)
    store = await open_store(settings)
    try:
        await _serve(settings, store, bound, stop, ready)
    finally:
        await store.close()
    return 0


async def _serve(
    settings: MasterSettings,
    store: Store,
    bound: socket.socket,
    stop: asyncio.Event,
    ready: asyncio.Future[str] | None,
) -> None:
    status = await store.status()
    for warning in status.warnings:
        log.warning("store: %s", warning)
    await ensure_cluster(store, time.time())
    await ensure_tokens(store, settings.admin_token_file, settings.node_token_file)
    advert = MasterAdvert(settings.name, settings.advertise, VERSION, time.time())
    leader = LeaderService(
        store,
        advert,
        LeaderTimes(settings.nodes, settings.leader_ttl_s),
        chores=lambda: trim_events(store),
        can_execute=settings.allow_exec_analysis,
        allow_templates=settings.allow_templates,
        rebalance=settings.rebalance,
    )
    app = create_app(store, settings, leader, registry=leader_registry(leader))
    runner = await serve(app, settings, bound)
    log.info("listening on %s", settings.advertise, extra={"store": status.backend, "version": VERSION})
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(leader.run(), name="leader"),
                group.create_task(
                    keep_running("advertise this master", lambda: _advertise(store, advert), expected=(StoreError,)),
                    name="advertise",
                ),
            ]
            write_atomically(settings.data_dir / ENDPOINT_FILE, f"{settings.advertise}\n".encode(), mode=0o644)
            if ready is not None:
                ready.set_result(settings.advertise)
            await stop.wait()
            log.info("stopping")
            await leader.hand_over()  # first: another master leads while this one ends its sessions and its server
            for task in tasks:
                task.cancel()
    finally:
        await runner.cleanup()


async def _advertise(store: Store, advert: MasterAdvert) -> None:
    """Keep this master's advert in the store until cancelled. Raises StoreError (LeaseLost: begin again)."""
    lease = await store.grant(ADVERT_TTL_S)
    try:
        await store.put(keys.master(advert.name), encode(advert), lease=lease.id)
        while True:
            await asyncio.sleep(lease.ttl_s / 3)
            await store.renew(lease.id)
    finally:
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(1.0):
                await store.revoke(lease.id)


def bind(listen: Listen) -> socket.socket:
    """Return a bound socket, so that a taken port ends the start before anything else is touched."""
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=1024)
    except OSError as error:
        raise InvalidSettings(
            f"listen on {listen}",
            error.strerror or str(error),
            "is another master running? choose another `listen` address",
            code="settings.listen",
        ) from error


def with_actual_port(settings: MasterSettings, bound: socket.socket) -> MasterSettings:
    """Return the settings with the port that the system picked, where `listen` has port 0."""
    port = bound.getsockname()[1]
    if settings.listen.port == port:
        return settings
    advertise = URL(settings.advertise)
    if advertise.port in (0, None) or advertise.explicit_port is None:
        advertise = advertise.with_port(port)
    return replace(settings, listen=Listen(settings.listen.host, port), advertise=str(advertise).rstrip("/"))


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
