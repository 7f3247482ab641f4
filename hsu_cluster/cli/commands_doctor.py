"""`doctor`: what the hosts of the cluster cannot do for the workers on them; `doctor accept-restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.failure import FAILED
from hsu_cluster.cli.render_doctor import limit_report
from hsu_cluster.cli.render_restore import is_pending, restore_report
from hsu_cluster.cli.session import Session
from hsu_cluster.cli.text import shown

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient


def doctor(context: typer.Context) -> int:
    """Show which limits the nodes do not hold, and which workers state one of these.

    Ends with 0 when every limit that a worker states is held, else with 1. Alarms of the cluster come first.
    """
    session: Session = context.obj
    if context.invoked_subcommand is not None:
        return 0

    async def work(cluster: ClusterClient) -> int:
        alarms = (await cluster.cluster())["alarms"]
        session.terminal.warn(f"alarm: {shown(alarm)}" for alarm in alarms)
        nodes, apps = (await cluster.list_nodes())["items"], (await cluster.list_apps())["items"]
        session.terminal.lines(limit_report(nodes, apps))
        return FAILED if any(worker.get("unenforced") for app in apps for worker in app["workers"]) else 0

    return session.run(work)


Yes = Annotated[bool, typer.Option("--yes", help="Accept it; without this it is only shown.")]


def accept_restore(context: typer.Context, yes: Yes = False) -> int:
    """Show what accepting a restored (or emptied) store does on each node; with --yes accept it.

    Until then nodes hold their work: it runs on, and orders are not obeyed.
    """
    session: Session = context.obj

    async def work(cluster: ClusterClient) -> int:
        found = await cluster.restore()
        session.terminal.lines(restore_report(found))
        if not is_pending(found):
            session.terminal.lines(["nothing waits to be accepted"])
            return 0
        if not yes:
            session.terminal.warn(["nothing was changed; add --yes to accept it"])
            return FAILED
        await cluster.accept_restore()
        session.terminal.lines(["accepted: the nodes are given orders now"])
        return 0

    return session.run(work)


def register(app: typer.Typer, group: type[typer.core.TyperGroup]) -> None:
    """Add the verbs of this module."""
    made = typer.Typer(cls=group, invoke_without_command=True, callback=doctor)
    made.command("accept-restore")(accept_restore)
    app.add_typer(made, name="doctor")
