"""Verbs on nodes: list, drain, cordon, uncordon, rebalance, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.commands_deploy import Timeout, Wait
from hsu_cluster.cli.commands_read import Output, Watch, get
from hsu_cluster.cli.drain_wait import DrainWait, RebalanceWait
from hsu_cluster.cli.render_drain import drain_plan_lines, rebalance_lines, rebalance_plan_lines
from hsu_cluster.cli.session import Session, check_format, check_timeout
from hsu_cluster.cli.text import count, shown
from hsu_core.model.errors import InvalidInput

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

PAST_DEADLINE_S = 60.0
"""A wait goes on for so long after the deadline: what is taken off then has its own time to stop."""

Name = Annotated[str, typer.Argument(metavar="NODE")]


def list_nodes(context: typer.Context, output: Output = "table", watch: Watch = False) -> int:
    """List the nodes."""
    return get(context, "nodes", None, None, output, watch)


def drain(
    context: typer.Context,
    name: Name,
    wait: Wait = True,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help="How long to wait: 5m, or a minute more than --deadline."),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="DURATION", help="After so long take off what is left, ready or not."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take everything off at once, whatever stays ready.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Move no more; the node stays cordoned.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")] = False,
    output: Output = "table",
) -> int:
    """Move all instances off a node, as far as `max_unavailable` of each worker allows.

    Nothing more is placed on it until `uncordon`.
    """
    session: Session = context.obj
    check_format(output)
    deadline_s = None if deadline is None else check_timeout(deadline)
    flags = {"--deadline": deadline, "--force": force, "--cancel": cancel}
    given = [flag for flag, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise InvalidInput(f"drain {name}", f"{' and '.join(given)} exclude each other", "give one", code="usage")
    timeout_s = check_timeout(timeout or "5m") if timeout or deadline_s is None else deadline_s + PAST_DEADLINE_S

    async def work(cluster: ClusterClient) -> int:
        if dry_run:
            plan = await cluster.drain_plan(name, force=force)
            if output == "table":
                session.terminal.lines(drain_plan_lines(plan))
            else:
                session.terminal.document(plan, output)
            return 0
        node = await cluster.drain(name, deadline_s=deadline_s, force=force, cancel=cancel)
        if cancel:
            session.terminal.lines([f"node {shown(name)} keeps what it has, and is cordoned"])
            return 0
        session.terminal.lines(
            [f"node {shown(name)} is being drained of {count(node['used']['instances'], 'instance')}"]
        )
        return await DrainWait(session.terminal, cluster, node).run(timeout_s) if wait else 0

    return session.run(work)


def rebalance(
    context: typer.Context,
    max_moves: Annotated[
        int | None, typer.Option("--max-moves", metavar="N", min=1, help="Move at most so many instances.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Move no more; what was moved stays there.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show how far the last one is.")] = False,
    wait: Wait = True,
    timeout: Timeout = "10m",
    output: Output = "table",
) -> int:
    """Move instances to nodes that are less full, where that is clearly better.

    As with a drain nothing falls below `max_unavailable`.
    """
    session: Session = context.obj
    check_format(output)
    timeout_s = check_timeout(timeout)
    flags = {"--dry-run": dry_run, "--cancel": cancel, "--status": status}
    given = [flag for flag, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise InvalidInput("rebalance", f"{' and '.join(given)} exclude each other", "give one", code="usage")

    async def work(cluster: ClusterClient) -> int:
        if dry_run:
            plan = await cluster.rebalance_plan(max_moves=max_moves)
            if output == "table":
                session.terminal.lines(rebalance_plan_lines(plan))
            else:
                session.terminal.document(plan, output)
            return 0
        if cancel or status:
            found = await (cluster.cancel_rebalance() if cancel else cluster.get_rebalance())
            if output == "table":
                session.terminal.lines(rebalance_lines(found))
            else:
                session.terminal.document(found, output)
            return 0
        begun = await cluster.rebalance(max_moves=max_moves)
        if wait:
            return await RebalanceWait(session.terminal, cluster, begun["id"]).run(timeout_s)
        session.terminal.lines(["the rebalance begins; see hsu-cluster node rebalance --status"])
        return 0

    return session.run(work)


def cordon(context: typer.Context, name: Name) -> int:
    """Place nothing more on a node; what runs there stays."""
    session: Session = context.obj

    async def work(cluster: ClusterClient) -> int:
        await cluster.cordon(name)
        session.terminal.lines([f"node {shown(name)} is cordoned"])
        return 0

    return session.run(work)


def uncordon(context: typer.Context, name: Name) -> int:
    """Take a node back after `cordon` or `drain`."""
    session: Session = context.obj

    async def work(cluster: ClusterClient) -> int:
        await cluster.uncordon(name)
        session.terminal.lines([f"node {shown(name)} takes instances again"])
        return 0

    return session.run(work)


def remove(context: typer.Context, name: Name) -> int:
    """Forget a node that is lost or has left."""
    session: Session = context.obj

    async def work(cluster: ClusterClient) -> int:
        await cluster.remove_node(name)
        session.terminal.lines([f"node {shown(name)} is removed"])
        return 0

    return session.run(work)


def register(app: typer.Typer, group: type[typer.core.TyperGroup]) -> None:
    """Add `node` and its verbs."""
    told = "List, drain, cordon, uncordon, rebalance or remove nodes."
    node = typer.Typer(cls=group, help=told, no_args_is_help=True)
    node.command("list")(list_nodes)
    for command in (drain, cordon, uncordon, rebalance, remove):
        node.command()(command)
    app.add_typer(node, name="node")
