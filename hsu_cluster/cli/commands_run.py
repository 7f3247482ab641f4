"""Verbs that run a program: standalone, master; and version."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsu_cluster.cli.connection import data_dir as default_data_dir
from hsu_cluster.cli.failure import error_lines, warning_lines
from hsu_cluster.cli.manifest_file import load_manifest
from hsu_cluster.cli.session import Session, Terminal
from hsu_core.model.errors import HsuError, InvalidSettings
from hsu_core.runtime.settings import DEFAULT_MASTER_PORT, HostDefaults

if TYPE_CHECKING:
    from hsu_core.runtime.settings import Listen, MasterSettings
    from hsu_core.wire.manifest import ParsedManifest

LogFormat = Annotated[str, typer.Option("--log-format", metavar="text|json", help="How to write the own log.")]
LogLevel = Annotated[str, typer.Option("--log-level", metavar="debug|info|warning|error")]

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


def standalone(
    context: typer.Context,
    files: Annotated[
        list[str] | None, typer.Option("--file", "-f", metavar="FILE", help="Deploy this manifest at the start.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="Where everything is kept; default: HSU_DATA_DIR.")
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Loopback only; port 0 picks a free one.")
    ] = f"127.0.0.1:{DEFAULT_MASTER_PORT}",
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
) -> int:
    """Run a whole cluster on this machine.

    A master on an SQLite file and an agent, in one program. The workers run on when it ends, and it takes them
    back when it starts again.
    """
    session: Session = context.obj
    _check_logging(log_format, log_level)
    manifests = [load_manifest(name, os.environ, None) for name in files or ()]
    for manifest in manifests:
        session.terminal.warn(warning_lines(list(manifest.warnings)))
    address = _loopback(listen)
    folder = Path(data_dir).expanduser() if data_dir else default_data_dir(os.environ, HostDefaults.detect())

    from hsu_cluster.standalone import standalone_settings
    from hsu_core.runtime.logs import set_up_logging

    set_up_logging(log_format=log_format, level=log_level)
    settings = standalone_settings(folder.absolute(), address, log_format=log_format, log_level=log_level)
    return asyncio.run(_run_standalone(session.terminal, settings, manifests))


async def _run_standalone(terminal: Terminal, settings: MasterSettings, manifests: list[ParsedManifest]) -> int:
    from hsu_cluster.standalone import run_standalone

    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def deploy_all() -> None:
        url = await ready
        terminal.warn([f"the cluster is ready at {url}; its admin token is in {settings.admin_token_file}"])
        for manifest in manifests:
            try:
                await _deploy(url, settings.admin_token_file.read_text(encoding="utf-8").strip(), manifest)
                terminal.warn([f"{manifest.spec.app} is deployed"])
            except HsuError as error:
                terminal.warn(error_lines(error))

    async with asyncio.TaskGroup() as group:
        deploying = group.create_task(deploy_all(), name="deploy the given manifests")
        status = await run_standalone(settings, ready=ready)
        deploying.cancel()
    return status


async def _deploy(url: str, token: str, manifest: ParsedManifest) -> None:
    from hsu_cluster.client.client import ClusterClient

    async with ClusterClient(url, token) as cluster:
        await cluster.deploy(manifest.spec.namespace, manifest.spec.app, manifest.document)


def _loopback(text: str) -> Listen:
    """Return the address, or refuse one that other hosts reach: a standalone cluster has no certificate."""
    from hsu_core.wire.settings import is_loopback, parse_listen

    try:
        address = parse_listen(text)
    except ValueError as error:
        raise InvalidSettings(f"listen on {text!r}", "it is not an address", "write HOST:PORT") from error
    if not is_loopback(address.host):
        raise InvalidSettings(
            f"listen on {text}",
            "other hosts can reach it and a standalone cluster has no certificate: tokens would be readable",
            "listen on 127.0.0.1, or run `hsu-cluster master` with `tls` in its configuration",
        )
    return address


def _check_logging(log_format: str, log_level: str) -> None:
    for what, value, known in (("format", log_format, LOG_FORMATS), ("level", log_level, LOG_LEVELS)):
        if value not in known:
            raise InvalidSettings(f"log with {what} {value!r}", "there is no such one", f"use {', '.join(known)}")


def master(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="Settings, see deploy/master.yaml.")],
) -> int:
    """Run a master of a cluster. Ends with 78 when it refuses its configuration."""
    from hsu_core.runtime.logs import set_up_logging
    from hsu_core.wire.settings import parse_master_settings

    try:
        text = config.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidSettings(f"read {config}", reason, "name a readable file with --config") from error
    settings = parse_master_settings(text, file=str(config))
    set_up_logging(log_format=settings.log_format, level=settings.log_level)

    from hsu_cluster.daemon import run_master

    return asyncio.run(run_master(settings))


def version(context: typer.Context) -> int:
    """Print the version of this program."""
    from importlib import metadata

    session: Session = context.obj
    session.terminal.lines([f"hsu-cluster {metadata.version('hsu-cluster')}"])
    return 0


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for command in (standalone, master, version):
        app.command()(command)
