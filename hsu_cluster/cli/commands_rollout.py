"""Verbs on rollouts and revisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsu_cluster.cli.commands_deploy import Namespace, Timeout, Wait, restart
from hsu_cluster.cli.commands_read import Output, get
from hsu_cluster.cli.render_analysis import run_lines
from hsu_cluster.cli.rollout_wait import RolloutWait
from hsu_cluster.cli.session import Session, check_format, check_timeout
from hsu_cluster.cli.text import shown
from hsu_cluster.cli.waiting import HealthWait
from hsu_core.model.errors import InvalidInput
from hsu_core.model.ids import TargetName, parse_target

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

App = Annotated[str, typer.Argument(metavar="APP")]


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
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is over.")] = False,
    timeout: Timeout = "5m",
    output: Output = "table",
) -> int:
    """Show how far the rollout of the current revision is: sets, weights, steps, and what it waits for.

    Ends with 0 when it is over and well, 1 when it was rolled back, aborted or fails, 3 while it is on its way.
    """
    session: Session = context.obj
    target, timeout_s, space = _app(app), check_timeout(timeout), session.namespace(namespace)
    form = check_format(output)

    async def work(cluster: ClusterClient) -> int:
        wait = RolloutWait(session.terminal, cluster, space, target.app, form)
        return await (wait.run(timeout_s) if watch else wait.show())

    return session.run(work)


def promote(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="APP[/WORKER]")],
    full: Annotated[bool, typer.Option("--full", help="Skip all steps, pauses and analyses that are left.")] = False,
    namespace: Namespace = None,
) -> int:
    """End what the rollout waits for now: a pause, an approval, an analysis.

    Asking twice skips nothing: a promotion is for the place it was asked at.
    """
    named = parse_target(target)
    if named.slot is not None or (full and named.worker is not None):
        form = "APP" if full else "APP[/WORKER]"
        raise InvalidInput(f"use {target[:80]!r}", "it names too much", f"write {form}", code="input.target")
    body = ({"worker": named.worker} if named.worker else {}) | ({"full": True} if full else {})
    return _ask(context, named.app, namespace, "promote", body, "is promoted")


def pause(context: typer.Context, app: App, namespace: Namespace = None) -> int:
    """Let the rollout go no further until it is resumed."""
    return _ask(context, _app(app).app, namespace, "pause", {}, "is paused")


def resume(context: typer.Context, app: App, namespace: Namespace = None) -> int:
    """Let a paused rollout go on."""
    return _ask(context, _app(app).app, namespace, "resume", {}, "goes on")


def abort(context: typer.Context, app: App, namespace: Namespace = None) -> int:
    """Go back to the stable revision; it wins over any promotion."""
    return _ask(context, _app(app).app, namespace, "abort", {}, "goes back")


def retry(context: typer.Context, app: App, namespace: Namespace = None) -> int:
    """Begin again, at the first step, after an abort or a rollback."""
    return _ask(context, _app(app).app, namespace, "retry", {}, "begins again")


def _ask(context: typer.Context, app: str, namespace: str | None, verb: str, body: Mapping[str, Any], told: str) -> int:
    session: Session = context.obj
    space = session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        answer = await cluster.rollout_verb(space, app, verb, body)
        session.terminal.lines([f"the rollout of {shown(app)} to revision {answer['app_revision']} {told}"])
        return 0

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
    rollout = typer.Typer(cls=group, no_args_is_help=True, help="Rollouts of an app: status, promote, abort, undo ...")
    for command in (status, history, promote, pause, resume, abort, retry, analysis, undo):
        rollout.command()(command)
    rollout.command("restart")(restart)
    app.add_typer(rollout, name="rollout")
