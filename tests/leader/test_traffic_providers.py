"""One contract for all providers of routes, on the real things: what they take, forget, refuse and adopt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hsu_cluster.leader.traffic.providers import router_of
from hsu_cluster.leader.traffic.router import Router, TrafficError
from hsu_cluster.planning.traffic import Server, servers
from tests.leader.traffic_rigs import RIGS, Rig, endpoint, running_rig, wish

pytestmark = pytest.mark.parametrize("kind", RIGS)


def on_rig(kind: str, folder: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a coroutine on a running provider."""

    async def main() -> None:
        async with asyncio.timeout(60), running_rig(kind, folder) as rig:
            await test(rig)

    asyncio.run(main())


def router(rig: Rig) -> Router:
    """Return a new router of the rig's provider, as each leader makes one."""
    return router_of(rig.provider, allow_templates=True)


def test_endpoints_come_and_go(kind: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        one = router(rig)
        await one.apply(wish(rig.provider, [endpoint(0), endpoint(1)]), frozenset())
        assert rig.taken() == {"127.0.0.1:20000": 100, "127.0.0.1:20001": 100}
        busy = await one.apply(wish(rig.provider, [endpoint(1), endpoint(2)]), frozenset())
        assert not busy
        assert rig.taken() == {"127.0.0.1:20001": 100, "127.0.0.1:20002": 100}
        await one.apply(wish(rig.provider, []), frozenset())
        assert rig.taken() == {}

    on_rig(kind, tmp_path, test)


def test_an_instance_that_moved_is_reached_at_its_new_place(kind: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        one = router(rig)
        await one.apply(wish(rig.provider, [endpoint(0)]), frozenset())
        await one.apply(wish(rig.provider, [endpoint(0, 23456, epoch=9)]), frozenset())
        assert rig.taken() == {"127.0.0.1:23456": 100}

    on_rig(kind, tmp_path, test)


def test_weights_follow_the_percent_of_the_new_set(kind: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        one = router(rig)
        sets = [endpoint(0), endpoint(1), endpoint(2), endpoint(100, group="canary")]
        for percent in (0, 10, 50, 99, 100, 0):
            asked = wish(rig.provider, sets, percent=percent)
            await one.apply(asked, frozenset())
            expected = {f"127.0.0.1:{each.endpoint.port}": each.weight for each in _weighted(asked) if each.weight}
            assert rig.taken() == expected
            total = sum(expected.values())
            assert expected.get("127.0.0.1:20100", 0) * 100 == percent * total

    on_rig(kind, tmp_path, test)


def _weighted(asked: object) -> tuple[Server, ...]:
    return servers(asked.endpoints, asked.weights)  # type: ignore[attr-defined]


def test_a_new_leader_adopts_what_is_there(kind: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await router(rig).apply(wish(rig.provider, [endpoint(0), endpoint(1)]), frozenset())
        await router(rig).apply(wish(rig.provider, [endpoint(1)]), frozenset())
        assert rig.taken() == {"127.0.0.1:20001": 100}

    on_rig(kind, tmp_path, test)


def test_a_broken_provider_is_told_of_with_what_why_and_fix_and_takes_all_once_it_is_well(
    kind: str, tmp_path: Path
) -> None:
    async def test(rig: Rig) -> None:
        one = router(rig)
        await one.apply(wish(rig.provider, [endpoint(0)]), frozenset())
        rig.break_it()
        later = wish(rig.provider, [endpoint(0), endpoint(1)])
        texts = set()
        for _ in range(2):
            with pytest.raises(TrafficError) as caught:
                await one.apply(later, frozenset())
            assert caught.value.what
            assert caught.value.why
            assert caught.value.fix
            texts.add(str(caught.value))
        assert len(texts) == 1, "the text goes into a record: it must not change while the trouble does not"
        rig.mend()
        await one.apply(later, frozenset())
        assert rig.taken() == {"127.0.0.1:20000": 100, "127.0.0.1:20001": 100}

    on_rig(kind, tmp_path, test)
