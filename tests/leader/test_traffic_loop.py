"""The loop of routes: the record before the provider, troubles that end, leaders and routes that go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from hsu_cluster.leader.traffic.template import render
from hsu_cluster.planning.route_state import GIVE_UP_S
from hsu_cluster.planning.traffic import servers
from hsu_core.model.errors import LeaseLost
from hsu_core.model.ids import AppId
from hsu_core.model.lifecycle import State
from hsu_core.model.records import EventRecord
from hsu_core.model.routes import Endpoint, HaproxyProvider, Provider, TemplateProvider, WebhookProvider
from hsu_core.model.view import Plan
from hsu_core.store.base import range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode
from tests.leader.traffic_harness import Cluster, route, running_cluster, stop_all
from tests.leader.traffic_rigs import endpoint
from tests.support.builders import SHOP, slot
from tests.support.haproxy import Haproxy
from tests.support.waiting import eventually


def on_cluster(test: Callable[[Cluster], Awaitable[None]], *, allow_templates: bool = True) -> None:
    """Run a coroutine on a running loop, within a minute."""

    async def main() -> None:
        async with asyncio.timeout(60), running_cluster(Cluster(allow_templates=allow_templates)) as cluster:
            await test(cluster)
            await stop_all(cluster)

    asyncio.run(main())


async def events(cluster: Cluster) -> list[str]:
    """Return the codes of the events, oldest first."""
    entries = (await range_all(cluster.store, keys.EVENTS)).entries
    return [decode(EventRecord, entry.value).code for entry in entries]


def test_a_route_without_a_provider_gives_a_leaving_instance_all_its_time() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.deploy(route(None, drain_s=5.0))
        await cluster.run(0, 1)
        await cluster.joined(0, 1)
        cluster.leave(0)
        await cluster.joined(1)
        assert cluster.state.leaving == (slot("web", 0),), "whoever read the list may still send to it"
        cluster.ahead_s += 5.0
        await cluster.run(2)
        await cluster.left(0)

    on_cluster(test)


def test_an_instance_whose_process_is_gone_needs_no_time() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.deploy(route(None, drain_s=3600.0))
        await cluster.run(0, 1)
        await cluster.joined(0, 1)
        await cluster.report(0, State.RESTARTING, is_ready=False)
        await cluster.left(0)
        await cluster.joined(1)

    on_cluster(test)


def test_an_instance_is_in_the_record_before_the_provider_hears_of_it() -> None:
    async def main() -> None:
        heard: list[bool] = []
        cluster = Cluster()

        async def post(request: web.Request) -> web.Response:
            rows = (await request.json())["endpoints"]
            known = {str(one.instance) for one in cluster.state.endpoints}
            heard.append(all(row["instance"] in known for row in rows))
            assert cluster.state.joining or not rows
            return web.Response()

        app = web.Application()
        app.router.add_post("/", post)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with asyncio.timeout(60), running_cluster(cluster):
            await cluster.deploy(route(WebhookProvider(url)))
            await cluster.run(0)
            await cluster.joined(0)
            await cluster.run(1)
            await cluster.joined(0, 1)
            await stop_all(cluster)
        await runner.cleanup()
        assert heard
        assert all(heard)

    asyncio.run(main())


def test_a_provider_that_does_not_answer_holds_nobody_for_ever() -> None:
    async def test(cluster: Cluster) -> None:
        with Haproxy() as proxy:
            await cluster.deploy(route(HaproxyProvider((proxy.socket_path,), "shop"), drain_s=1.0))
            await cluster.run(0, 1)
            await cluster.joined(0, 1)
            proxy.kill()
            cluster.leave(0)
            await eventually(lambda: "reach HAProxy" in cluster.state.trouble)
            assert [one.instance.slot for one in cluster.state.endpoints] == [0, 1], "it may still get requests"
            assert "RouteTrouble" in await events(cluster)
            cluster.ahead_s += 1.0 + GIVE_UP_S
            await cluster.left(0)
            assert cluster.state.trouble
            proxy.start()
            await cluster.joined(1)
            assert sorted(proxy.servers()) == ["hsu.default.shop.web.web.1", "somebody-elses"]
            assert "RouteInEffect" in await events(cluster)

    on_cluster(test)


def test_a_new_leader_goes_on_where_the_old_one_was(tmp_path: Path) -> None:
    async def main() -> None:
        with Haproxy() as proxy:
            cluster = Cluster()
            async with asyncio.timeout(60):
                async with running_cluster(cluster):
                    await cluster.deploy(route(HaproxyProvider((proxy.socket_path,), "shop")))
                    await cluster.run(0, 1)
                    await cluster.joined(0, 1)
                before = cluster.state
                await cluster.run(2)
                async with running_cluster(cluster):
                    await cluster.joined(0, 1, 2)
                    assert cluster.state.endpoints[:2] == before.endpoints
                    assert len(proxy.servers()) == 4
                await stop_all(cluster)

    asyncio.run(main())


def test_a_deposed_leader_changes_no_record() -> None:
    async def lead(cluster: Cluster) -> None:
        async with asyncio.timeout(60), running_cluster(cluster):
            await cluster.deploy(route(None))
            await cluster.run(0)
            await cluster.joined(0)
            await cluster.store.delete(keys.LEADER)
            await cluster.run(1)
            await asyncio.Event().wait()

    async def main() -> None:
        cluster = Cluster()
        with pytest.raises(BaseExceptionGroup) as caught:
            await lead(cluster)
        assert [type(error) for error in caught.value.exceptions] == [LeaseLost]
        assert [one.instance.slot for one in cluster.state.endpoints] == [0]
        await stop_all(cluster)

    asyncio.run(main())


def test_a_new_leader_tells_nobody_anything_before_its_first_plan() -> None:
    async def main() -> None:
        cluster = Cluster()
        async with asyncio.timeout(60):
            async with running_cluster(cluster):
                await cluster.deploy(route(None))
                await cluster.run(0, 1)
                await cluster.joined(0, 1)
                cluster.leave(0)
                await cluster.joined(1)
            before = cluster.state
            async with running_cluster(cluster, has_plan=False):
                await cluster.run(2)
                await cluster.store.delete(keys.node("none"))
                await eventually(lambda: slot("web", 2) in cluster.snapshot.view().assignments)
                cluster.traffic.take(Plan(), [AppId("default", "other")])
                await asyncio.sleep(0)
                assert cluster.state == before, "who leaves is not known yet"
                cluster.has_plan = True
                cluster.leave(0)
                await cluster.joined(1, 2)
                assert 0 not in cluster.members
            await stop_all(cluster)

    asyncio.run(main())


def test_a_route_that_comes_and_goes_fast_ends_as_it_was_asked_last() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.deploy(route(None, drain_s=0.0))
        await cluster.run(0)
        for number in range(2, 40, 2):
            await cluster.deploy(number=number)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            await cluster.deploy(route(None, drain_s=0.0), number=number + 1)
        await cluster.joined(0)

    on_cluster(test)


def test_a_route_that_left_the_manifest_is_cleared_and_forgotten() -> None:
    async def test(cluster: Cluster) -> None:
        with Haproxy() as proxy:
            provider: Provider = HaproxyProvider((proxy.socket_path,), "shop")
            await cluster.deploy(route(provider))
            await cluster.run(0)
            await cluster.joined(0)
            await cluster.deploy(number=2)
            await eventually(lambda: not cluster.snapshot.view().routes)
            assert sorted(proxy.servers()) == ["somebody-elses"]
            await cluster.deploy(route(provider), number=3)
            await cluster.joined(0)
            await cluster.store.delete(keys.app(SHOP))
            await eventually(lambda: not cluster.snapshot.view().routes)
            assert sorted(proxy.servers()) == ["somebody-elses"]

    on_cluster(test)


def test_a_route_with_another_provider_leaves_the_first_one() -> None:
    async def test(cluster: Cluster) -> None:
        with Haproxy() as first, Haproxy() as second:
            await cluster.deploy(route(HaproxyProvider((first.socket_path,), "shop")))
            await cluster.run(0)
            await cluster.joined(0)
            await cluster.deploy(route(HaproxyProvider((second.socket_path,), "shop")), number=2)
            await eventually(lambda: sorted(first.servers()) == ["somebody-elses"])
            assert "hsu.default.shop.web.web.0" in second.servers()
            await cluster.joined(0)

    on_cluster(test)


def test_templates_have_to_be_allowed(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.deploy(route(TemplateProvider("{address}\n", str(tmp_path / "out"), ("touch", "x")), drain_s=0.0))
        await cluster.run(0, 1)
        await eventually(lambda: "allow_templates: true" in cluster.state.trouble)
        assert list(tmp_path.iterdir()) == []

    on_cluster(test, allow_templates=False)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (
            (sys.executable, "-c", "raise SystemExit('line 3: no such upstream')"),
            "ended with 1: line 3: no such upstream",
        ),
        (("/no/such/program",), "No such file or directory"),
    ],
)
def test_a_reload_that_fails_is_told_and_tried_again(tmp_path: Path, command: tuple[str, ...], why: str) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.deploy(route(TemplateProvider("{address}\n", str(tmp_path / "out"), command)))
        await cluster.run(0)
        await eventually(lambda: why in cluster.state.trouble, why=f"{cluster.state}")
        await cluster.deploy(route(TemplateProvider("{address}\n", str(tmp_path / "out"))), number=2)
        await cluster.joined(0)
        assert (tmp_path / "out").read_text() == f"127.0.0.1:{cluster.instances[0].port}\n"

    on_cluster(test)


def test_a_template_has_lines_for_each_for_one_group_and_for_none() -> None:
    template = (
        "upstream shop {\n  server {address} weight={weight};  # {instance}\n  server 127.0.0.1:9 down;{none}\n}\n"
    )
    template += "upstream preview {\n  server {host}:{port};{only:preview}\n}\nmap $x { default {y}; }\n"
    old, new = endpoint(0, group="active"), Endpoint(slot("web", 100), 5, "::1", 80, "preview")
    wanted = servers([old, new], (("active", 100), ("preview", 0)))
    assert render(template, wanted) == (
        "upstream shop {\n  server 127.0.0.1:20000 weight=100;  # shop/web.0\n}\n"
        "upstream preview {\n  server ::1:80;\n}\nmap $x { default {y}; }\n"
    )
    assert "server [::1]:80" in render("server {address}; {only:preview}\n", wanted)
    assert render(template, ()) == (
        "upstream shop {\n  server 127.0.0.1:9 down;\n}\nupstream preview {\n}\nmap $x { default {y}; }\n"
    )
