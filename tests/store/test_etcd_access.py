"""Who may talk to etcd: passwords, tokens that expire, TLS, and servers without a gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from hsu_core.model.errors import Forbidden, NotSupported, StoreUnavailable, Unauthorized
from hsu_core.store.etcd import EtcdStore
from tests.store.conftest import OLDEST_AND_NEWEST
from tests.support.etcd import EtcdCluster, EtcdProcess, EtcdTls, find_etcd_binaries
from tests.support.stores import next_events, revision_of

pytestmark = pytest.mark.etcd

VERSIONS = [name.partition("-")[2] for name in OLDEST_AND_NEWEST]
TOKEN_TTL_S = 1


@pytest.fixture(params=VERSIONS)
def guarded(request: pytest.FixtureRequest) -> Iterator[EtcdProcess]:
    """A server with authentication: `root`/`toor`, and `hsu`/`secret` that may use /hsu/ only."""
    path = next((binary.path for binary in find_etcd_binaries() if binary.version == request.param), None)
    with EtcdCluster(path, flags=("--auth-token-ttl", str(TOKEN_TTL_S), "--bcrypt-cost", "4")) as cluster:
        enable_authentication(cluster.members[0])
        yield cluster.members[0]


def enable_authentication(member: EtcdProcess, context: ssl.SSLContext | None = None) -> None:
    """Make the users and turn authentication on, without any of our own code."""
    key, end = (base64.b64encode(text).decode() for text in (b"/hsu/", b"/hsu0"))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("user/add", {"name": "root", "password": "toor"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "hsu", "password": "secret"}),
        ("role/add", {"name": "ours"}),
        ("role/grant", {"name": "ours", "perm": {"permType": "READWRITE", "key": key, "range_end": end}}),
        ("user/grant", {"user": "hsu", "role": "ours"}),
        ("enable", {}),
    ]
    for call, body in calls:
        request = urllib.request.Request(f"{member.endpoint}/v3/auth/{call}", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            answer.read()


async def test_a_user_does_what_its_role_allows_and_nothing_else(guarded: EtcdProcess) -> None:
    store = await EtcdStore.connect([guarded.endpoint], username="hsu", password="secret")
    try:
        start = await store.put("/hsu/a", b"1") - 1
        async with store.watch("/hsu/", after_revision=start) as watch:
            assert [event.entry.key for event in await next_events(watch, 1)] == ["/hsu/a"]
        lease = await store.grant(10)
        assert await store.renew(lease.id) > 0
        with pytest.raises(Forbidden):
            await store.get("/other")
        with pytest.raises(Forbidden):
            await store.put("/other", b"")
        with pytest.raises(Forbidden):
            async with store.watch("/other", after_revision=start) as watch:
                await next_events(watch, 1)
    finally:
        await store.close()


async def test_a_wrong_password_is_told_at_once(guarded: EtcdProcess) -> None:
    with pytest.raises(Unauthorized):
        await EtcdStore.connect([guarded.endpoint], username="hsu", password="wrong")


async def test_without_a_password_calls_are_refused(guarded: EtcdProcess) -> None:
    async def read() -> None:
        store = await EtcdStore.connect([guarded.endpoint])
        try:
            await store.get("/hsu/a")
        finally:
            await store.close()

    with pytest.raises(Unauthorized):
        await read()


async def test_an_expired_token_is_renewed_by_calls_and_by_watches(guarded: EtcdProcess) -> None:
    store = await EtcdStore.connect([guarded.endpoint], username="hsu", password="secret")
    try:
        start = await store.put("/hsu/a", b"1")
        await let_token_expire()
        await asyncio.gather(*(store.put(f"/hsu/b{number}", b"2") for number in range(5)))
        await let_token_expire()
        async with store.watch("/hsu/", after_revision=start) as watch:
            await next_events(watch, 5)
            revision = await store.put("/hsu/c", b"3")
            assert [event.entry.mod_revision for event in await next_events(watch, 1)] == [revision]
    finally:
        await store.close()


async def test_a_restart_that_forgets_every_token_is_survived(guarded: EtcdProcess) -> None:
    store = await EtcdStore.connect([guarded.endpoint], username="hsu", password="secret")
    try:
        start = await store.put("/hsu/a", b"1")
        async with store.watch("/hsu/", after_revision=start - 1) as watch:
            await next_events(watch, 1)
            guarded.kill()
            await asyncio.to_thread(guarded.restart)
            (event,) = await next_events_after(store, watch)
            assert event == ("/hsu/b", b"2")
    finally:
        await store.close()


async def next_events_after(store: EtcdStore, watch: Any) -> list[tuple[str, bytes]]:
    """Write once while the watch is being read, and return what it saw."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(next_events(watch, 1))
        await store.put("/hsu/b", b"2", timeout_s=30)
    return [(event.entry.key, event.entry.value) for event in reading.result()]


