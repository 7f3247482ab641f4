"""Rebalances over the API: a plan, a request that the leader takes up, one at a time, and its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hsu_core.model.assignment import Revision
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.rebalance import Move, Rebalance, RebalanceIntent, RebalancePhase
from hsu_core.model.rollout import Rollout, RolloutPhase, Stage, WorkerRollout
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from tests.api.harness import Api, asynchronous, running_api

PATH = "/v1/rebalance"
APP_ID = AppId("default", "shop")


async def _intent(api: Api) -> RebalanceIntent:
    entry = await api.store.get(keys.REBALANCE_INTENT)
    assert entry is not None
    return decode(RebalanceIntent, entry.value)


@asynchronous
async def test_a_rebalance_is_asked_for_once_and_the_record_tells_how_far_it_is(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.get(PATH))["phase"] == "Idle"
        for body in ({"max_moves": 0}, {"max_moves": "all"}, {"moves": 3}):
            assert (await api.send("POST", PATH, body)).status == 400
        begun = (await api.send("POST", PATH, {"max_moves": 3})).document
        assert (begun["phase"], begun["max_moves"]) == ("Requested", 3)
        asked = await _intent(api)
        assert (asked.id, asked.max_moves, asked.requested_by) == (begun["id"], 3, "admin-test")
        assert (await api.send("POST", PATH, {})).code == "conflict.rebalancing"

        move = Move(InstanceId("default", "shop", "web", 0), "node-a", "node-b", "3 copies on node-a, 0 on node-b")
        state = Rebalance(
            asked.id, max_moves=3, moves=(move,), moved=1, started_at=5.0, text="1 move done, 1 on the way"
        )
        await api.store.put(keys.REBALANCE_STATE, encode(state))
        found = await api.get(PATH)
        assert (found["phase"], found["moved"], found["skipped"], found["ended_at"]) == ("Moving", 1, 0, None)
        assert found["moves"] == [
            {
                "id": "shop/web.0",
                "namespace": "default",
                "source": "node-a",
                "target": "node-b",
                "reason": "3 copies on node-a, 0 on node-b",
                "state": "pending",
            }
        ]
        assert (await api.send("POST", PATH, {})).code == "conflict.rebalancing"
        assert (await api.send("POST", f"{PATH}/cancel", {})).status == 200
        assert (await _intent(api)).is_cancelled
        before = await api.revision()
        assert (await api.send("POST", f"{PATH}/cancel", {})).status == 200
        assert await api.revision() == before, "cancelled once"
        ended = Rebalance(asked.id, RebalancePhase.CANCELLED, ended_at=9.0, text="cancelled after 1 move")
        await api.store.put(keys.REBALANCE_STATE, encode(ended))
        assert (await api.get(PATH))["phase"] == "Cancelled"
        assert (await api.send("POST", PATH, {})).document["phase"] == "Requested"


@asynchronous
async def test_what_was_asked_and_not_begun_can_be_cancelled(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        before = await api.revision()
        assert (await api.send("POST", f"{PATH}/cancel", {})).document["phase"] == "Idle"
        assert await api.revision() == before, "nothing was asked for"
        begun = (await api.send("POST", PATH, {})).document
        assert (await api.send("POST", f"{PATH}/cancel", {})).document["phase"] == "Idle"
        asked = await _intent(api)
        assert (asked.id, asked.is_cancelled) == (begun["id"], True)


async def _with_hash(api: Api, spec_hash: str) -> Revision:
    """Return the first revision with the hash that the harness assigns."""
    entry = await api.store.get(keys.revision(APP_ID, 1))
    assert entry is not None
    revision = decode(Revision, entry.value)
    return replace(revision, spec_hashes=tuple((name, spec_hash) for name, _ in revision.spec_hashes))


@asynchronous
async def test_the_plan_says_what_would_move_and_why(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        for name in ("node-a", "node-b", "node-c"):
            await api.add_node(name)
        empty = await api.get(f"{PATH}/plan")
        assert (empty["moves"], empty["nodes"]) == ([], [])
        for slot in range(3):
            await api.assign(slot, "node-a")
        parts = (WorkerRollout("web", "rolling", Stage.DONE),)
        over = Rollout(APP_ID, 1, phase=RolloutPhase.HEALTHY, ended_at=1.0, workers=parts)
        await api.store.put(keys.rollout(APP_ID), encode(over))
        assert (await api.get(f"{PATH}/plan"))["moves"] == [], "they follow an order of another specification"
        await api.store.put(keys.revision(APP_ID, 1), encode(await _with_hash(api, "hash")))
        plan = await api.get(f"{PATH}/plan")
        assert [(one["id"], one["source"], one["reason"]) for one in plan["moves"]] == [
            ("shop/web.0", "node-a", "3 copies on node-a, 0 on node-b"),
            ("shop/web.1", "node-a", "2 copies on node-a, 0 on node-c"),
        ]
        assert plan["nodes"] == [
            {"node": "node-a", "before": 3, "after": 1},
            {"node": "node-b", "before": 0, "after": 1},
            {"node": "node-c", "before": 0, "after": 1},
        ]
        assert len((await api.get(f"{PATH}/plan?max_moves=1"))["moves"]) == 1
        assert (await api.send("GET", f"{PATH}/plan?max_moves=0")).status == 400
