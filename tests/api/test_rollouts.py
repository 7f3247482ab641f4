"""Reading rollouts and asking something of them: what means nothing is refused, and nothing is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsu_core.model.assignment import AppRecord
from hsu_core.model.ids import AppId
from hsu_core.model.rollout import Rollout, RolloutPhase, Stage, WorkerRollout
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from tests.api.harness import APP, SHOP, Api, asynchronous, running_api

ROLLOUT = f"{APP}/rollout"
APP_ID = AppId("default", "shop")
WAITING = WorkerRollout(
    "web", "canary", Stage.STEPS, step=1, position=4, weight=25, is_paused=True, waits_for="a person"
)


async def _asked(api: Api) -> Any:
    entry = await api.store.get(keys.app(APP_ID))
    assert entry is not None
    return decode(AppRecord, entry.value).rollout


async def _second_revision(api: Api, **fields: Any) -> None:
    """Deploy two revisions, and record how far the rollout of the second is."""
    await api.deploy()
    await api.deploy(SHOP.replace("3600", "1800"))
    rollout = Rollout(APP_ID, 2, 1, phase=RolloutPhase.PAUSED, workers=(WAITING,), text="web waits for a person")
    changed = encode(rollout) if not fields else encode(Rollout(APP_ID, 2, 1, workers=(WAITING,), **fields))
    await api.store.put(keys.rollout(APP_ID), changed)


@asynchronous
async def test_a_rollout_is_read_before_a_leader_has_seen_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.send("GET", ROLLOUT)).status == 404
        await api.deploy()
        found = await api.get(ROLLOUT)
        assert (found["phase"], found["app_revision"], found["stable_revision"]) == ("Progressing", 1, 0)
        assert [worker["worker"] for worker in found["workers"]] == ["web", "db"]
        assert [item["app"] for item in (await api.get("/v1/rollouts?namespace=default"))["items"]] == ["shop"]


@asynchronous
async def test_what_waits_is_promoted_once_for_its_place(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _second_revision(api)
        assert (await api.send("POST", f"{ROLLOUT}/promote", {"worker": "web"})).status == 200
        assert (await _asked(api)).promoted == (("web", 4),)
        before = await api.revision()
        assert (await api.send("POST", f"{ROLLOUT}/promote")).status == 200
        assert await api.revision() == before, "asked twice at the same place: nothing to do"
        assert (await api.send("POST", f"{ROLLOUT}/promote", {"worker": "wbe"})).status == 404
        assert (await api.send("POST", f"{ROLLOUT}/promote", {"full": True})).status == 200
        assert (await _asked(api)).is_full


@asynchronous
async def test_an_abort_wins_and_a_retry_begins_anew(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _second_revision(api)
        for verb in ("pause", "resume", "abort"):
            assert (await api.send("POST", f"{ROLLOUT}/{verb}")).status == 200
        reply = await api.send("POST", f"{ROLLOUT}/promote", {"full": True})
        assert (reply.status, reply.code) == (409, "conflict.aborted")
        assert (await api.send("POST", f"{ROLLOUT}/abort")).status == 200, "asked twice: still aborted"
        assert (await api.send("POST", f"{ROLLOUT}/retry")).status == 200
        asked = await _asked(api)
        assert (asked.revision, asked.attempt, asked.is_aborted, asked.promoted) == (2, 1, False, ())
        codes = [event["code"] for event in (await api.get("/v1/events?namespace=default&app=shop"))["items"]]
        assert codes[:4] == ["RetryRequested", "AbortRequested", "ResumeRequested", "PauseRequested"]


@asynchronous
async def test_verbs_that_mean_nothing_now_say_what_to_do_instead(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        assert (await api.send("POST", f"{ROLLOUT}/abort")).code == "conflict.no-stable"
        assert (await api.send("POST", f"{ROLLOUT}/promote")).code == "conflict.not-waiting"
        assert (await api.send("POST", f"{ROLLOUT}/retry")).code == "conflict.not-failed"
        over = Rollout(APP_ID, 1, phase=RolloutPhase.HEALTHY, ended_at=5.0, text="revision 1 is rolled out")
        await api.store.put(keys.rollout(APP_ID), encode(over))
        for verb in ("promote", "pause", "resume", "abort"):
            reply = await api.send("POST", f"{ROLLOUT}/{verb}")
            assert (reply.status, reply.code) == (409, "conflict.rollout-over")
            assert "hsu-cluster rollout undo shop" in reply.text


@asynchronous
async def test_undo_and_restart_are_verbs_of_the_rollout_too(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _second_revision(api, phase=RolloutPhase.HEALTHY, ended_at=5.0)
        undone = (await api.send("POST", f"{ROLLOUT}/undo", {"to": 1})).document
        assert undone["app_revision"] == 3
        assert (await api.send("POST", f"{ROLLOUT}/restart", {"worker": "web"})).status == 200


@asynchronous
async def test_a_slot_of_a_second_set_is_asked_for_by_its_own_number(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.deploy()
        part = WorkerRollout("web", "blue-green", Stage.DONE, 100, 100)
        over = Rollout(APP_ID, 1, phase=RolloutPhase.HEALTHY, workers=(part,), ended_at=5.0)
        await api.store.put(keys.rollout(APP_ID), encode(over))
        assert (await api.send("POST", f"{APP}/stop", {"worker": "web", "slot": 102})).status == 200
        entry = await api.store.get(keys.app(APP_ID))
        assert entry is not None
        assert decode(AppRecord, entry.value).intent("web").stopped_slots == (2,)
        reply = await api.send("POST", f"{APP}/stop", {"worker": "web", "slot": 1})
        assert (reply.status, reply.code) == (404, "not-found.instance")
        assert "are numbered from 100" in reply.text


@asynchronous
async def test_the_history_tells_what_became_of_each_revision(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _second_revision(api)

        async def states() -> list[str]:
            return [item["state"] for item in (await api.get(f"{APP}/revisions"))["items"]]

        assert await states() == ["stable", "rolling-out"]
        failed = Rollout(APP_ID, 2, 1, phase=RolloutPhase.DEGRADED, failed_at=5.0, ended_at=9.0)
        await api.store.put(keys.rollout(APP_ID), encode(failed))
        assert await states() == ["stable", "failed"]
        await api.store.put(
            keys.rollout(APP_ID), encode(Rollout(APP_ID, 2, 1, phase=RolloutPhase.HEALTHY, ended_at=9.0, proven=(1,)))
        )
        assert await states() == ["proven", "stable"]


@asynchronous
async def test_a_refused_pin_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        pin = (await api.send("PUT", f"{APP}?dry_run=true", SHOP)).document["pin"]
        cases = {
            "nonsense": (400, "is no pin of a plan"),
            "3-zz": (400, "is no pin of a plan"),
            f"0-{'0' * len(pin.partition('-')[2])}": (412, "it was planned with other content or variables, or never"),
            f"7{pin}": (412, "the app has changed since"),
        }
        for asked, (status, text) in cases.items():
            answer = await api.send("PUT", f"{APP}?pin={asked}", SHOP)
            assert (answer.status, text in answer.text) == (status, True), answer.text
        assert (await api.send("PUT", f"{APP}?pin={pin}", SHOP)).status == 200
