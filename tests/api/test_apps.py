"""Deploying, reading and changing apps: one revision each, nothing lost, nothing done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hsu_core.model.errors import OutcomeUnknown
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import NodeState
from hsu_core.store.base import Store, TxnResult
from hsu_core.store.memory import MemoryStore
from hsu_core.store.sqlite import SqliteStore
from hsu_core.wire import keys
from tests.api.harness import APP, NAMESPACE, SHOP, asynchronous, running_api

WEB_0 = InstanceId("default", "shop", "web", 0)


async def _open(kind: str, folder: Path) -> Store:
    return MemoryStore() if kind == "memory" else await SqliteStore.open(folder / "store.db")


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@asynchronous
async def test_deploy_read_change_and_remove(tmp_path: Path, kind: str) -> None:
    store = await _open(kind, tmp_path)
    async with running_api(tmp_path, store=store) as api:
        made = await api.deploy()
        assert (made["app"], made["app_revision"], made["unchanged"], made["warnings"]) == ("shop", 1, False, [])
        assert {(worker["id"], worker["replicas"]) for worker in made["workers"]} == {("web", 3), ("db", 1)}
        assert made["deployed_by"] == "admin-test"
        again = await api.get(APP)
        assert again["revision"] == made["revision"]

        scaled = (await api.send("POST", f"{APP}/workers/web/scale", {"replicas": 5})).document
        assert scaled["revision"] > made["revision"]
        assert next(w for w in scaled["workers"] if w["id"] == "web")["replicas"] == 5

        stopped = (await api.send("POST", f"{APP}/stop", {"worker": "db"})).document
        assert next(w for w in stopped["workers"] if w["id"] == "db")["stopped"] == 1
        assert (await api.send("POST", f"{APP}/restart", {"worker": "db"})).code == "conflict.stopped"
        assert (await api.send("POST", f"{APP}/start", {})).status == 200
        assert (await api.send("POST", f"{APP}/restart")).status == 200

        codes = [event["code"] for event in (await api.get("/v1/events?namespace=default&app=shop"))["items"]]
        assert codes == ["RestartRequested", "StartRequested", "StopRequested", "Scaled", "Deployed"]

        assert (await api.send("DELETE", APP)).document["done"]
        assert (await api.send("GET", APP)).code == "not-found"
        assert (await api.send("DELETE", APP)).code == "not-found"
        assert (await api.get("/v1/apps"))["items"] == []
    await store.close()


@asynchronous
async def test_the_same_content_makes_no_new_revision(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        before = await api.revision()
        again = await api.deploy()
        assert (again["unchanged"], again["app_revision"], await api.revision()) == (True, 1, before)
        changed = await api.deploy(SHOP.replace("3600", "7200"))
        assert (changed["unchanged"], changed["app_revision"]) == (False, 2)
        revisions = (await api.get(f"{APP}/revisions"))["items"]
        assert [(item["number"], item["is_current"]) for item in revisions] == [(1, False), (2, True)]


@asynchronous
async def test_a_deploy_takes_back_the_scaling_of_workers_whose_file_says_replicas(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        for worker in ("web", "db"):
            await api.send("POST", f"{APP}/workers/{worker}/scale", {"replicas": 9})
        again = await api.deploy()
        assert {w["id"]: w["replicas"] for w in again["workers"]} == {"web": 3, "db": 9}
        assert (again["unchanged"], again["app_revision"]) == (False, 1)


@asynchronous
async def test_a_removed_apps_revision_numbers_are_never_used_again(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.deploy(SHOP.replace("3600", "7200"))
        await api.send("DELETE", APP)
        assert (await api.deploy())["app_revision"] == 3


@asynchronous
async def test_old_revisions_are_trimmed_but_for_those_that_run(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.assign(0, "node-a")
        for number in range(2, 31):
            await api.deploy(SHOP.replace("3600", str(3600 + number)))
        numbers = [item["number"] for item in (await api.get(f"{APP}/revisions"))["items"]]
        assert numbers[0] == 1, numbers
        assert numbers[1:] == list(range(31 - len(numbers[1:]), 31))
        assert len(numbers) <= 22


@asynchronous
async def test_json_and_yaml_of_the_same_manifest_are_the_same(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        unit = {"managed": {"control": {"execution": {"executable_path": "/bin/true"}}}}
        manifest = {"workers": [{"id": "one", "type": "managed", "unit": unit}]}
        first = await api.send("PUT", APP, manifest)
        assert first.status == 200, first.text
        yaml = (
            "workers: [{id: one, type: managed, unit: {managed: {control: {execution: {executable_path: /bin/true}}}}}]"
        )
        assert (await api.deploy(yaml))["unchanged"]


@asynchronous
async def test_dry_run_tells_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.add_node("node-a")
        before = await api.revision()
        plan = (await api.send("PUT", f"{APP}?dry_run=true", SHOP)).document
        assert (plan["unchanged"], plan["app_revision"], await api.revision()) == (False, 0, before)
        assert {change["worker"]: change["action"] for change in plan["changes"]} == {"web": "create", "db": "create"}
        assert set(plan["placements"].values()) == {"node-a"}
        assert len(plan["placements"]) == 4
        assert plan["unplaced"] == {}
        await api.deploy()
        assert (await api.send("PUT", f"{APP}?dry_run=true", SHOP)).document["unchanged"] in (True, False)


@asynchronous
async def test_if_match_lets_only_the_revision_that_was_read_be_changed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        made = await api.deploy(headers={"If-Match": "0"})
        changed = SHOP.replace("3600", "1")
        stale = await api.send("PUT", APP, changed, headers={"If-Match": "0"})
        assert (stale.status, stale.code) == (412, "conflict.stale-revision")
        stale = await api.send("PUT", APP, changed, headers={"If-Match": f'"{made["revision"] - 1}"'})
        assert (stale.status, stale.code) == (412, "conflict.stale-revision")
        good = await api.send("PUT", APP, changed, headers={"If-Match": f'"{made["revision"]}"'})
        assert good.status == 200
        assert good.headers["ETag"] == f'"{good.document["revision"]}"'
        assert (await api.send("DELETE", APP, headers={"If-Match": "1"})).status == 412
        assert (await api.send("POST", f"{APP}/stop", {}, headers={"If-Match": "1"})).status == 412
        wrong = await api.send("PUT", APP, changed, headers={"If-Match": "W/x"})
        assert (wrong.status, wrong.code) == (400, "input.if-match")


@asynchronous
async def test_a_retry_with_the_same_key_is_applied_once_and_answers_the_same(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        headers = {"Idempotency-Key": "one"}
        first = await api.send("POST", f"{APP}/restart", {"worker": "web"}, headers=headers)
        await api.send("POST", f"{APP}/workers/web/scale", {"replicas": 7})
        before = await api.revision()
        again = await api.send("POST", f"{APP}/restart", {"worker": "web"}, headers=headers)
        assert (again.status, again.document, await api.revision()) == (200, first.document, before)
        other = await api.send("POST", f"{APP}/restart", {"worker": "db"}, headers=headers)
        assert (other.status, other.code) == (409, "conflict.idempotency-key")
        removed = await api.send("DELETE", APP, headers={"Idempotency-Key": "two"})
        assert (await api.send("DELETE", APP, headers={"Idempotency-Key": "two"})).document == removed.document
        bad = await api.send("DELETE", APP, headers={"Idempotency-Key": "x" * 300})
        assert (bad.status, bad.code) == (400, "input.idempotency-key")


@asynchronous
async def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        replies = await asyncio.gather(*[api.send("POST", f"{APP}/restart", {"worker": "web"}) for _ in range(12)])
        assert [reply.status for reply in replies] == [200] * 12
        entry = await api.store.get(f"{keys.APPS}default/shop")
        assert entry is not None
        assert entry.version == 13


@asynchronous
async def test_lists_are_paged_at_one_revision(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for name in ("a", "b", "c", "shop", "shop2"):
            await api.deploy(path=f"{NAMESPACE}/apps/{name}")
        first = await api.get(f"{NAMESPACE}/apps?limit=2")
        await api.send("DELETE", f"{NAMESPACE}/apps/c")
        second = await api.get(f"/v1/apps?limit=2&page={first['next']}")
        third = await api.get(f"{NAMESPACE}/apps?limit=2&page={second['next']}")
        found = [item["app"] for page in (first, second, third) for item in page["items"]]
        assert found == ["a", "b", "c", "shop", "shop2"]
        assert third["next"] is None
        assert first["revision"] == second["revision"] == third["revision"]
        assert (await api.get(APP))["app"] == "shop"
        workers = await api.get("/v1/workers?namespace=default&app=shop")
        assert [(item["app"], item["id"]) for item in workers["items"]] == [("shop", "db"), ("shop", "web")]
        assert len((await api.get("/v1/instances?limit=500"))["items"]) == 16
        bad = await api.send("GET", "/v1/apps?page=abc")
        assert (bad.status, bad.code) == (400, "input.query")


@asynchronous
async def test_a_page_whose_revision_was_compacted_says_so(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for name in ("a", "b"):
            await api.deploy(path=f"{NAMESPACE}/apps/{name}")
        first = await api.get("/v1/events?limit=1")
        await api.deploy(path=f"{NAMESPACE}/apps/c")
        await api.store.compact(await api.revision())
        gone = await api.send("GET", f"/v1/events?limit=1&page={first['next']}")
        assert (gone.status, gone.code) == (410, "store.compacted")


@asynchronous
async def test_instances_show_slots_with_and_without_a_node(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        unplaced = (await api.get(f"{APP}/instances"))["items"]
        assert [item["id"] for item in unplaced] == ["shop/db.0", "shop/web.0", "shop/web.1", "shop/web.2"]
        assert {(item["state"], item["node"]) for item in unplaced} == {("registered", None)}
        assert "no node has joined" in unplaced[0]["reason"]
        assert (await api.get(APP))["phase"] == "Degraded"

        await api.add_node("node-a")
        await api.assign(0, "node-a")
        await api.assign(1, "node-a", state=None)
        items = {item["id"]: item for item in (await api.get("/v1/instances?namespace=default&app=shop"))["items"]}
        running = items["shop/web.0"]
        assert (running["state"], running["ready"], running["pid"], running["node"]) == (
            "running",
            True,
            4711,
            "node-a",
        )
        assert (items["shop/web.1"]["state"], items["shop/web.1"]["node"]) == ("registered", "node-a")
        assert items["shop/web.2"]["reason"] == "waits for the leader to place it"

        await api.add_node("node-a", NodeState.LOST)
        items = {item["id"]: item for item in (await api.get("/v1/instances"))["items"]}
        assert (items["shop/web.0"]["state"], items["shop/web.0"]["ready"]) == ("unknown", False)
        assert (await api.send("GET", f"{NAMESPACE}/apps/none/instances")).code == "not-found"


@asynchronous
async def test_what_is_left_of_a_removed_app_is_shown_until_it_has_ended(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.add_node("node-a")
        await api.assign(0, "node-a")
        await api.send("DELETE", APP)
        await api.store.delete(keys.assignment(WEB_0))
        (left,) = (await api.get("/v1/instances"))["items"]
        assert (left["id"], left["state"], left["reason"]) == ("shop/web.0", "running", "no longer wanted")
        await api.add_node("node-a", NodeState.LOST)
        (left,) = (await api.get(f"{APP}/instances"))["items"]
        assert (left["state"], left["ready"]) == ("unknown", False)
        await api.store.delete(keys.status(WEB_0, "node-a"))
        assert (await api.get("/v1/instances"))["items"] == []


class LosesAnswers(MemoryStore):
    """A store whose next `lost` transactions happen, and their answers get lost."""

    lost = 0

    async def txn(self, *arguments: Any, **options: Any) -> TxnResult:
        answer = await super().txn(*arguments, **options)
        if self.lost:
            self.lost -= 1
            raise OutcomeUnknown("write to the store", "no answer in time")
        return answer


@asynchronous
async def test_an_unknown_outcome_is_said_so_and_a_retry_with_the_key_applies_it_once(tmp_path: Path) -> None:
    store = LosesAnswers()
    async with running_api(tmp_path, store=store) as api:
        await api.deploy()
        store.lost = 1
        headers = {"Idempotency-Key": "k"}
        lost = await api.send("POST", f"{APP}/restart", headers=headers)
        assert (lost.status, lost.code) == (504, "store.outcome-unknown")
        before = await api.revision()
        assert (await api.send("POST", f"{APP}/restart", headers=headers)).status == 200
        assert await api.revision() == before


@asynchronous
async def test_one_of_two_deploys_of_a_new_app_at_once_makes_revision_one(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        replies = await asyncio.gather(
            *[api.send("PUT", APP, SHOP.replace("3600", str(number)), headers={"If-Match": "0"}) for number in range(8)]
        )
        assert sorted(reply.status for reply in replies) == [200] + [412] * 7
        assert [item["number"] for item in (await api.get(f"{APP}/revisions"))["items"]] == [1]


@asynchronous
async def test_undo_deploys_an_earlier_revision_again(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.send("POST", f"{APP}/undo")).code == "not-found"
        await api.deploy()
        assert (await api.send("POST", f"{APP}/undo")).code == "conflict.no-earlier-revision"
        await api.deploy(SHOP.replace("3600", "1800"))
        await api.deploy(SHOP.replace("3600", "900"))
        before = {each["number"]: each["content_hash"] for each in (await api.get(f"{APP}/revisions"))["items"]}

        undone = (await api.send("POST", f"{APP}/undo")).document
        assert (undone["app_revision"], undone["unchanged"]) == (4, False)
        after = {each["number"]: each["content_hash"] for each in (await api.get(f"{APP}/revisions"))["items"]}
        assert after == {**before, 4: before[2]}, "history is only added to"
        assert (await api.get("/v1/events?namespace=default&app=shop"))["items"][0]["code"] == "Undone"

        first = (await api.send("POST", f"{APP}/undo", {"to": 1})).document
        assert first["app_revision"] == 5
        assert (await api.send("POST", f"{APP}/undo", {"to": 1})).document["unchanged"]
        revision = (await api.get(APP))["revision"]
        for body, code in (({"to": 77}, "not-found"), ({"to": "x"}, "input.body"), ({"back": 1}, "input.body")):
            assert (await api.send("POST", f"{APP}/undo", body)).code == code
        assert (await api.get(APP))["revision"] == revision, "bad input changes nothing"


@asynchronous
async def test_undo_keeps_what_was_scaled_unless_the_manifest_states_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        await api.deploy(SHOP.replace("3600", "1800"))
        await api.send("POST", f"{APP}/workers/db/scale", {"replicas": 4})
        await api.send("POST", f"{APP}/workers/web/scale", {"replicas": 9})
        workers = {each["id"]: each["replicas"] for each in (await api.send("POST", f"{APP}/undo")).document["workers"]}
        assert workers == {"web": 3, "db": 4}