async def let_token_expire() -> None:
    """Let the time pass that this is about; the server looks for expired tokens once a second."""
    await asyncio.sleep(TOKEN_TTL_S + 1.2)


async def test_a_user_name_without_authentication_works_with_a_warning() -> None:
    with EtcdCluster() as cluster:
        store = await EtcdStore.connect(cluster.endpoints, username="hsu", password="secret")
        try:
            await store.put("/hsu/a", b"1")
            assert any("authentication is off" in warning for warning in (await store.status()).warnings)
        finally:
            await store.close()


@pytest.fixture
def ca() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


def server_tls(ca: trustme.CA, folder: Path, *, is_client_cert_required: bool = False) -> EtcdTls:
    """Return the files of a server on the loopback address."""
    issued = ca.issue_cert("127.0.0.1")
    tls = EtcdTls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", is_client_cert_required)
    ca.cert_pem.write_to_path(tls.ca_file)
    issued.cert_chain_pems[0].write_to_path(tls.cert_file)
    issued.private_key_pem.write_to_path(tls.key_file)
    return tls


def client_context(ca: trustme.CA) -> ssl.SSLContext:
    """Return a context that trusts the authority."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def test_tls_with_a_trusted_server(ca: trustme.CA, tmp_path: Path) -> None:
    with EtcdCluster(tls=server_tls(ca, tmp_path)) as cluster:
        store = await EtcdStore.connect(cluster.endpoints, ssl_context=client_context(ca))
        try:
            start = await revision_of(store)
            async with store.watch("/", after_revision=start) as watch:
                await store.put("/a", b"1")
                assert len(await next_events(watch, 1)) == 1
        finally:
            await store.close()
        with pytest.raises(StoreUnavailable, match="certificate"):
            await EtcdStore.connect(cluster.endpoints, timeout_s=0.5)


async def test_client_certificates_work_unless_they_carry_a_common_name(ca: trustme.CA, tmp_path: Path) -> None:
    tls = server_tls(ca, tmp_path, is_client_cert_required=True)
    with EtcdCluster(tls=tls, flags=("--bcrypt-cost", "4")) as cluster:
        context = client_context(ca)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        enable_authentication(cluster.members[0], context)
        context = client_context(ca)
        ca.issue_cert("master.example").configure_cert(context)
        store = await EtcdStore.connect(cluster.endpoints, username="hsu", password="secret", ssl_context=context)
        assert await store.put("/hsu/a", b"1") > 0
        await store.close()
        context = client_context(ca)
        ca.issue_cert("master.example", common_name="master").configure_cert(context)
        with pytest.raises(Unauthorized, match="CommonName"):
            await EtcdStore.connect(cluster.endpoints, username="hsu", password="secret", ssl_context=context)


async def test_a_server_without_its_gateway_is_told_apart() -> None:
    with EtcdCluster(flags=("--enable-grpc-gateway=false",)) as cluster:
        with pytest.raises(NotSupported, match="JSON gateway"):
            await EtcdStore.connect(cluster.endpoints)


async def test_no_server_at_all_is_told_within_the_deadline() -> None:
    with pytest.raises(StoreUnavailable, match="majority"):
        await EtcdStore.connect(["http://127.0.0.1:1"], timeout_s=0.5)
