"""Verbs that only look: get, describe, status, events, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsu_cluster.cli.commands_deploy import Namespace
from hsu_cluster.cli.follow import follow
from hsu_cluster.cli.kinds import EVENTS_LIMIT, WATCHED, Query, no_such, parse_query, read
from hsu_cluster.cli.logs import MANY_LINES, follow_logs, print_logs
from hsu_cluster.cli.render import ordered, table
from hsu_cluster.cli.render_details import (
    app_details,
    cluster_status,
    instance_details,
    node_details,
    worker_details,
)
from hsu_cluster.cli.session import Session, check_format
from hsu_cluster.cli.waiting import matches
from hsu_core.model.errors import InvalidInput
from hsu_core.model.ids import TargetName, parse_target
from hsu_core.model.log_query import LogQuery
from hsu_core.runtime.times import since_of

if TYPE_CHECKING:
    from rich.text import Text

    from hsu_cluster.client.client import ClusterClient
    from hsu_cluster.client.documents import InstanceDocument

Output = Annotated[str, typer.Option("--output", "-o", metavar="table|json|yaml", help="How to print.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on and print what changes.")]

NODE_PREFIX = "node/"


def get(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="apps|workers|instances|endpoints|routes|nodes|events|revisions")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="APP[/WORKER[.SLOT]], or a node.")] = None,
    namespace: Namespace = None,
    output: Output = "table",
    watch: Watch = False,
) -> int:
    """List objects: apps, workers, instances and so on.

    Without -n those of all namespaces. `revisions` needs the name of an app.
    """
    session: Session = context.obj
    form = check_format(output)
    query = parse_query(kind, name, namespace, session.namespace(None) if name else "")
    show = _watch if watch else _get
    return session.run(lambda cluster: show(session, cluster, query, form))


async def _get(session: Session, cluster: ClusterClient, query: Query, form: str) -> int:
    document, items = await read(cluster, query)
    if form == "table":
        session.terminal.lines(table(query.kind, items, session.clock()))
    else:
        session.terminal.document(document, form)
    return 0


async def _watch(session: Session, cluster: ClusterClient, query: Query, form: str) -> int:
    """Print again after each change: a repainted table on a terminal, changed rows in a pipe, whole documents."""
    if form == "table" and session.terminal.is_live:
        await _watch_live(session, cluster, query)
        return 0
    seen: dict[str, Any] = {}
    last: list[Any] = [None]

    async def look() -> bool:
        document, items = await read(cluster, query)
        if form != "table":
            shape = {key: value for key, value in document.items() if key != "revision"}
            if shape != last[0]:
                session.terminal.document(document, form, is_stream=True)
            last[0] = shape
            return False
        told = {_key(query.kind, item): _told(item) for item in items}
        if told == seen and last[0] is not None:
            return False
        head, *lines = table(query.kind, items, session.clock())
        if head.plain != last[0]:
            session.terminal.lines([head])
            last[0] = head.plain
        keys = [_key(query.kind, item) for item in ordered(query.kind, items)]
        session.terminal.lines(line for key, line in zip(keys, lines, strict=False) if seen.get(key) != told[key])
        seen.clear()
        seen.update(told)
        return False

    await _follow_query(cluster, query, look)
    return 0


async def _watch_live(session: Session, cluster: ClusterClient, query: Query) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=session.terminal.output, auto_refresh=False) as live:

        async def look() -> bool:
            _, items = await read(cluster, query)
            live.update(Group(*_cut(table(query.kind, items, session.clock()))), refresh=True)
            return False

        await _follow_query(cluster, query, look)


def _cut(lines: list[Text]) -> list[Text]:
    """Keep lines whole when they are painted: a wrapped table cannot be read."""
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


async def _follow_query(cluster: ClusterClient, query: Query, look: Any) -> None:
    app = query.target.app if query.target else None
    await follow(cluster, look, namespace=query.namespace, app=app, kinds=WATCHED[query.kind])


def _key(kind: str, item: Any) -> str:
    names = {
        "apps": "app",
        "nodes": "name",
        "revisions": "number",
        "rollouts": "app",
        "endpoints": "instance",
        "routes": "name",
    }
    return f"{item.get('namespace', '')}/{item.get('app', '')}/{item[names.get(kind, 'id')]}"


def _told(item: Any) -> Any:
    """Return what of a document a change of is worth a new row."""
    return {key: value for key, value in item.items() if key not in ("revision", "last_seen")}


def describe(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="APP[/WORKER[.SLOT]]|node/NAME")],
    namespace: Namespace = None,
) -> int:
    """Show one object in full, with its last events."""
    session: Session = context.obj
    if target.startswith(NODE_PREFIX):
        return session.run(lambda cluster: _describe_node(session, cluster, target.removeprefix(NODE_PREFIX)))
    aim, space = parse_target(target), session.namespace(namespace)
    return session.run(lambda cluster: _describe_target(session, cluster, space, aim))


async def _describe_node(session: Session, cluster: ClusterClient, name: str) -> int:
    node = await cluster.get_node(name)
    instances = [each for each in (await cluster.list_instances())["items"] if each["node"] == name]
    events = [each for each in (await cluster.events(limit=EVENTS_LIMIT))["items"] if each["node"] == name]
    session.terminal.lines(node_details(node, instances, events, session.clock()))
    return 0


async def _describe_target(session: Session, cluster: ClusterClient, namespace: str, aim: TargetName) -> int:
    app = await cluster.get_app(namespace, aim.app)
    instances = [each for each in (await cluster.list_instances(namespace, aim.app))["items"] if matches(each, aim)]
    events = (await cluster.events(namespace, aim.app, limit=EVENTS_LIMIT))["items"]
    now = session.clock()
    if aim.worker is None:
        session.terminal.lines(app_details(app, instances, events, now))
        return 0
    about = f"{aim.app}/{aim.worker}" + ("" if aim.slot is None else f".{aim.slot}")
    own = [each for each in events if each["subject"] == about or each["subject"].startswith(f"{about}.")]
    worker = next((each for each in app["workers"] if each["id"] == aim.worker), None)
    if worker is None or (aim.slot is not None and not instances):
        raise no_such(aim, [each["id"] for each in app["workers"]])
    if aim.slot is None:
        session.terminal.lines(worker_details(worker, instances, own, now))
    else:
        session.terminal.lines(instance_details(instances[0], own, now))
    return 0


def status(context: typer.Context, output: Output = "table") -> int:
    """Show who leads, the nodes and the apps at one glance."""
    session: Session = context.obj
    form = check_format(output)

    async def work(cluster: ClusterClient) -> int:
        document = await cluster.cluster()
        nodes, apps = await cluster.list_nodes(), await cluster.list_apps()
        if form == "table":
            session.terminal.lines(cluster_status(document, nodes["items"], apps["items"], session.clock()))
        else:
            session.terminal.document({"cluster": document, "nodes": nodes, "apps": apps}, form)
        return 0

    return session.run(work)


def events(
    context: typer.Context,
    app: Annotated[str | None, typer.Argument(metavar="[APP]")] = None,
    namespace: Namespace = None,
    output: Output = "table",
    watch: Watch = False,
) -> int:
    """Show what happened, oldest first; -w goes on."""
    session: Session = context.obj
    form = check_format(output)
    query = parse_query("events", app, namespace, session.namespace(None) if app else "")
    if not watch or form != "table":
        run = _watch if watch else _get
        return session.run(lambda cluster: run(session, cluster, query, form))
    return session.run(lambda cluster: _tail_events(session, cluster, query))


async def _tail_events(session: Session, cluster: ClusterClient, query: Query) -> int:
    """Print each event once; also on a terminal, where a scrolling list reads better than a repainted one."""
    seen: set[str] = set()

    async def look() -> bool:
        _, items = await read(cluster, query)
        new = [item for item in ordered("events", items) if item["id"] not in seen]
        if new:
            lines = table("events", list(reversed(new)), session.clock())
            session.terminal.lines(lines[1:] if seen else lines)
        seen.clear()
        seen.update(item["id"] for item in items)
        return False

    await _follow_query(cluster, query, look)
    return 0


def logs(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="APP[/WORKER[.SLOT]]")],
    namespace: Namespace = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[
        int | None,
        typer.Option("--tail", min=0, max=100_000, help="Lines of each instance (default: 100; all, if --since)."),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Not older: 10m, or 2026-01-31T12:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Older than this, as --since.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Begin each line with its time.")] = False,
) -> int:
    """Print the output of instances.

    Of several instances each line starts with the name of its instance. -f goes on through the loss of a node or a
    master, and with the instances that come later.
    """
    session: Session = context.obj
    aim, space = parse_target(target), session.namespace(namespace)
    since_at = since_of(since, session.clock()) if since is not None else None
    until_at = since_of(until, session.clock(), "--until") if until is not None else None
    if follow and until is not None:
        raise InvalidInput("follow a log until a time", "-f has no end and --until has one", "leave one of them out")
    lines = tail if tail is not None else 100 if since is None else MANY_LINES
    query = LogQuery(lines, follow, since_at, until_at, timestamps)

    async def find(cluster: ClusterClient) -> list[InstanceDocument]:
        found = (await cluster.list_instances(space, aim.app))["items"]
        own = [each for each in found if matches(each, aim) and each["node"] is not None]
        if not own:
            if not found:
                await cluster.get_app(space, aim.app)  # says that there is no such app
            if not found or aim.worker is None:
                raise InvalidInput(f"read logs of {target}", "no instance of it has a node yet", "", code="logs.none")
            raise no_such(aim, sorted({each["worker"] for each in found}))
        return own

    async def work(cluster: ClusterClient) -> int:
        if follow:
            return await follow_logs(session.terminal, cluster, lambda: find(cluster), query)
        return await print_logs(session.terminal, cluster, await find(cluster), query)

    return session.run(work)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for command in (get, describe, status, events, logs):
        app.command()(command)
