"""Verbs on revisions: history, status, analysis, undo, restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.commands_deploy import Namespace, Timeout, Wait, restart
from hsu_cluster.cli.commands_read import Output, get
from hsu_cluster.cli.render_analysis import run_lines
from hsu_cluster.cli.render_progress import progress_tree
from hsu_cluster.cli.session import Session, check_format, check_timeout
from hsu_cluster.cli.text import shown
from hsu_cluster.cli.waiting import HealthWait
from hsu_core.model.errors import InvalidInput
from hsu_core.model.ids import TargetName, parse_target

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

App = Annotated[str, typer.Argument(metavar="APP")]

HEALTHY = "healthy"


def _app(text: str) -> TargetName:
    target = parse_target(text)
    if target.worker is not None:
        raise InvalidInput(
            f"use {text[:80]!r}", "a revision is of a whole app", f"write {target.app}", code="input.target"
        )
    return target


def history(context: typer.Context, app: App, namespace: Namespace = None, output: Output = "table") -> int:
    """List the kept revisions of an app, oldest first."""
    _app(app)
    return get(context, "revisions", app, namespace, output, False)


def status(
    context: typer.Context,
    app: App,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait until it is healthy or degraded.")] = False,
    timeout: Timeout = "5m",
) -> int:
    """Show how far the current revision is.

    Ends with 0 when the app is healthy, else with 1.
    """
    session: Session = context.obj
    target, timeout_s, space = _app(app), check_timeout(timeout), session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        if watch:
            return await HealthWait(session.terminal, cluster, space, target.app).run(timeout_s)
        document = await cluster.get_app(space, target.app)
        instances = (await cluster.list_instances(space, target.app))["items"]
        session.terminal.lines(progress_tree(document, instances, 0.0))
        return 0 if document["phase"].lower() == HEALTHY else 1

    return session.run(work)


def analysis(context: typer.Context, app: App, namespace: Namespace = None, output: Output = "table") -> int:
    """Show what was measured of the rollouts of an app, oldest run first."""
    session: Session = context.obj
    target, form, space = _app(app), check_format(output), session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        document = await cluster.list_analysis_runs(space, target.app)
        if form == "table":
            session.terminal.lines(run_lines(document["items"], session.clock()))
        else:
            session.terminal.document(document, form)
        return 0

    return session.run(work)


def undo(
    context: typer.Context,
    app: App,
    to: Annotated[int | None, typer.Option("--to", min=1, metavar="N", help="Number of a kept revision.")] = None,
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = "5m",
) -> int:
    """Deploy an earlier revision again and wait until the app is healthy.

    Without --to the latest one before the current that has other content. It becomes a new revision.
    """
    session: Session = context.obj
    target, timeout_s, space = _app(app), check_timeout(timeout), session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        answer = await cluster.undo(space, target.app, to)
        what = "is unchanged" if answer["unchanged"] else "is accepted"
        session.terminal.lines([f"{shown(target.app)} revision {answer['app_revision']} {what}"])
        return await HealthWait(session.terminal, cluster, space, target.app).run(timeout_s) if wait else 0

    return session.run(work)


def register(app: typer.Typer, group: type) -> None:
    """Add the group of these verbs."""
    rollout = typer.Typer(cls=group, no_args_is_help=True, help="Revisions of an app and the way to them.")
    for command in (history, status, analysis, undo):
        rollout.command()(command)
    rollout.command("restart")(restart)
    app.add_typer(rollout, name="rollout")
