"""`doctor`: what the hosts of the cluster cannot do for the workers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hsu_cluster.cli.failure import FAILED
from hsu_cluster.cli.render_doctor import limit_report
from hsu_cluster.cli.session import Session

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient


def doctor(context: typer.Context) -> int:
    """Show which limits the nodes do not hold, and which workers state one of these.

    Ends with 0 when every limit that a worker states is held, else with 1.
    """
    session: Session = context.obj

    async def work(cluster: ClusterClient) -> int:
        nodes, apps = (await cluster.list_nodes())["items"], (await cluster.list_apps())["items"]
        session.terminal.lines(limit_report(nodes, apps))
        return FAILED if any(worker.get("unenforced") for app in apps for worker in app["workers"]) else 0

    return session.run(work)


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command()(doctor)
