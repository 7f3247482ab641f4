"""The verbs that change something, and how they end."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from hsu_cluster.cli.session import Terminal
from hsu_cluster.cli.waiting import HealthWait
from hsu_cluster.client.client import ClusterClient
from hsu_core.model.ids import AppId
from hsu_core.model.lifecycle import State
from hsu_core.model.node import NodeState
from hsu_core.model.rollout import Rollout, RolloutPhase
from hsu_core.wire import keys
from hsu_core.wire.codec import encode
from tests.api.harness import ADMIN, asynchronous
from tests.cli.harness import SHOP, running_cli


@asynchronous
async def test_deploy_without_waiting_says_what_was_accepted(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        first = await cli.run("deploy", str(cli.shop), "--no-wait")
        assert first.output == "shop revision 1 is accepted\n"
        again = await cli.run("deploy", str(cli.shop), "--no-wait")
        assert again.output == "shop revision 1 is unchanged\n"


@asynchronous
async def test_deploy_ends_with_0_when_the_app_is_healthy(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        deploying = asyncio.create_task(cli.run("deploy", str(cli.shop)))
        await cli.until_deployed()
        await cli.place()
        lines = (await deploying).output.splitlines()
        assert lines[0] == "shop revision 1 is accepted"
        assert lines[-2] == "shop revision 1: Healthy, ready: web 2/2, db 1/1"
        assert lines[-1] == "all 3 instances are available"
        assert len(lines) == len(set(lines)), "a line is printed only when something changed"


@asynchronous
async def test_deploy_ends_with_1_and_the_reason_when_the_app_is_degraded(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        deploying = asyncio.create_task(cli.run("deploy", str(cli.shop), expect=1))
        await cli.until_deployed()
        await cli.place(State.RESTARTING, ready=False, restarts=4)
        errors = (await deploying).errors
        assert errors.startswith("error: cannot bring shop to health: ")
        assert "4 restarts (last exit: code 1)" in errors
        assert errors.endswith("see hsu-cluster rollout status shop [deploy.degraded]\n")


@asynchronous
async def test_deploy_ends_with_1_when_the_time_is_over(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        errors = (await cli.run("deploy", str(cli.shop), "--timeout", "300ms", expect=1)).errors
        assert "not healthy after 300ms" in errors
        assert errors.endswith("[deploy.timeout]\n")


@asynchronous
async def test_a_node_that_joins_late_is_waited_for(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.api.add_node("node-a", NodeState.LOST)
        deploying = asyncio.create_task(cli.run("deploy", str(cli.shop)))
        await cli.until_deployed()
        await cli.api.add_node("node-a")
        await cli.place()
        assert (await deploying).output.endswith("all 3 instances are available\n")


@asynchronous
async def test_ctrl_c_leaves_the_deploy_and_says_how_to_look_at_it(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        process = await cli.start("deploy", str(cli.shop))
        assert process.stdout is not None
        assert await process.stdout.readline() == b"shop revision 1 is accepted\n"
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert process.returncode == 130
        assert errors == b"the deploy goes on; look at it with: hsu-cluster describe shop\n"


@asynchronous
async def test_a_terminal_sees_a_tree(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        screen = io.StringIO()
        terminal = Terminal(Console(file=screen, force_terminal=True, width=100), Console(file=io.StringIO()))
        async with ClusterClient(cli.api.url, ADMIN) as cluster:
            assert await HealthWait(terminal, cluster, "default", "shop").run(10) == 0
        assert "├─ " in screen.getvalue()
        assert "\x1b[" in screen.getvalue()


FAULTY = """\
app: shop
workers:
  - id: web
    type: managed
    replicas: many
    unit: {managed: {control: {execution: {executable_path: /bin/sleep}}}}
    rolout: {}
