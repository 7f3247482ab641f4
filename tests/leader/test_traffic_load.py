"""Under a steady load through a real HAProxy nothing is lost: instances come, drain, go, and weights shift."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from hsu_core.model.lifecycle import State
from hsu_core.model.routes import HaproxyProvider
from tests.leader.traffic_harness import Cluster, Load, route, running_cluster, running_load, stop_all
from tests.support.haproxy import Haproxy

pytestmark = pytest.mark.slow


def under_load(test: Callable[[Cluster, Load, Haproxy], Awaitable[None]], *slots: int) -> None:
    """Run a test while requests go through a real HAProxy to these instances; none of them may fail."""

    async def main() -> None:
        with Haproxy() as proxy:
            async with asyncio.timeout(120), running_cluster() as cluster:
                await cluster.deploy(route(HaproxyProvider((proxy.socket_path,), "shop", "shop-preview")))
                await cluster.run(*slots)
                await cluster.joined(*slots)
                async with running_load(proxy.url()) as load:
                    await load.more()
                    await test(cluster, load, proxy)
                    await load.more()
                assert load.failures == [], load.failures[:5]
                await stop_all(cluster)

    asyncio.run(main())


def test_a_rolling_replacement_of_every_instance_loses_nothing() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        for turn in range(3):
            for number in (0, 1, 2):
                await cluster.stop(number)
                await load.more(40)
                await cluster.run(number)  # in the same slot, at another port
                await cluster.joined(0, 1, 2)
                assert (await load.more(60))[str(number)], f"turn {turn}: {number} gets nothing"

    under_load(test, 0, 1, 2)


def test_growing_and_shrinking_loses_nothing() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        for _ in range(3):
            await cluster.run(1, 2, 3, 4)
            await cluster.joined(0, 1, 2, 3, 4)
            assert len(await load.more(100)) == 5
            await cluster.stop(1, 2, 3, 4)
            await cluster.joined(0)
            assert (await load.more(50)).keys() == {"0"}

    under_load(test, 0)


def test_a_canary_gets_its_percent_and_then_everything_and_nothing_is_lost() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        await cluster.two_sets()
        await cluster.run(100)
        await cluster.joined(0, 1, 100)
        assert (await load.more(100))["100"] == 0, "no percent was asked for yet"
        for percent in (10, 50):
            cluster.weigh(percent)
            await _confirmed(cluster, percent)
            answers = await load.more(600)
            assert abs(answers["100"] / answers.total() - percent / 100) < 0.04
        cluster.weigh(100)
        await _confirmed(cluster, 100)
        await cluster.stop(0, 1)
        assert (await load.more(100)).keys() == {"100"}
        cluster.weigh(100)
        await cluster.two_sets(new_base=0)  # the new set is the stable one now
        await cluster.joined(100)

    under_load(test, 0, 1)


def test_blue_green_switches_at_once_and_back_and_nothing_is_lost() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        await cluster.two_sets("blue-green")
        await cluster.run(100, 101)
        await cluster.joined(0, 1, 100, 101)
        async with running_load(proxy.url("preview"), clients=1) as preview:
            assert (await preview.more(20)).keys() == {"100", "101"}
        assert not preview.failures
        assert (await load.more(60)).keys() == {"0", "1"}
        for percent, expected in ((100, {"100", "101"}), (0, {"0", "1"}), (100, {"100", "101"})):
            cluster.weigh(percent)
            await _confirmed(cluster, percent, group="preview")
            await load.more(20)
            assert (await load.more(60)).keys() == expected
        await cluster.stop(0, 1)

    under_load(test, 0, 1)


def test_a_request_on_the_way_is_waited_for_and_new_ones_go_elsewhere() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        async with running_load(f"{proxy.url()}/slow", clients=2) as slow:
            first = cluster.instances[0]
            cluster.instances[1].slow.set()  # whoever is sent there comes again, until all wait for the first
            while first.at_slow < 2:
                await load.more(5)
            cluster.leave(0)
            while 0 in cluster.members:
                await load.more(5)
            assert cluster.state.leaving
            before = first.answered
            await load.more(200)
            assert first.answered - before <= 2, "it is not asked any more"
            first.slow.set()
            await cluster.left(0)
            await slow.more(5)
        assert not slow.failures, slow.failures[:3]
        await cluster.stop(0)

    under_load(test, 0, 1)


def test_leaders_that_change_at_any_moment_lose_nothing() -> None:
    async def main() -> None:
        chance = random.Random(7)
        with Haproxy() as proxy:
            cluster = Cluster()
            async with asyncio.timeout(120):
                async with running_cluster(cluster):
                    await cluster.deploy(route(HaproxyProvider((proxy.socket_path,), "shop")))
                    await cluster.run(0, 1)
                    await cluster.joined(0, 1)
                async with running_load(proxy.url()) as load:
                    await load.more()
                    for turn in range(12):
                        async with running_cluster(cluster):  # it ends in the middle of this
                            cluster.leave(turn % 2)
                            await load.more(chance.randrange(1, 12))
                        async with running_cluster(cluster):
                            await cluster.stop(turn % 2)
                            await cluster.run(turn % 2)
                            await load.more(chance.randrange(1, 12))
                        async with running_cluster(cluster):
                            await cluster.joined(0, 1)
                assert load.failures == [], load.failures[:5]
            await stop_all(cluster)

    asyncio.run(main())


def test_the_load_would_show_a_stop_without_leaving() -> None:
    async def test(cluster: Cluster, load: Load, proxy: Haproxy) -> None:
        await cluster.instances[0].stop()
        while not load.failures:
            await load.more(10)
        load.failures.clear()
        await cluster.report(0, State.RESTARTING, is_ready=False)
        await cluster.joined(1)
        await load.more(50)
        load.failures.clear()

    under_load(test, 0, 1)


async def _confirmed(cluster: Cluster, percent: int, group: str = "canary") -> None:
    async with asyncio.timeout(20):
        while dict(cluster.state.weights).get(group) != percent:
            await asyncio.sleep(0.005)
