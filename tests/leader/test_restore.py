"""A store that was put back or emptied: a new incarnation, held until an administrator accepts it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hsu_cluster.client.client import ClusterClient
from hsu_cluster.client.transport import ApiProblem
from hsu_cluster.leader.service import LeaderService, LeaderTimes
from hsu_cluster.planning.restore import forecast
from hsu_core.model.assignment import AppRecord
from hsu_core.model.lifecycle import State
from hsu_core.model.records import ClusterRecord, MasterAdvert
from hsu_core.store.base import range_all
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.frames import Beat, BeatAck, Report, Welcome
from tests.leader.harness import FakeAgent, Master, manifest, running_master, settings, until
from tests.support.builders import (
    SHOP,
    make_assignment,
    make_node,
    make_revision,
    make_status,
    make_view,
    make_worker,
    slot,
)

pytestmark = pytest.mark.timeout(180)

AHEAD = 1_000_000
"""A revision that no store of these tests gets to."""


async def _held(client: ClusterClient) -> dict[str, Any] | None:
    try:
        found: Any = await client.restore()
    except ApiProblem:
        return None
    return found if found["held"] else None


async def _is_cut(agent: FakeAgent) -> None:
    """Wait until the master ends the session."""
    async with asyncio.timeout(30):
        while (await agent.socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass


async def _place(master: Master, client: ClusterClient, count: int) -> tuple[str, int, list[Any]]:
    """Deploy, run it on one agent, and return incarnation, term and what it ran."""
    async with master.agent("node-a") as agent:
        welcome = await agent.join()
        await client.deploy("default", "shop", manifest("shop", count))
        await agent.run_everything(count)
        return welcome.incarnation, welcome.term, list(agent.assigned.values())


def test_an_agent_that_has_seen_a_later_store_makes_the_leader_begin_a_new_incarnation(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path)) as master, master.client() as client:
            old, term, ran = await _place(master, client, 2)
            async with master.agent("node-a", incarnation=old, term=term, revision=AHEAD, workers=3) as agent:
                await _is_cut(agent)
            held = await until("the cluster is held", lambda: _held(client))
            assert held["former"] == old
            assert held["incarnation"] not in ("", old)
            assert f"node node-a has heard of revision {AHEAD}" in held["held"]
            assert any("accept-restore" in alarm for alarm in (await client.cluster())["alarms"])

            # People may ask for what they like; nothing is planned, and the agent is told of no acceptance.
            await client.scale("default", "shop", "web", 5)
            async with master.agent("node-a", incarnation=old, term=term, revision=AHEAD, workers=3) as agent:
                welcome = await agent.receive(Welcome)
                assert (welcome.incarnation, welcome.accepted) == (held["incarnation"], ())
                stray = make_assignment(slot("web", 7), "node-a")
                statuses = tuple(agent.status(assignment) for assignment in [*ran, stray])
                await agent.send(Report(statuses, is_full=True))

                async def is_told() -> Any:
                    nodes = (await client.restore())["nodes"]
                    return nodes if nodes and nodes[0]["stops"] else None

                (node,) = await until("the forecast knows what runs", is_told)
                assert (node["node"], node["held_by"]) == ("node-a", old)
                assert node["keeps"] == ["shop/web.0", "shop/web.1"]
                assert node["stops"] == ["shop/web.7"]
                assert len((await client.list_instances("default", "shop"))["items"]) <= 6
                assert sum(1 for item in (await client.list_instances())["items"] if item["node"]) == 3

                accepted = await client.accept_restore()
                assert (accepted["held"], accepted["accepted"]) == ("", [old])
                await _is_cut(agent)
            async with master.agent("node-a", incarnation=old, term=term, revision=AHEAD, workers=3) as agent:
                welcome = await agent.join()
                assert welcome.accepted == (old,)
                await agent.run_everything(5)
                assert all(found.epoch > 0 for found in agent.assigned.values())
            events = (await client.events())["items"]
            codes = {event["code"]: event["actor"] for event in events}
            assert codes["StoreRestored"] == "leader"
            assert codes["RestoreAccepted"].startswith("admin-")
            with pytest.raises(ApiProblem) as refused:
                await client.accept_restore()
            assert (refused.value.status, refused.value.code) == (409, "conflict.not-held")

    asyncio.run(main())


def test_a_later_term_of_the_same_incarnation_is_a_witness_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path)) as master, master.client() as client:
            async with master.agent("node-a") as agent:
                welcome = await agent.join()
            async with master.agent("node-a", incarnation=welcome.incarnation, term=AHEAD, workers=1) as agent:
                await _is_cut(agent)
            held = await until("the cluster is held", lambda: _held(client))
            assert f"obeyed term {AHEAD}" in held["held"]

    asyncio.run(main())


def test_a_node_of_another_cluster_is_held_alone_and_the_others_work_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running_master(settings(tmp_path)) as master,
            master.client() as client,
            master.agent("good") as good,
        ):
            await good.join()
            async with master.agent("foreign", incarnation="elsewhere", term=3, revision=AHEAD, workers=2) as foreign:
                assert (await foreign.join()).accepted == ()
                await client.deploy("default", "shop", manifest("shop", 3))
                await good.run_everything(3)
                assert foreign.assigned == {}
                found = await client.restore()
                assert found["held"] == ""
                assert [(node["node"], node["held_by"]) for node in found["nodes"]] == [("foreign", "elsewhere")]
                assert "accept-restore" in (await client.get_node("foreign"))["reason"]
                await client.accept_restore()
                await _is_cut(foreign)
            async with master.agent("foreign", incarnation="elsewhere", term=3, revision=AHEAD, workers=2) as foreign:
                assert (await foreign.join()).accepted == ("elsewhere",)
                await client.scale("default", "shop", "web", 40)

                async def is_placed_there() -> bool:
                    items = (await client.list_instances("default", "shop"))["items"]
                    return any(item["node"] == "foreign" for item in items)

                await until("it takes instances", is_placed_there)

    asyncio.run(main())


def test_agents_learn_from_their_beats_how_far_the_store_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path)) as master, master.client() as client, master.agent("a") as agent:
            await agent.join()
            made = await client.deploy("default", "shop", manifest("shop", 0))

            async def is_heard() -> bool:
                await agent.send(Beat(1.0))
                return (await agent.receive(BeatAck)).revision >= made["revision"]

            await until("the revision is told", is_heard)

    asyncio.run(main())


def test_a_store_whose_data_was_made_by_another_store_is_held() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put(keys.CLUSTER, encode(ClusterRecord("before", store_id="another store")))
        await store.put(keys.revision(SHOP, 1), encode(make_revision(1, make_worker())))
        await store.put(keys.node("node-a"), encode(make_node("node-a")))
        await store.put(keys.app(SHOP), encode(AppRecord(SHOP, 1)))
        service = LeaderService(store, MasterAdvert("one", "http://127.0.0.1:1"), LeaderTimes())

        async def held() -> ClusterRecord | None:
            entry = await store.get(keys.CLUSTER)
            record = decode(ClusterRecord, entry.value) if entry is not None else None
            return record if record is not None and record.held and service.is_leading else None

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            record = await until("a new incarnation is led", held)
            assert record.former == "before"
            assert record.store_id == (await store.status()).cluster_id
            assert (await range_all(store, keys.ASSIGNMENTS)).entries == ()
            task.cancel()
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("record", [None, ClusterRecord("before")])
def test_the_first_leader_writes_down_which_store_it_is(record: ClusterRecord | None) -> None:
    async def main() -> None:
        store = MemoryStore()
        if record is not None:
            await store.put(keys.CLUSTER, encode(record))
        service = LeaderService(store, MasterAdvert("one", "http://127.0.0.1:1"), LeaderTimes())

        async def known() -> ClusterRecord | None:
            entry = await store.get(keys.CLUSTER)
            found = decode(ClusterRecord, entry.value) if entry is not None else None
            return found if found is not None and found.store_id else None

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            found = await until("it is written", known)
            assert found.held == ""
            assert found.incarnation == ("before" if record is not None else found.incarnation) != ""
            task.cancel()
        await store.close()

    asyncio.run(main())


def test_the_forecast_tells_what_is_kept_restarted_stopped_and_started() -> None:
    orders = [make_assignment(slot("web", n), "node-a") for n in range(3)]
    stopped = make_assignment(slot("web", 4), "node-a", is_stopped=True)
    stray = make_assignment(slot("web", 9), "node-a")
    ended = make_assignment(slot("web", 8), "node-a")
    view = make_view(
        make_revision(1, make_worker()),
        assignments=[*orders, stopped],
        statuses=[
            make_status(orders[0]),
            replace(make_status(orders[1]), spec_hash="newer"),
            make_status(stopped),
            make_status(stray),
            make_status(ended, State.STOPPED),
        ],
        nodes=[replace(make_node("node-a"), held_by="old"), make_node("node-b")],
    )
    (found,) = forecast(view)
    assert (found.node, found.held_by) == ("node-a", "old")
    assert found.keeps == (slot("web", 0),)
    assert found.restarts == (slot("web", 1),)
    assert found.stops == (slot("web", 4), slot("web", 9))
    assert found.starts == (slot("web", 2),)
    assert forecast(view, ["old"]) == (), "accepted while the node was away"
