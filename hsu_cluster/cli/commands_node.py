"""Verbs on nodes: list, drain, cordon, uncordon, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.commands_deploy import Timeout, Wait
from hsu_cluster.cli.commands_read import Output, Watch, get
from hsu_cluster.cli.follow import follow
from hsu_cluster.cli.session import Session, check_timeout
from hsu_cluster.cli.text import count, shown
from hsu_core.model.errors import HsuError
from hsu_core.model.quantity import format_duration

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

Name = Annotated[str, typer.Argument(metavar="NODE")]


def list_nodes(context: typer.Context, output: Output = "table", watch: Watch = False) -> int:
    """List the nodes."""
    return get(context, "nodes", None, None, output, watch)


def drain(context: typer.Context, name: Name, wait: Wait = True, timeout: Timeout = "5m") -> int:
    """Move all instances off a node.

    Nothing more is placed on it until `uncordon`.
    """
    session: Session = context.obj
    timeout_s = check_timeout(timeout)

    async def work(cluster: ClusterClient) -> int:
        node = await cluster.drain(name)
        left = node["used"]["instances"]
        session.terminal.lines([f"node {shown(name)} is being drained of {count(left, 'instance')}"])

        async def look() -> bool:
            nonlocal left
            left = (await cluster.get_node(name))["used"]["instances"]
            return left == 0

        if not wait or await follow(cluster, look, kinds=("nodes", "instances"), timeout_s=timeout_s):
            if wait:
                session.terminal.lines(["done"])
            return 0
        raise HsuError(
            f"drain {name}",
            f"{count(left, 'instance')} still there after {format_duration(timeout_s)}",
            f"it goes on; see hsu-cluster describe node/{name}",
            code="wait.timeout",
        )

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
    node = typer.Typer(cls=group, help="List, drain, cordon, uncordon or remove nodes.", no_args_is_help=True)
    node.command("list")(list_nodes)
    for command in (drain, cordon, uncordon, remove):
        node.command()(command)
    app.add_typer(node, name="node")
