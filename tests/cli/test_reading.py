"""The verbs that look, the node verbs, and the errors every verb can end with."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from hsu_cluster.cli.commands_read import _tail_events, _watch
from hsu_cluster.cli.kinds import Query
from hsu_cluster.cli.log_lines import OVERLAP_S
from hsu_cluster.cli.logs import follow_logs
from hsu_cluster.cli.session import Session, Terminal
from hsu_cluster.client.client import ClusterClient
from hsu_core.model.enforcement import HostLayout
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.log_query import LogQuery
from tests.api.harness import ADMIN, asynchronous, eventually
from tests.cli.harness import Cli, running_cli

WEB = InstanceId("default", "shop", "web", 0)

LISTS = {
    "apps": "/v1/apps",
    "workers": "/v1/workers",
    "instances": "/v1/instances",
    "endpoints": "/v1/endpoints",
    "routes": "/v1/routes",
    "nodes": "/v1/nodes",
    "events": "/v1/events",
}


@asynchronous
async def test_json_and_yaml_are_the_documents_of_the_api(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        for kind, path in LISTS.items():
            document = await cli.api.get(path)
            assert json.loads((await cli.run("get", kind, "-o", "json")).output) == document
            assert yaml.safe_load((await cli.run("get", kind, "-o", "yaml")).output) == document
        app = await cli.api.get("/v1/namespaces/default/apps/shop")
        assert json.loads((await cli.run("get", "app", "shop", "-o", "json")).output) == app
        revisions = await cli.api.get("/v1/namespaces/default/apps/shop/revisions")
        assert json.loads((await cli.run("get", "revisions", "shop", "-o", "json")).output) == revisions


@asynchronous
async def test_lists_can_be_narrowed(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()

        async def first_column(*arguments: str) -> list[str]:
            return [line.split()[0] for line in (await cli.run("get", *arguments)).output.splitlines()[1:]]

        assert await first_column("instances") == ["shop/db.0", "shop/web.0", "shop/web.1"]
        assert await first_column("instances", "shop/web") == ["shop/web.0", "shop/web.1"]
        assert await first_column("instance", "shop/web.1") == ["shop/web.1"]
        assert await first_column("workers", "shop/db") == ["shop/db"]
        assert await first_column("nodes", "node-a") == ["node-a"]
        assert (await cli.run("get", "apps", "-n", "elsewhere")).output == "no apps\n"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("get", "instnaces"), 2, "did you mean instances? [input.kind]"),
        (("get", "apps", "-o", "jsn"), 2, "did you mean json? [input.format]"),
        (("get", "revisions"), 2, "write: get revisions APP"),
        (("get", "apps", "shop/web"), 2, "write: get apps APP"),
        (("get", "routes", "shop/web"), 2, "write: get routes [APP]"),
        (("get", "instances", "shop/wbe"), 1, "did you mean shop/web? [not-found]"),
        (("get", "apps", "nothing"), 1, "[not-found]"),
        (("get", "instances", "a b"), 2, "write APP, APP/WORKER or APP/WORKER.SLOT"),
        (("describe", "shop/wbe"), 1, "did you mean shop/web? [not-found]"),
        (("describe", "shop/web.7"), 1, "[not-found]"),
        (("describe", "node/nothing"), 1, "[not-found]"),
        (("logs", "nothing"), 1, "[not-found]"),
        (("logs", "shop/wbe"), 1, "did you mean shop/web? [not-found]"),
        (("logs", "shop", "--tail", "-1"), 2, "[usage]"),
        (("node", "cordon", "nothing"), 1, "[not-found]"),
        (("node", "remove", "node-a"), 1, "[node.present]"),
        (("node", "drian", "x"), 2, "did you mean drain? [usage]"),
        (("deply", "x"), 2, "did you mean deploy? [usage]"),
        (("get", "apps", "--sever", "x"), 2, "did you mean --server? [usage]"),
        (("deploy",), 2, "see hsu-cluster deploy --help [usage]"),
        (("plan",), 1, "see hsu-cluster plan --help [usage]"),
        (("restart", "shop", "--timeout", "soon"), 2, "write for example 30s or 1m30s"),
    ],
)
@asynchronous
async def test_mistakes_are_answered_with_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], status: int, told: str
) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        result = await cli.run(*arguments, expect=status)
        assert result.errors.startswith("error: cannot ")
        assert told in result.errors
        assert result.output == ""


@asynchronous
async def test_the_doctor_ends_with_1_when_a_worker_states_a_limit_that_is_not_held(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.api.add_node("node-a", host=HostLayout())
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        assert "no worker states a limit that is not held" in (await cli.run("doctor")).output
        limited = "    limits: {cpu_shares: 100}\n  - id: db"
        cli.shop.write_text(cli.shop.read_text().replace("  - id: db", limited))
        await cli.run("deploy", str(cli.shop), "--no-wait")
        told = (await cli.run("doctor", expect=1)).output
        assert "worker shop/web (default):" in told
        assert "cpu_shares is not held on node-a: this host has no cpu controller" in told
        assert "cpu_shares is not held on node-a" in (await cli.run("describe", "shop/web")).output
        assert "cpu_shares is not held: this host" in (await cli.run("describe", "node/node-a")).output


@asynchronous
async def test_describe_shows_every_kind_of_object(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        for target, told in {
            "shop": "Phase:      Healthy",
            "shop/web": "Replicas:   2",
            "shop/web.1": "Process:    4001",
            "node/node-a": "Memory:",
        }.items():
            assert told in (await cli.run("describe", target)).output


@asynchronous
async def test_status_and_events(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        told = (await cli.run("status")).output
        assert told.startswith("Leader:")
        assert "Nodes:   1 ready" in told
        assert {"cluster", "nodes", "apps"} == json.loads((await cli.run("status", "-o", "json")).output).keys()
        assert (await cli.run("events", "shop")).output == (await cli.run("get", "events", "shop")).output


@asynchronous
async def test_node_verbs(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        assert (await cli.run("node", "cordon", "node-a")).output == "node node-a is cordoned\n"
        assert "ready, cordoned" in (await cli.run("node", "list")).output
        drained = await cli.run("node", "drain", "node-a")
        assert drained.output == "node node-a is being drained of 0 instances\ndone\n"
        assert (await cli.run("node", "uncordon", "node-a")).output == "node node-a takes instances again\n"
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        late = await cli.run("node", "drain", "node-a", "--timeout", "200ms", expect=1)
        assert "3 instances left after 200ms: shop/db.0 stays on node-a, no other node can take it" in late.errors
        assert late.output.count("\n") == 2
        assert "shop/db.0 stays on node-a" in (await cli.run("node", "list")).output
        assert "3 instances left" in (await cli.run("describe", "node/node-a")).output
        plan = (await cli.run("node", "drain", "node-a", "--dry-run")).output.splitlines()
        assert plan[0] == "0 of 3 instances would leave node node-a"
        assert plan[1].startswith("  shop/db.0 stays on node-a, no other")
        assert plan[4:] == ["shop/db: all 1 stay ready", "shop/web: all 2 stay ready"]
        kept = await cli.run("node", "drain", "node-a", "--cancel")
        assert kept.output == "node node-a keeps what it has, and is cordoned\n"
        assert "ready, cordoned" in (await cli.run("node", "list")).output
        assert "exclude each other" in (await cli.run("node", "drain", "x", "--force", "--cancel", expect=2)).errors


@asynchronous
async def test_an_interrupted_wait_says_that_the_drain_goes_on(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        process = await cli.start("node", "drain", "node-a")
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.readline() == b"node node-a is being drained of 3 instances\n"
        process.send_signal(signal.SIGINT)
        errors = (await process.stderr.read()).decode()
        assert errors == "the drain of node node-a goes on; stop it with `hsu-cluster node drain node-a --cancel`\n"
        assert await process.wait() == 130
        assert (await cli.api.get("/v1/nodes/node-a"))["draining"]


@asynchronous
async def test_rebalance_verbs(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        told = (await cli.run("node", "rebalance", "--status")).output
        assert told == "idle: nobody has asked for a rebalance\n"
        assert (await cli.run("node", "rebalance", "--dry-run")).output == (
            "no move would make it better by a clear margin\n"
        )
        assert json.loads((await cli.run("node", "rebalance", "--dry-run", "-o", "json")).output)["moves"] == []
        begun = await cli.run("node", "rebalance", "--no-wait", "--max-moves", "2")
        assert begun.output == "the rebalance begins; see hsu-cluster node rebalance --status\n"
        assert "one is on its way" in (await cli.run("node", "rebalance", expect=1)).errors
        assert (await cli.run("node", "rebalance", "--status")).output.startswith("requested: waits for the leader")
        assert (await cli.run("node", "rebalance", "--cancel")).output.startswith("idle: ")
        late = await cli.run("node", "rebalance", "--timeout", "200ms", expect=1)
        assert "it is not over after 200ms: waits for the leader to begin; it goes on" in late.errors
        both = await cli.run("node", "rebalance", "--cancel", "--dry-run", expect=2)
        assert "exclude each other" in both.errors


@asynchronous
async def test_logs_of_several_instances_have_their_names_in_front(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        cli.api.leader.logged = {
            InstanceId("default", "shop", "db", 0): [b"ready\n"],
            InstanceId("default", "shop", "web", 0): [b"one\ntw", b"o\n"],
            InstanceId("default", "shop", "web", 1): [],
        }
        told = (await cli.run("logs", "shop")).output
        assert told == "db.0  | ready\nweb.0 | one\nweb.0 | two\n"
        assert (await cli.run("logs", "shop/web.0")).output == "one\ntwo\n"


@asynchronous
async def test_followed_logs_come_as_they_are_written(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli, ClusterClient(cli.api.url, ADMIN) as cluster:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        cli.api.leader.logged = {WEB: [b"2026-01-31T12:00:00.123Z one\n", b"2026-01-31T12:00:00.124Z two\n"]}
        watching = Watching(cli)
        task = asyncio.create_task(_follow(watching, cluster, tail=1))
        assert await watching.lines(1) == ["web.0 | two"]
        await _end(task)


@asynchronous
async def test_a_followed_log_goes_on_where_it_was_cut_and_with_later_instances(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli, ClusterClient(cli.api.url, ADMIN) as cluster:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.api.assign(0, "node-a")
        cli.api.leader.logged = {WEB: [b"2026-01-31T12:00:00.123Z one\n", b"2026-01-31T12:00:00.123Z two\n"]}
        cli.api.leader.fails_after = 1
        watching = Watching(cli)
        task = asyncio.create_task(_follow(watching, cluster, tail=100))
        first = await watching.lines(2)
        assert first[0] == "one"
        assert first[1].startswith("the log of web.0 is cut, and goes on when")
        cli.api.leader.fails_after = None
        assert (await watching.lines(3))[2:] == ["two"]
        assert cli.api.leader.asked_logs[-1].since_at == pytest.approx(1769860800.123 - OVERLAP_S)
        cli.api.leader.logged[InstanceId("default", "shop", "web", 1)] = [b"2026-01-31T12:00:01.000Z new\n"]
        await cli.api.assign(1, "node-a")
        assert (await watching.lines(4))[3:] == ["web.1 | new"]
        await _end(task)


@asynchronous
async def test_a_followed_log_ends_when_nothing_of_it_is_left(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli, ClusterClient(cli.api.url, ADMIN) as cluster:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.api.assign(0, "node-a")
        cli.api.leader.logged = {WEB: [b"2026-01-31T12:00:00.123Z one\n"]}
        cli.api.leader.is_ended = True
        watching = Watching(cli)
        assert await _follow(watching, cluster, tail=100, is_timed=True) == 0
        assert watching.screen.getvalue() == "2026-01-31T12:00:00.123Z one\n"


@asynchronous
async def test_logs_can_end_at_a_time_unless_they_are_followed(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        cli.api.leader.logged = {WEB: [b"one\n"]}
        await cli.run("logs", "shop/web.0", "--until", "2026-01-31T12:00:00Z", "-t")
        assert cli.api.leader.asked_logs == [LogQuery(100, until_at=1769860800.0, is_timed=True)]
        assert "leave one of them out" in (await cli.run("logs", "shop", "-f", "--until", "1m", expect=2)).errors
        assert "cannot read --until" in (await cli.run("logs", "shop", "--until", "soon", expect=2)).errors


@asynchronous
async def test_a_log_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        cli.api.leader.seen.clear()
        assert "[node.unreachable]" in (await cli.run("logs", "shop/web.0", expect=1)).errors


@asynchronous
async def test_a_wrong_token_and_a_missing_one(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        cli.token_file.write_text("hsu_this-is-not-the-token\n")
        assert "[auth.unauthorized]" in (await cli.run("get", "apps", expect=1)).errors
        cli.token_file.unlink()
        assert "[input.token-file]" in (await cli.run("get", "apps", expect=2)).errors


@asynchronous
async def test_no_master_there(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        cli.api.url = "http://127.0.0.1:1"
        errors = (await cli.run("get", "apps", expect=1)).errors
        assert errors.startswith("error: cannot reach http://127.0.0.1:1: connection refused; ")
        assert errors.endswith("[client.unreachable]\n")


@asynchronous
async def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        process = await cli.start("get", "apps", "-o", "json")
        assert process.stdout is not None
        process.stdout._transport.close()  # type: ignore[attr-defined]
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        await process.wait()


async def _follow(watching: Watching, cluster: ClusterClient, **query: Any) -> int:
    async def find() -> list[Any]:
        found = (await cluster.list_instances("default", "shop"))["items"]
        return [each for each in found if each["node"] is not None]

    return await follow_logs(watching.session.terminal, cluster, find, LogQuery(is_followed=True, **query))


class Watching:
    """A `-w` that runs beside the test, writing into a buffer."""

    def __init__(self, cli: Cli) -> None:
        self.screen = io.StringIO()
        self.cli = cli
        console = Console(file=self.screen, width=200)
        self.session = Session(terminal=Terminal(console, console), clock=lambda: 1_000_000.0)

    async def lines(self, count: int) -> list[str]:
        """Return the lines when there are so many."""
        await eventually(f"{count} lines", lambda: self.screen.getvalue().count("\n") >= count)
        return self.screen.getvalue().splitlines()


@asynchronous
async def test_watching_in_a_pipe_prints_rows_that_changed(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli, ClusterClient(cli.api.url, ADMIN) as cluster:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        await cli.place()
        watching = Watching(cli)
        task = asyncio.create_task(_watch(watching.session, cluster, Query("instances", "default"), "table"))
        first = await watching.lines(4)
        assert [line.split()[0] for line in first] == ["INSTANCE", "shop/db.0", "shop/web.0", "shop/web.1"]
        await cli.api.assign(1, "node-a", state=State.FAILED)
        more = await watching.lines(5)
        assert [line.split()[0] for line in more[4:] if "INSTANCE" not in line] == ["shop/web.1"]
        await _end(task)


@asynchronous
async def test_watching_events_prints_each_once(tmp_path: Path) -> None:
    async with running_cli(tmp_path) as cli, ClusterClient(cli.api.url, ADMIN) as cluster:
        await cli.run("deploy", str(cli.shop), "--no-wait")
        watching = Watching(cli)
        task = asyncio.create_task(_tail_events(watching.session, cluster, Query("events")))
        before = len(await watching.lines(2))
        await cli.run("scale", "shop/web=3", "--no-wait")
        lines = await watching.lines(before + 1)
        assert len(lines) == len(set(lines))
        await _end(task)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
