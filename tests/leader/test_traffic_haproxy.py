"""What is particular to HAProxy: other people's servers, sessions, a restart, and every reason to refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from hsu_cluster.leader.traffic.haproxy import COMMAND_TIMEOUT_S, HaproxyRouter
from hsu_cluster.leader.traffic.router import TrafficError
from hsu_core.model.routes import HaproxyProvider
from tests.leader.traffic_harness import Instance, route, running_cluster, running_load, stop_all
from tests.leader.traffic_rigs import endpoint, wish
from tests.support.builders import slot
from tests.support.haproxy import Haproxy
from tests.support.waiting import eventually


@pytest.fixture
def proxy() -> Iterator[Haproxy]:
    """Give a running HAProxy."""
    with Haproxy() as running:
        yield running


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine within a minute."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


def provider_of(proxy: Haproxy, backend: str = "shop", socket: str = "") -> HaproxyProvider:
    return HaproxyProvider((socket or proxy.socket_path,), backend)


def test_servers_that_are_not_of_the_route_are_left_alone(proxy: Haproxy) -> None:
    async def test() -> None:
        provider = provider_of(proxy)
        other = wish(provider, [endpoint(7)], name="admin")
        await HaproxyRouter(provider).apply(other, frozenset())
        proxy.ask("add server shop/hsu.somebody 127.0.0.1:9 weight 5")
        await HaproxyRouter(provider).apply(wish(provider, [endpoint(0)]), frozenset())
        await HaproxyRouter(provider).apply(wish(provider, []), frozenset())
        assert proxy.servers() == {
            "somebody-elses": ("127.0.0.1:9", 0, True),
            "hsu.default.shop.admin.web.7": ("127.0.0.1:20007", 100, True),
            "hsu.somebody": ("127.0.0.1:9", 5, False),
        }

    run(test)


def test_an_instance_at_a_request_is_busy_until_it_is_done_or_cut_off(proxy: Haproxy) -> None:
    async def test() -> None:
        one, other = Instance(0), Instance(1)
        await one.start()
        await other.start()
        provider = provider_of(proxy)
        router = HaproxyRouter(provider)
        both = [endpoint(0, one.port), endpoint(1, other.port)]
        await router.apply(wish(provider, both), frozenset())
        async with running_load(f"{proxy.url()}/slow", clients=4) as load:
            await eventually(lambda: one.at_slow and other.at_slow)
            assert await router.apply(wish(provider, []), frozenset()) == {slot("web", 0), slot("web", 1)}
            assert not any(is_ready for name, (_, _, is_ready) in proxy.servers().items() if name.startswith("hsu."))
            assert await router.apply(wish(provider, []), frozenset({slot("web", 1)})) == {slot("web", 0)}
            assert await router.apply(wish(provider, both[:1]), frozenset()) == {slot("web", 1)}, "0 came back"
            one.slow.set()
            other.slow.set()
            await load.more(20)
            assert not [text for text in load.failures if not text.startswith("503")]
            load.failures.clear()
        await router.apply(wish(provider, both[:1]), frozenset())
        assert sorted(proxy.servers()) == ["hsu.default.shop.web.web.0", "somebody-elses"]
        await one.stop()
        await other.stop()

    run(test)


def test_a_haproxy_that_was_restarted_is_filled_again(proxy: Haproxy) -> None:
    async def test() -> None:
        async with running_cluster() as cluster:
            await cluster.deploy(route(provider_of(proxy)))
            await cluster.run(0, 1)
            await cluster.joined(0, 1)
            proxy.kill()
            proxy.start()
            await eventually(lambda: len(proxy.servers()) == 3)
            assert all(is_ready for _, _, is_ready in proxy.servers().values())
            await stop_all(cluster)

    run(test)


def test_two_of_them_are_both_told_and_one_that_is_dead_does_not_keep_the_other_from_it(proxy: Haproxy) -> None:
    async def test() -> None:
        with Haproxy() as second:
            provider = HaproxyProvider((second.socket_path, proxy.socket_address), "shop")
            router = HaproxyRouter(provider)
            await router.apply(wish(provider, [endpoint(0)]), frozenset())
            assert len(proxy.servers()) == len(second.servers()) == 2
            second.kill()
            with pytest.raises(TrafficError, match="reach HAProxy"):
                await router.apply(wish(provider, [endpoint(0), endpoint(1)]), frozenset())
            assert len(proxy.servers()) == 3

    run(test)


@pytest.mark.parametrize(
    ("backend", "socket", "fix"),
    [
        ("shopp", "admin.sock", "add `backend shopp`"),
        ("static", "admin.sock", "balance roundrobin"),
        ("shop", "operator.sock", "level admin"),
        ("shop", "nothing.sock", "stats socket"),
    ],
)
def test_a_refusal_says_what_to_change(proxy: Haproxy, backend: str, socket: str, fix: str) -> None:
    async def test() -> None:
        provider = provider_of(proxy, backend, f"{proxy.folder}/{socket}")
        with pytest.raises(TrafficError) as caught:
            await HaproxyRouter(provider).apply(wish(provider, [endpoint(0)]), frozenset())
        assert fix in caught.value.fix, str(caught.value)

    run(test)


def test_a_hung_one_is_given_up_in_bounded_time(proxy: Haproxy) -> None:
    async def test() -> None:
        provider = provider_of(proxy)
        proxy.pause()
        started_s = time.monotonic()
        with pytest.raises(TrafficError, match="did not answer within 3 s"):
            await HaproxyRouter(provider).apply(wish(provider, [endpoint(0)]), frozenset())
        assert time.monotonic() - started_s < 2 * COMMAND_TIMEOUT_S
        proxy.resume()

    run(test)


def test_a_node_whose_address_is_unknown_does_not_keep_the_others_out(proxy: Haproxy) -> None:
    async def test() -> None:
        provider = provider_of(proxy)
        lost = replace(endpoint(0), host="no-such-host.invalid")
        with pytest.raises(TrafficError, match="address of no-such-host") as caught:
            await HaproxyRouter(provider).apply(wish(provider, [lost, endpoint(1)]), frozenset())
        assert "agent" in caught.value.fix
        assert "hsu.default.shop.web.web.1" in proxy.servers()

    run(test)


def test_names_are_resolved_before_haproxy_sees_them(proxy: Haproxy) -> None:
    async def test() -> None:
        provider = provider_of(proxy)
        named = replace(endpoint(0), host="localhost")
        await HaproxyRouter(provider).apply(wish(provider, [named]), frozenset())
        address, _, is_ready = proxy.servers()["hsu.default.shop.web.web.0"]
        assert address in ("127.0.0.1:20000", "::1:20000")
        assert is_ready

    run(test)