"""


@asynchronous
async def test_a_faulty_file_ends_with_2_and_names_every_fault(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        file = tmp_path / "faulty.yaml"
        file.write_text(FAULTY)
        before = await cli.api.revision()
        for command in ("deploy", "validate"):
            lines = (await cli.run(command, str(file), expect=2)).errors.splitlines()
            assert lines[0] == f"error: cannot use manifest {file}: 2 faults [manifest.invalid]"
            assert lines[1].startswith(f"  {file}:5: workers.web.replicas: ") or f"{file}:5:" in lines[1]
            assert f"{file}:7:" in lines[2]
            assert "rollout" in lines[2]
        assert await cli.api.revision() == before
        assert "[manifest.invalid]" in (await cli.run("plan", str(file), expect=1)).errors


@asynchronous
async def test_a_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        errors = (await cli.run("deploy", str(tmp_path / "shp.yaml"), expect=2)).errors
        assert f"no such file or directory; did you mean {cli.shop}? [input.file]" in errors


@pytest.mark.parametrize(
    ("strategy", "told"), [("roling", "did you mean rolling?"), ("x", "use rolling, recreate, canary, blue-green")]
)
@asynchronous
async def test_strategies_that_are_refused(tmp_path: Path, strategy: str, told: str) -> None:
    async with running_cli(tmp_path) as cli:
        assert told in (await cli.run("deploy", str(cli.shop), "--strategy", strategy, expect=2)).errors


@asynchronous
async def test_a_deploy_with_the_pin_of_a_plan_is_refused_when_something_has_changed_since(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        pin = (await cli.run("plan", str(cli.shop), expect=2)).output.split("--pin ")[1].strip()
        assert json.loads((await cli.run("plan", str(cli.shop), "-o", "json", expect=2)).output)["pin"] == pin
        text = cli.shop.read_text()
        cli.shop.write_text(text.replace("3600", "1800"))
        errors = (await cli.run("deploy", str(cli.shop), "--no-wait", "--pin", pin, expect=1)).errors
        assert "the pin is not of this manifest: it was planned with other content" in errors
        cli.shop.write_text(text)
        await cli.run("deploy", str(cli.shop), "--no-wait", "--pin", pin)
        errors = (await cli.run("deploy", str(cli.shop), "--no-wait", "--pin", pin, expect=1)).errors
        assert "the app has changed since" in errors


@asynchronous
async def test_scale_says_that_a_rollout_waits_and_does_not_wait_for_it(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        app = AppId("default", "shop")
        waiting = Rollout(app, 1, phase=RolloutPhase.PAUSED, text="web waits for a person")
        await cli.api.store.put(keys.rollout(app), encode(waiting))
        told = (await cli.run("scale", "shop/web=3")).output
        assert (
            "shop/web is scaled to 3\nthe rollout of shop is paused (web waits for a person): until it goes on" in told
        )


@asynchronous
async def test_a_strategy_holds_for_every_worker(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait", "--strategy", "recreate")
        again = await cli.run("deploy", str(cli.shop), "--no-wait")
        assert again.output == "shop revision 2 is accepted\n", "another strategy is another revision"


@asynchronous
async def test_plan_ends_with_2_when_there_are_changes_and_0_when_not(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        told = (await cli.run("plan", str(cli.shop), expect=2)).output
        assert told.splitlines()[0] == "shop: 2 changes from nothing: a new app"
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        assert "no change" in (await cli.run("plan", str(cli.shop))).output
        cli.shop.write_text(SHOP.replace("3600", "1800"))
        assert "~ web" in (await cli.run("plan", str(cli.shop), expect=2)).output


@asynchronous
async def test_variables_of_the_command_line_win(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        cli.shop.write_text("vars: {n: 2}\n" + SHOP.replace("replicas: 2", "replicas: ${n}"))
        await cli.run("deploy", str(cli.shop), "--no-wait", "--var", "n=5")
        workers = (await cli.api.get("/v1/workers"))["items"]
        assert {worker["id"]: worker["replicas"] for worker in workers} == {"web": 5, "db": 1}
        assert "write --var NAME=VALUE" in (await cli.run("plan", str(cli.shop), "--var", "n", expect=1)).errors


@asynchronous
async def test_validate_needs_no_cluster_and_strict_makes_warnings_errors(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        told = (await cli.run("validate", str(cli.shop), "--strict")).output
        assert told == f"{cli.shop}: good: app shop, 2 workers, 3 instances\n"
        cli.shop.write_text("master: {port: 50055}\n" + SHOP)
        assert (await cli.run("validate", str(cli.shop))).errors.startswith(f"warning: {cli.shop}:1: master")
        strict = await cli.run("validate", str(cli.shop), "--strict", expect=2)
        assert strict.errors.splitlines()[-1].endswith("[manifest.warnings]")


@asynchronous
async def test_scale_waits_for_the_instances(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        assert (await cli.run("scale", "shop/web=2")).output == "shop/web is scaled to 2\ndone\n"
        late = await cli.run("scale", "shop/web=3", "--timeout", "200ms", expect=1)
        assert late.errors.startswith("error: cannot scale shop/web=3: not done after 200ms")
        assert "shop/web.2 is registered" in late.errors
        assert (await cli.run("scale", "shop/web=4", "--no-wait")).output == "shop/web is scaled to 4\n"


@pytest.mark.parametrize(
    "change", ["shop=3", "shop/web", "shop/web=x", "shop/web=-1", "shop/web=10001", "shop/web.1=2"]
)
@asynchronous
async def test_bad_scale_arguments_end_with_2(tmp_path: Path, change: str) -> None:
    async with running_cli(tmp_path) as cli:
        assert (await cli.run("scale", change, expect=2)).errors.startswith("error: cannot ")


@asynchronous
async def test_restart_waits_for_other_processes(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place(pid=4000)
        restarting = asyncio.create_task(cli.run("restart", "shop/web"))
        await cli.until_restarted("web")
        assert not restarting.done(), "the old processes are no answer"
        await cli.place(pid=5000, generation=1)
        assert (await restarting).output == "shop/web is restarted\ndone\n"


@asynchronous
async def test_stop_and_start_wait_for_their_outcome(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        stopping = asyncio.create_task(cli.run("stop", "shop"))
        await asyncio.wait({stopping}, timeout=0.2)
        await cli.place(State.STOPPED, ready=False)
        assert (await stopping).output == "shop is being stopped\ndone\n"
        starting = asyncio.create_task(cli.run("start", "shop"))
        await asyncio.wait({starting}, timeout=0.2)
        await cli.place()
        assert (await starting).output == "shop is being started\ndone\n"


@asynchronous
async def test_remove_prints_what_it_removed_and_waits_until_it_is_gone(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        removing = asyncio.create_task(cli.run("remove", "shop"))
        await asyncio.wait({removing}, timeout=0.3)
        await cli.clear()
        lines = (await removing).output.splitlines()
        assert lines[0] == "shop is removed, with 3 instances"
        assert [line.split()[0] for line in lines[2:-1]] == ["shop/db.0", "shop/web.0", "shop/web.1"]
        assert lines[-1] == "done"
        assert "[not-found]" in (await cli.run("remove", "shop", expect=1)).errors


@asynchronous
async def test_a_part_of_an_app_is_not_removed(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        errors = (await cli.run("remove", "shop/web", expect=2)).errors
        assert "take the worker out of the manifest" in errors
