"""Measuring as leader: real servers and programs, records that lose and double nothing, and bounds to what is taken."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from hsu_core.model.analysis import BuiltinFigure, ExecQuery, PrometheusQuery, Verdict, WebQuery
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.api.harness import asynchronous
from tests.leader.measuring_harness import (
    RUN,
    START,
    end_run,
    measured,
    measuring,
    metric,
    new_run,
    serving,
    vector,
)
from tests.support.builders import SHOP, make_assignment, make_status, slot
from tests.support.waiting import eventually

S, F, E, IN = Verdict.SUCCESSFUL, Verdict.FAILED, Verdict.ERROR, Verdict.INCONCLUSIVE


# Prometheus and web


@asynchronous
async def test_prometheus_is_asked_in_its_interval_until_the_count_is_reached() -> None:
    async with serving(vector(0.25), vector(0.5)) as server:
        query = PrometheusQuery(server.url, 'errors{app="{app}",revision="{revision}"}')
        async with measured(metric(query, success_condition="result[0] < 1", count=2)) as world:
            await world.until(lambda run: run.metric("m").answered == 1)
            world.advance(4.9)
            world.advance(0.1)
            run = await world.over()
            assert run.verdict is S
            assert [(each.at, each.value) for each in run.metrics[0].measurements] == [
                (START, "[0.25]"),
                (START + 5, "[0.5]"),
            ]
            assert run.finished_at == START + 5
            assert server.asked[0] == "/api/v1/query?query=errors%7Bapp%3D%22shop%22,revision%3D%223%22%7D"
            (event,) = await world.events()
            assert (event.code, event.subject, event.app) == ("AnalysisSuccessful", "shop/web", "shop")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (vector(), "[]"),
        (vector("NaN", "+Inf", "1e3"), "[NaN, Infinity, 1000.0]"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "7"]}}, "7.0"),
        ({"status": "success", "data": {"resultType": "string", "result": [1.0, "x"]}}, '"x"'),
    ],
)
@asynchronous
async def test_answers_of_prometheus_become_numbers_and_lists(answer: Any, value: str) -> None:
    async with serving(answer) as server:
        condition = "isNull(result) or true"
        async with measured(metric(PrometheusQuery(server.url, "q"), success_condition=condition)) as world:
            assert (await world.over()).metrics[0].measurements[0].value == value


@asynchronous
async def test_a_part_of_a_json_answer_is_judged() -> None:
    async with serving({"data": {"rates": [0.1, 7]}}) as server:
        web_query = WebQuery(server.url + "/{worker}/{stable}", "$.data.rates[1]")
        async with measured(metric(web_query)) as world:
            run = await world.over()
            assert (run.verdict, run.metrics[0].measurements[0].value) == (F, "7")
            assert run.text == "metric m: 1 measurement was failed, more than 0 (last: 7)"
            assert server.asked == ["/web/2"]
            assert (await world.events())[0].code == "AnalysisFailed"


async def _status(request: web.Request) -> web.Response:
    return web.Response(status=503, text="busy")


async def _text(request: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def _large(request: web.Request) -> web.Response:
    return web.json_response(["x" * 70_000])


async def _deep(request: web.Request) -> web.Response:
    return web.Response(text="[" * 30_000 + "]" * 30_000)


async def _elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://192.0.2.1/")


async def _forever(request: web.Request) -> web.Response:
    raise web.HTTPFound(str(request.rel_url))


async def _bad_query(request: web.Request) -> web.Response:
    return web.json_response({"status": "error", "errorType": "bad_data", "error": "parse error"}, status=400)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (_status, "status 503"),
        (_text, "the answer is no JSON"),
        (_large, "the answer has more than 64 KiB"),
        (_deep, ""),
        (_elsewhere, "it leads to another server (http://192.0.2.1/)"),
        (_forever, "more than 5 redirects"),
        ({"other": 1}, "there is no field 'ok'"),
    ],
)
@asynchronous
async def test_what_is_no_answer_is_an_error_with_its_reason(answer: Any, why: str) -> None:
    async with serving(answer) as server:
        async with measured(metric(WebQuery(server.url, "$.ok"), consecutive_error_limit=0)) as world:
            run = await world.over()
            assert run.verdict is E
            assert why in run.metrics[0].measurements[0].text
            assert run.metrics[0].measurements[0].text.startswith("cannot ask http://127.0.0.1:")


@asynchronous
async def test_secrets_of_a_url_are_not_in_the_reason() -> None:
    async with serving(_status) as server:
        url = server.url.replace("//", "//me:hidden@") + "/x?token=hidden"
        async with measured(metric(WebQuery(url), consecutive_error_limit=0)) as world:
            run = await world.over()
            assert "hidden" not in run.text
            assert "/x: status 503" in run.text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (_bad_query, "status 400, parse error"),
        (_text, "status 200, no answer of Prometheus"),
        ({"status": "success"}, "an answer of an unknown form"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "the query gives a matrix"),
    ],
)
@asynchronous
async def test_what_is_no_answer_of_prometheus_is_an_error(answer: Any, why: str) -> None:
    async with serving(answer) as server:
        query = PrometheusQuery(server.url, "q")
        async with measured(metric(query, consecutive_error_limit=0)) as world:
            assert why in (await world.over()).metrics[0].measurements[0].text


@asynchronous
async def test_a_redirect_on_the_same_server_is_followed() -> None:
    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/there")

    async with serving(moved, {"ok": 0}) as server, measured(metric(WebQuery(server.url, "$.ok"))) as world:
        assert (await world.over()).verdict is S
        assert server.asked == ["/", "/there"]


@asynchronous
async def test_an_answer_that_takes_too_long_is_an_error_and_is_asked_for_again_after_ten_seconds() -> None:
    async with serving({"ok": 0}) as server:
        server.gate = asyncio.Event()
        async with measured(metric(WebQuery(server.url, "$.ok", timeout_s=0.05))) as world:
            run = await world.until(lambda run: run.metric("m").errors == 1)
            assert "no answer within 0.05 s" in run.metrics[0].measurements[0].text
            assert run.verdict is Verdict.RUNNING
            server.gate.set()
            world.advance(9.9)
            world.advance(0.1)
            run = await world.over()
            assert (run.verdict, run.metrics[0].errors, run.metrics[0].measurements[1].at) == (S, 1, START + 10)


@asynchronous
async def test_a_server_that_is_not_there_ends_the_run_after_five_tries() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        query = WebQuery(f"http://127.0.0.1:{free.getsockname()[1]}")
        async with measured(metric(query)) as world:
            for tries in range(1, 6):
                await world.until(lambda run, tries=tries: run.metric("m").errors == tries)
                world.advance(10)
            run = await world.over()
            assert (run.verdict, run.finished_at) == (E, START + 40)
            assert "5 measurements were consecutive without an answer, more than 4" in run.text


# Programs


SCRIPT = """
import json, os, sys
print(json.dumps({"args": sys.argv[1:], "names": sorted(os.environ), "app": os.environ["HSU_APP"]}))
sys.exit(3)
"""


@asynchronous
async def test_a_program_gives_its_exit_code_and_its_json_and_sees_nothing_of_the_masters_environment() -> None:
    conditions = (
        "result.exit_code == 3 and result.output.args[0] == 'shop/web' and result.output.app == 'shop' "
        "and not (len(result.output.names) > 9)"
    )
    query = ExecQuery((sys.executable, "-I", "-c", SCRIPT, "{app}/{worker}"))
    os.environ.setdefault("HSU_TEST_SECRET", "x")
    async with measured(metric(query, success_condition=conditions), can_execute=True) as world:
        run = await world.over()
        assert run.verdict is S, run
        assert run.metrics[0].measurements[0].value.startswith('{"exit_code": 3, "output": {"args": ["shop/web"]')


@asynchronous
async def test_what_a_program_prints_is_a_text_if_it_is_no_json() -> None:
    query = ExecQuery(("/bin/echo", "all", "is well"))
    async with measured(metric(query, success_condition="result.output == 'all is well'"), can_execute=True) as world:
        assert (await world.over()).verdict is S


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/nowhere/check",), "No such file or directory"),
        ((sys.executable, "-c", "print('x' * 70000)"), "it printed more than 64 KiB and was killed"),
        (("/bin/sh", "-c", "kill -9 $$"), "it was ended by signal 9"),
    ],
)
@asynchronous
async def test_a_program_that_gives_no_answer_is_an_error(command: tuple[str, ...], why: str) -> None:
    async with measured(metric(ExecQuery(command), consecutive_error_limit=0), can_execute=True) as world:
        assert why in (await world.over()).metrics[0].measurements[0].text


@asynchronous
async def test_a_program_that_takes_too_long_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    script = f"sleep 600 & echo $! $$ > {ids}.new; mv {ids}.new {ids}; wait"
    query = ExecQuery(("/bin/sh", "-c", script), timeout_s=1.0)
    async with measured(metric(query, consecutive_error_limit=0), can_execute=True) as world:
        run = await world.over()
        assert "no answer within 1 s" in run.text
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ids.read_text().split()))


@asynchronous
async def test_a_master_runs_no_program_unless_it_is_allowed_to(tmp_path: Path) -> None:
    query = ExecQuery(("/bin/sh", "-c", f"echo > {tmp_path}/made"))
    async with measured(metric(query, consecutive_error_limit=0)) as world:
        run = await world.over()
        assert run.verdict is E
        assert "set `analysis: {allow_exec: true}`" in run.metrics[0].measurements[0].text
        assert not list(tmp_path.iterdir())


# Built-in figures


@asynchronous
async def test_a_figure_is_taken_of_the_present_view() -> None:
    async with measured(metric(BuiltinFigure("restarts"), success_condition="result == 2")) as world:
        await world.until(lambda run: run.metric("m").errors == 1)  # there is no instance yet
        order = make_assignment(slot("web", 0), "node-a", revision=3)
        await world.store.put(keys.assignment(order.instance), encode(order))
        status = make_status(order, restarts=2)
        await world.store.put(keys.status(status.instance, "node-a"), encode(status))
        world.advance(10)
        assert (await world.over()).verdict is S


@asynchronous
async def test_an_analysis_that_its_revision_does_not_have_is_an_error() -> None:
    async with measured(metric(BuiltinFigure("ready"))) as world:
        await world.store.delete(keys.revision(SHOP, 3))
        world.advance(60)
        run = await world.over()
        assert (run.verdict, run.text) == (E, "revision 3 of shop has no analysis errors")


# Who writes what


@asynchronous
async def test_ending_a_run_while_it_is_measured_is_not_lost_and_neither_is_the_measurement() -> None:
    async with serving({"ok": 0}) as server:
        server.gate = asyncio.Event()
        query = metric(WebQuery(server.url, "$.ok"), count=0)
        async with measured(query, is_background=True) as world:
            await eventually(lambda: len(server.asked) == 1)
            await end_run(world)
            assert (await world.read_run()).finished_at is None  # one sample first
            server.gate.set()
            run = await world.over()
            assert (run.is_ended, run.verdict, run.metrics[0].answered) == (True, S, 1)


@asynchronous
async def test_ending_and_measuring_at_the_same_time_keep_both() -> None:
    async with serving({"ok": 0}) as server:
        metrics = [metric(WebQuery(server.url, "$.ok"), f"m{number}", count=0) for number in range(10)]
        async with measured(*metrics, is_background=True) as world:
            for number in range(1, 6):
                await world.until(
                    lambda run, number=number: run.metrics and all(each.answered >= number for each in run.metrics)
                )
                if number == 5:
                    await end_run(world)
                world.advance(5)
            run = await world.over()
            assert run.is_ended
            assert sum(each.answered for each in run.metrics) >= 50
            assert all(each.verdict is S for each in run.metrics)


@asynchronous
async def test_an_inline_run_that_is_ended_is_over_without_another_measurement() -> None:
    async with serving({"ok": 0}) as server:
        async with measured(metric(WebQuery(server.url, "$.ok"), count=5, initial_delay_s=60.0)) as world:
            await world.until(lambda run: run.metrics)
            await end_run(world)
            assert (await world.over()).verdict is S
            assert server.asked == []


@asynchronous
async def test_a_run_that_is_dropped_while_it_is_measured_is_not_written_again() -> None:
    async with serving({"ok": 0}) as server:
        server.gate = asyncio.Event()
        async with measured(metric(WebQuery(server.url, "$.ok"))) as world:
            await eventually(lambda: len(server.asked) == 1)
            await world.store.delete(keys.run(SHOP, RUN))
            server.gate.set()
            await eventually(lambda: not world.measurer._asking and not world.measurer._answers)  # type: ignore[union-attr]
            assert await world.store.get(keys.run(SHOP, RUN)) is None


@asynchronous
async def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    async with serving({"ok": 0}) as server:
        query = metric(WebQuery(server.url, "$.ok"), count=3)
        async with measuring(query) as world:
            async with world.leading():
                await world.until(lambda run: run.metric("m").answered == 1)
                server.gate = asyncio.Event()
                world.advance(5)
                await eventually(lambda: len(server.asked) == 2)  # and this answer comes too late
            server.gate.set()
            async with world.leading():
                await world.until(lambda run: run.metric("m").answered == 2)
                world.advance(5)
                run = await world.over()
            assert [each.at for each in run.metrics[0].measurements] == [START, START + 5, START + 10]
            assert len(server.asked) == 4


@asynchronous
async def test_a_deposed_leader_writes_no_measurement() -> None:
    async with serving({"ok": 0}) as server:
        server.gate = asyncio.Event()
        async with measuring(metric(WebQuery(server.url, "$.ok"))) as world:

            async def lead() -> None:
                async with world.leading():
                    await eventually(lambda: len(server.asked) == 1)
                    await world.store.delete(keys.LEADER)
                    server.gate.set()
                    await asyncio.Event().wait()

            with pytest.raises(ExceptionGroup) as caught:
                await lead()
            assert "another master leads now" in str(caught.value.exceptions[0])
            assert (await world.read_run()).metric("m").answered == 0


@asynchronous
async def test_an_answer_is_kept_while_the_store_does_not_take_it() -> None:
    async with serving({"ok": 0}) as server:
        server.gate = asyncio.Event()
        async with measured(metric(WebQuery(server.url, "$.ok"))) as world:
            await eventually(lambda: len(server.asked) == 1)
            world.store.refuses = True
            server.gate.set()
            await eventually(lambda: world.store.refused > 1)
            world.store.refuses = False
            assert (await world.over()).metrics[0].answered == 1
            assert len(server.asked) == 1


@asynchronous
async def test_runs_that_are_over_are_left_alone() -> None:
    async with measuring(metric(BuiltinFigure("ready"))) as world:
        await world.put_run(new_run(verdict=F, finished_at=START))
        before = await world.store.get(keys.run(SHOP, RUN))
        async with world.leading():
            await world.put_run(replace(new_run(), id="other"))
            await eventually(lambda: world.snapshot and world.snapshot.view().runs[SHOP, "other"].metrics)
        assert await world.store.get(keys.run(SHOP, RUN)) == before


# The real Prometheus


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="the program prometheus is not installed")
@pytest.mark.slow
@asynchronous
async def test_the_real_prometheus_is_asked(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text("global: {scrape_interval: 1s}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://{address}/-/ready") as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    pass
                await asyncio.sleep(0.1)
        url = f"http://{address}"
        metrics = (
            metric(PrometheusQuery(url, "vector(0.5)"), "vector", success_condition="result[0] == 0.5"),
            metric(PrometheusQuery(url, "scalar(vector(2)) * 3"), "scalar", success_condition="result == 6"),
            metric(PrometheusQuery(url, "nothing"), "empty", success_condition="len(result) == 0"),
            metric(PrometheusQuery(url, "up[5m]"), "matrix", is_dry_run=True),
            metric(PrometheusQuery(url, "sum("), "broken", is_dry_run=True),
        )
        async with measured(*metrics) as world:
            run = await world.over()
            assert run.verdict is S, run
    finally:
        process.terminate()
        await process.wait()
