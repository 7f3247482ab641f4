"""Verbs that change apps: deploy, plan, validate, schema, scale, restart, stop, start, remove."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.failure import BAD_INPUT, FAILED, INTERRUPTED, error_lines, exit_status, warning_lines
from hsu_cluster.cli.manifest_file import check_strategy, load_manifest, with_strategy
from hsu_cluster.cli.render import table
from hsu_cluster.cli.render_details import plan_lines
from hsu_cluster.cli.session import Session, check_format, check_timeout
from hsu_cluster.cli.text import count, shown
from hsu_cluster.cli.waiting import (
    HealthWait,
    Instances,
    all_gone,
    all_ready,
    all_ready_again,
    all_stopped,
    has_replicas,
    late,
    matches,
    until_instances,
)
from hsu_core.model.errors import Fault, HsuError, InvalidInput, NotSupported
from hsu_core.model.ids import SLOT_LIMIT, TargetName, parse_target

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient
    from hsu_cluster.client.documents import FaultDocument

File = Annotated[str, typer.Argument(metavar="FILE", help="The manifest; - reads standard input.")]
Target = Annotated[str, typer.Argument(metavar="APP[/WORKER[.SLOT]]")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; default: the context's.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outcome.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait, such as 90s or 5m.")]
Variables = Annotated[
    list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="Win over `vars` of the manifest; repeatable.")
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", help="rolling, recreate, canary, blue-green; default: as each worker says."),
]


def deploy(
    context: typer.Context,
    file: File,
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = "5m",
    strategy: Strategy = None,
    var: Variables = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would change, and change nothing.")] = False,
    pin: Annotated[
        str | None, typer.Option("--pin", help="The pin of a plan: refuse if app or manifest have changed since.")
    ] = None,
) -> int:
    """Deploy a manifest and wait until the app is healthy.

    Ends with 0 only when it is healthy, with 1 when it is degraded or the time is over, with 2 when the manifest
    is wrong. Ctrl-C leaves the deploy to the cluster.
    """
    session: Session = context.obj
    check_strategy(strategy)
    timeout_s = check_timeout(timeout)
    parsed = load_manifest(file, os.environ, namespace, var)
    session.terminal.warn(warning_lines(list(parsed.warnings)))
    spec = parsed.spec
    document = with_strategy(parsed.document, strategy)

    async def work(cluster: ClusterClient) -> int:
        if dry_run:
            session.terminal.lines(plan_lines(await cluster.plan(spec.namespace, spec.app, document)))
            return 0
        answer = await cluster.deploy(spec.namespace, spec.app, document, pin=pin)
        known = {str(warning) for warning in parsed.warnings}
        added = [fault for each in answer["warnings"] if str(fault := _fault(each)) not in known]
        session.terminal.warn(warning_lines(added))
        what = "is unchanged" if answer["unchanged"] else "is accepted"
        session.terminal.lines([f"{shown(spec.app)} revision {answer['app_revision']} {what}"])
        if not wait:
            return 0
        return await HealthWait(session.terminal, cluster, spec.namespace, spec.app).run(timeout_s)

    try:
        return session.run(work)
    except KeyboardInterrupt:
        place = f" -n {spec.namespace}" if spec.namespace != "default" else ""
        session.terminal.warn([f"the deploy goes on; look at it with: hsu-cluster describe {spec.app}{place}"])
        return INTERRUPTED


def _fault(document: FaultDocument) -> Fault:
    return Fault(
        document["path"], document["detail"], document["fix"], document["file"], document["line"], document["code"]
    )


def plan(
    context: typer.Context,
    file: File,
    namespace: Namespace = None,
    var: Variables = None,
    strategy: Strategy = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="table|json|yaml", help="How to print.")] = "table",
) -> int:
    """Show what a deploy of the manifest would change.

    Ends with 0 when nothing would change, with 2 when something would, with 1 on an error.
    """
    session: Session = context.obj
    try:
        check_strategy(strategy)
        form = check_format(output)
        parsed = load_manifest(file, os.environ, namespace, var)
        session.terminal.warn(warning_lines(list(parsed.warnings)))

        async def work(cluster: ClusterClient) -> int:
            document = with_strategy(parsed.document, strategy)
            answer = await cluster.plan(parsed.spec.namespace, parsed.spec.app, document)
            if form == "table":
                session.terminal.lines(plan_lines(answer))
            else:
                session.terminal.document(answer, form)
            return 0 if answer["unchanged"] else 2

        return session.run(work)
    except HsuError as error:
        session.terminal.warn(error_lines(error))
        status = exit_status(error)
        return FAILED if status == BAD_INPUT else status


def validate(
    context: typer.Context,
    file: File,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    var: Variables = None,
) -> int:
    """Check a manifest on this machine, without a cluster."""
    session: Session = context.obj
    parsed = load_manifest(file, os.environ, None, var)
    session.terminal.warn(warning_lines(list(parsed.warnings)))
    if strict and parsed.warnings:
        why = count(len(parsed.warnings), "warning")
        raise InvalidInput(f"accept {file}", why, "mend them, or leave out --strict", code="manifest.warnings")
    instances = sum(worker.replicas for worker in parsed.spec.workers if worker.is_enabled)
    told = f"{count(len(parsed.spec.workers), 'worker')}, {count(instances, 'instance')}"
    session.terminal.lines([f"{file}: good: app {parsed.spec.app}, {told}"])
    return 0


def schema(context: typer.Context) -> int:
    """Print the JSON Schema of manifests, for editors."""
    from hsu_core.wire.manifest_schema import manifest_schema

    session: Session = context.obj
    session.terminal.lines([json.dumps(manifest_schema(), indent=1, ensure_ascii=False)])
    return 0


def scale(
    context: typer.Context,
    change: Annotated[str, typer.Argument(metavar="APP/WORKER=N")],
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = "2m",
) -> int:
    """Change the number of instances of a worker.

    It holds until the next deploy of a manifest that states `replicas`.
    """
    session: Session = context.obj
    timeout_s = check_timeout(timeout)
    target, replicas = _scale_argument(change)
    space = session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        await cluster.scale(space, target.app, str(target.worker), replicas)
        session.terminal.lines([f"{target.app}/{target.worker} is scaled to {replicas}"])
        rollout = await cluster.get_rollout(space, target.app)
        if rollout["phase"] == "Paused":
            session.terminal.lines(
                [
                    f"the rollout of {target.app} is paused ({shown(rollout['text'])}): until it goes on, the "
                    f"instances are shared out between its revisions; see hsu-cluster rollout status {target.app}"
                ]
            )
            return 0
        condition = has_replicas(target, replicas)
        return await _await(session, cluster, space, target, condition, f"scale {change}", wait, timeout_s)

    return session.run(work)


def _scale_argument(text: str) -> tuple[TargetName, int]:
    name, _, number = text.partition("=")
    target = parse_target(name)
    is_good = target.worker is not None and target.slot is None and number.isascii() and number.isdigit()
    if not is_good or len(number) > 6 or int(number) > SLOT_LIMIT:
        raise InvalidInput(
            f"scale {text[:80]!r}", "", f"write APP/WORKER=N with N from 0 to {SLOT_LIMIT}", code="input.scale"
        )
    return target, int(number)


async def _await(
    session: Session,
    cluster: ClusterClient,
    namespace: str,
    target: TargetName,
    condition: Callable[[Instances], bool],
    what: str,
    is_waiting: bool,
    timeout_s: float,
) -> int:
    """Wait for the condition and return the exit status. Raises HsuError when the time is over."""
    if not is_waiting:
        return 0
    if await until_instances(cluster, namespace, target.app, condition, timeout_s):
        session.terminal.lines(["done"])
        return 0
    raise late(what, (await cluster.list_instances(namespace, target.app))["items"], target, timeout_s)


def _change(
    context: typer.Context,
    name: str,
    namespace: str | None,
    is_waiting: bool,
    timeout: str,
    verb: str,
    told: str,
    condition: Callable[[TargetName, Instances], Callable[[Instances], bool]],
) -> int:
    """Run restart, stop or start on a target and wait for its condition."""
    session: Session = context.obj
    target, timeout_s, space = parse_target(name), check_timeout(timeout), session.namespace(namespace)

    async def work(cluster: ClusterClient) -> int:
        before = (await cluster.list_instances(space, target.app))["items"]
        call: Callable[..., Awaitable[object]] = getattr(cluster, verb)
        await call(space, target.app, target.worker, target.slot)
        session.terminal.lines([f"{shown(name)} {told}"])
        return await _await(
            session, cluster, space, target, condition(target, before), f"{verb} {name}", is_waiting, timeout_s
        )

    return session.run(work)


def restart(
    context: typer.Context, target: Target, namespace: Namespace = None, wait: Wait = True, timeout: Timeout = "2m"
) -> int:
    """Restart an app, one worker or one instance."""
    return _change(context, target, namespace, wait, timeout, "restart", "is restarted", all_ready_again)


def stop(
    context: typer.Context, target: Target, namespace: Namespace = None, wait: Wait = True, timeout: Timeout = "2m"
) -> int:
    """Stop an app, one worker or one instance, until `start`."""
    return _change(
        context, target, namespace, wait, timeout, "stop", "is being stopped", lambda aim, _: all_stopped(aim)
    )


def start(
    context: typer.Context, target: Target, namespace: Namespace = None, wait: Wait = True, timeout: Timeout = "2m"
) -> int:
    """Start again what `stop` stopped."""
    return _change(
        context, target, namespace, wait, timeout, "start", "is being started", lambda aim, _: all_ready(aim)
    )


def remove(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="APP")],
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = "2m",
) -> int:
    """Remove an app and stop its instances.

    Nothing is asked; what was removed is printed.
    """
    session: Session = context.obj
    aim, timeout_s, space = parse_target(target), check_timeout(timeout), session.namespace(namespace)
    if aim.worker is not None:
        raise NotSupported(
            f"remove {target}",
            "a part of an app is what its manifest says",
            "take the worker out of the manifest and deploy it, or use `stop` or `scale`",
        )

    async def work(cluster: ClusterClient) -> int:
        instances = [each for each in (await cluster.list_instances(space, aim.app))["items"] if matches(each, aim)]
        await cluster.remove(space, aim.app)
        session.terminal.lines([f"{shown(aim.app)} is removed, with {count(len(instances), 'instance')}"])
        if instances:
            session.terminal.lines(table("instances", instances, session.clock()))
        is_waiting = wait and bool(instances)
        return await _await(session, cluster, space, aim, all_gone(aim), f"remove {target}", is_waiting, timeout_s)

    return session.run(work)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for command in (deploy, plan, validate, schema, scale, restart, stop, start, remove):
        app.command()(command)
