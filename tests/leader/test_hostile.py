"""Nothing an agent says and no record in the store may end a leader, or stop what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsu_cluster.leader.session import ORDERS_LIMIT, Session
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.statuses import StatusBook, bounded, is_plausible
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.reconcile import reconcile
from hsu_core.model.assignment import AppRecord, Assignment, InstanceStatus
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import Capacity
from hsu_core.store.base import Compare, Target, range_all
from hsu_core.store.memory import MemoryStore
from hsu_core.wire import keys
from hsu_core.wire.codec import FRAME_LIMIT_BYTES, encode
from hsu_core.wire.frames import Beat, BeatAck, Goodbye, Hello, Orders, Report, Welcome, encode_frame
from tests.leader.harness import Master, running_master, settings, until
from tests.support.builders import make_node

pytestmark = pytest.mark.timeout(120)


def _status(worker: str = "web", slot: int = 0, **fields: Any) -> InstanceStatus:
    return InstanceStatus(InstanceId("default", "shop", worker, slot), "node-a", 1, State.RUNNING, **fields)


@pytest.mark.parametrize(
    "status",
    [
        _status(reason="x" * 300_000),
        _status("we/b"),
        _status("w\0"),
        _status(slot=-1),
        _status(slot=10**9),
        _status(spec_hash="h" * 400_000, ports=tuple(("p", n) for n in range(5000))),
    ],
    ids=["long reason", "slash", "nul", "negative slot", "huge slot", "much of everything"],
)
def test_no_report_of_an_agent_ends_the_leader(tmp_path: Path, status: InstanceStatus) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path)) as master, master.agent("node-a") as agent:
            await agent.join()
            await agent.send(Report((status, _status("good")), gone=(status.instance,)))
            await agent.send(Beat(1.0))
            await agent.receive(BeatAck)

            async def has_good() -> bool:
                async with master.client() as client:
                    items = (await client.list_instances())["items"]
                return any(item["worker"] == "good" for item in items)

            await until("the good status is stored", has_good)

    asyncio.run(main())


def test_what_is_kept_of_a_status_is_bounded() -> None:
    assert len(bounded(_status(reason="x" * 9999)).reason) == 512
    assert is_plausible(InstanceId("default", "shop", "web", 0))
    assert not is_plausible(InstanceId("", "shop", "web", 0))


def test_an_agent_that_leaves_and_joins_at_once_is_ready(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_master(settings(tmp_path)) as master:
            for _ in range(5):
                async with master.agent("node-a") as leaving:
                    await leaving.join()
                    await leaving.send(Goodbye())
                    async with master.agent("node-a") as again:
                        await again.receive(Welcome)
                        await until("node-a is ready", lambda: _is_ready(master, again))

    asyncio.run(main())


async def _is_ready(master: Master, agent: Any) -> bool:
    await agent.send(Beat(0.0))
    async with master.client() as client:
        nodes = {node["name"]: node["state"] for node in (await client.list_nodes())["items"]}
    return nodes == {"node-a": "ready"}


def test_records_of_a_newer_release_hold_their_app_and_their_node() -> None:
    async def main() -> None:
        store = MemoryStore()
        shop = AppId("default", "shop")
        assignment = Assignment(InstanceId("default", "shop", "web", 0), "node-a", 1, 1, "hash")
        await store.put(keys.app(shop), encode(AppRecord(shop, 1)))
        await store.put(keys.node("node-a"), encode(make_node("node-a")))
        await store.put(keys.assignment(assignment.instance), encode(assignment))
        await store.put(keys.status(assignment.instance, "node-a"), encode(_status()))
        for key in (keys.app(shop), keys.node("node-a")):
            entry = await store.get(key)
            assert entry is not None
            await store.put(key, entry.value.replace(b"\xa1v\x01", b"\xa1v\x02"))
        snapshot = Snapshot(store, lambda nodes: None)
        await snapshot.load()
        plan = reconcile(snapshot.view(), 1000.0)
        assert plan.actions == ()
        assert "record.unreadable" in {item.code for item in plan.waiting}
        await store.close()

    asyncio.run(main())


class _Orders:
    """What a session asks of its hub, out of two maps."""

    revision = 1

    def __init__(self, assignments: Mapping[InstanceId, Assignment], specs: Mapping[int, Any]) -> None:
        self._assignments, self._specs = dict(assignments), specs

    def assignments_of(self, node: str) -> dict[InstanceId, Assignment]:
        return self._assignments

    def is_awaited(self, instance: InstanceId, node: str) -> bool:
        return False

    def order_spec(self, assignment: Assignment) -> tuple[str, Any]:
        return f"web@{assignment.revision}", self._specs.get(assignment.revision)


def _frames(count: int, specs: Mapping[int, Any], revision_of: Any) -> list[Orders]:
    assignments = {
        instance: Assignment(instance, "node-a", 1, revision_of(slot), "hash")
        for slot in range(count)
        for instance in [InstanceId("default", "shop", "web", slot)]
    }
    host: Any = _Orders(assignments, specs)
    socket: Any = None
    session = Session(socket, Hello("node-a", Capacity(0, 0)), 1, host, lambda: 0.0)
    return list(session._due_orders())


def test_an_order_without_its_specification_is_named_and_not_left_out() -> None:
    (frame,) = _frames(3, {}, lambda slot: 1)
    assert frame.is_full
    assert len(frame.orders) == 3
    assert frame.specs == {}


def test_an_order_that_was_named_without_its_specification_is_taken_back() -> None:
    instance = InstanceId("default", "shop", "web", 0)
    host: Any = _Orders({instance: Assignment(instance, "node-a", 1, 1, "hash")}, {})
    socket: Any = None
    session = Session(socket, Hello("node-a", Capacity(0, 0)), 1, host, lambda: 0.0)
    list(session._due_orders())
    host._assignments.clear()
    (frame,) = session._due_orders()
    assert frame.removed == (instance,)


def test_frames_stay_below_the_limit_however_large_the_specifications() -> None:
    frames = _frames(60, {n: {"files": "x" * 200_000} for n in range(60)}, lambda slot: slot)
    assert max(len(encode_frame(frame)) for frame in frames) < FRAME_LIMIT_BYTES
    assert [frame.is_full for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert len(frames[-1].orders) == 60
    assert sum(len(frame.specs) for frame in frames) == 60


def test_many_orders_are_split_and_the_last_frame_names_all() -> None:
    frames = _frames(ORDERS_LIMIT + 1, {1: {}}, lambda slot: 1)
    assert [len(frame.orders) for frame in frames] == [ORDERS_LIMIT, 1, ORDERS_LIMIT + 1]
    assert frames[-1].is_full


def _book(store: MemoryStore, term: int) -> tuple[Snapshot, StatusBook]:
    snapshot = Snapshot(store, lambda nodes: None)
    writer = FencedWriter(store, Compare(keys.LEADER, Target.CREATE, term), lambda: 0.0)
    return snapshot, StatusBook(snapshot, writer, lambda: 1.0)


def test_a_full_report_also_ends_what_is_still_on_its_way_into_the_store() -> None:
    async def main() -> None:
        store = MemoryStore()
        snapshot, book = _book(store, await store.put(keys.LEADER, b"me"))
        await snapshot.load()
        book.take("node-a", Report((_status(),)))
        book.take("node-a", Report(is_full=True))
        await _until_written(store, snapshot, book)
        assert (await range_all(store, keys.STATUS)).entries == ()
        await store.close()

    asyncio.run(main())


def test_a_report_that_says_nothing_new_writes_nothing() -> None:
    async def main() -> None:
        store = MemoryStore()
        snapshot, book = _book(store, await store.put(keys.LEADER, b"me"))
        await snapshot.load()
        book.take("node-a", Report((_status(),), is_full=True))
        await _until_written(store, snapshot, book)
        before = (await store.status()).revision
        book.take("node-a", Report((_status(changed_at=77.0),), is_full=True))
        await _until_written(store, snapshot, book)
        assert (await store.status()).revision == before
        await store.close()

    asyncio.run(main())


async def _until_written(store: MemoryStore, snapshot: Snapshot, book: StatusBook) -> None:
    """Run the book until nothing waits, and the view until it has seen everything."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(snapshot.follow()), group.create_task(book.run())]
        while book.is_busy:
            await asyncio.sleep(0)
        await snapshot.reach((await store.status()).revision)
        for task in tasks:
            task.cancel()


def test_a_lost_agent_of_another_folder_cannot_take_a_living_ones_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running_master(settings(tmp_path)) as master,
            master.agent("node-a", boot_id="host", agent="one") as first,
        ):
            await first.join()
            async with master.agent("node-a", boot_id="host", agent="two") as twin:
                message = await twin.socket.receive()
                assert b"name-taken" in message.data
            await first.send(Beat(2.0))
            await first.receive(BeatAck)

    asyncio.run(main())


def test_a_replaced_status_keeps_the_newest_word() -> None:
    async def main() -> None:
        store = MemoryStore()
        snapshot, book = _book(store, await store.put(keys.LEADER, b"me"))
        await snapshot.load()
        book.take("node-a", Report((_status(),)))
        book.take("node-a", Report((replace(_status(), state=State.STOPPED),)))
        await _until_written(store, snapshot, book)
        (status,) = snapshot.view().statuses.values()
        assert status.state is State.STOPPED
        await store.close()

    asyncio.run(main())
