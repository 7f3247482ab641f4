"""`hsu-agent install`: prints how the service manager of this host is to run the agent, or writes it there."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hsu_agent.host.unsupported import refuse_host
from hsu_agent.install.launchd_plist import label, plist_text
from hsu_agent.install.service import Manager, Service
from hsu_agent.install.systemd_unit import STATE_FOLDER, unit_text
from hsu_agent.local.options import data_dir_of
from hsu_core.model.errors import Conflict, HsuError, InvalidInput, NotFound, NotSupported
from hsu_core.runtime.files import write_atomically

USER_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}")

ReadConfig = Callable[[Path], Path | None]
"""Return the data folder that a file of settings names; None if the file holds workers. Raises HsuError."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    command = commands.add_parser("install", help="have the service manager of this host run the agent")
    command.add_argument("--config", "-c", type=Path, metavar="FILE", help="configuration of the agent, or HSU's file")
    text = "workers of a host without a cluster (a file or a folder); may be repeated"
    command.add_argument("--local", action="append", default=[], type=Path, metavar="FILE", help=text)
    command.add_argument("--watch", action="store_true", help="local files are read again whenever they have changed")
    command.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of a local agent")
    command.add_argument(
        "--user", default="", metavar="NAME", help="who runs the agent and its workers (default: root)"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print it (default)")
    what.add_argument("--write", action="store_true", help="write it where the service manager reads it")
    command.add_argument("--force", action="store_true", help="write over a file that differs")
    whose = command.add_mutually_exclusive_group()
    whose.add_argument("--system", action="store_true", help="a service of the host (default)")
    whose.add_argument("--user-unit", action="store_true", help="a service of your own, without root")
    command.add_argument("--for", dest="manager", choices=tuple(Manager), help="service manager (default: this host's)")
    command.add_argument("--program", type=Path, metavar="FILE", help="hsu-agent (default: the one that is called)")
    command.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="write below this folder")


def perform(options: argparse.Namespace, read_config: ReadConfig, platform: str = sys.platform) -> int:
    """Carry the command out; return the exit code. Raises HsuError."""
    manager = _manager(options.manager, platform)
    service = _service(options, read_config)
    text = unit_text(service) if manager is Manager.SYSTEMD else plist_text(service, _log(service))
    if not options.write:
        print(text, end="")
        return 0
    _refuse_what_cannot_run(service, options, manager, platform)
    path = options.root / _place(service, manager).relative_to("/")
    is_new = _write(path, text, has_force=options.force)
    print(f"{path} is written" if is_new else f"{path} is already so")
    print("next:\n" + "\n".join(f"  {line}" for line in _next(service, manager, path)))
    return 0


def _manager(given: str | None, platform: str) -> Manager:
    if given is not None:
        return Manager(given)
    if platform.startswith("linux"):
        return Manager.SYSTEMD
    if platform == "darwin":
        return Manager.LAUNCHD
    what = "install the agent as a service of this host"
    if platform == "win32":
        refused = refuse_host(platform)
        why = f"a service of Windows answers its control manager, which this agent does not; and {refused.why}"
        raise NotSupported(what, why, refused.fix or "", code="host.unsupported")
    why = f"neither systemd nor launchd is expected on {platform}"
    raise NotSupported(what, why, "say which with --for", code="host.unsupported")


def _service(options: argparse.Namespace, read_config: ReadConfig) -> Service:
    if (options.config is None) == (not options.local):
        why = "nothing is said of what it runs" if options.config is None else "--config and --local exclude each other"
        raise InvalidInput("install", why, "give --config FILE (cluster) or --local FILE")
    if options.user and options.user_unit:
        raise InvalidInput("install", "a service of your own runs as you", "leave out --user or --user-unit")
    if options.user and not USER_NAME.fullmatch(options.user):
        raise InvalidInput(
            "install", f"{options.user[:60]!r} is no name of a user", "give for example --user hsu-agent"
        )
    config: Path | None = options.config
    local = tuple(path.absolute() for path in options.local)
    data_dir = None
    if config is not None and (config.exists() or options.write):
        data_dir = read_config(config)
        if data_dir is None:
            local, config = (config.absolute(),), None
    if config is not None and options.data_dir is not None:
        why = "the data folder of an agent in a cluster stands in its configuration"
        raise InvalidInput("use --data-dir", why, f"write data_dir into {config}")
    if config is not None and options.watch:
        raise InvalidInput("watch for changes", "an agent in a cluster has no local files", "leave out --watch")
    if data_dir is None:
        data_dir = _default_data_dir(options, is_local=config is None)
    return Service(
        program=_program(options.program),
        data_dir=data_dir,
        config=config.absolute() if config is not None else None,
        local=local,
        user="" if options.user == "root" else options.user,
        is_users_own=options.user_unit,
        is_watching=options.watch,
    )


def _default_data_dir(options: argparse.Namespace, *, is_local: bool) -> Path:
    if options.data_dir is not None or options.user_unit:
        return data_dir_of(options)
    return STATE_FOLDER / "hsu-agent" / "local" if is_local else STATE_FOLDER / "hsu-agent"


def _program(given: Path | None) -> tuple[str, ...]:
    """Return how the agent is called: the program beside our Python, or that Python with the module."""
    if given is not None:
        return (str(given.absolute()),)
    beside = Path(sys.executable).parent / "hsu-agent"
    return (str(beside),) if os.access(beside, os.X_OK) else (sys.executable, "-m", "hsu_agent.keeper")


def _place(service: Service, manager: Manager) -> Path:
    if manager is Manager.LAUNCHD:
        folder = Path.home() / "Library/LaunchAgents" if service.is_users_own else Path("/Library/LaunchDaemons")
        return folder / f"{label(service)}.plist"
    folder = Path.home() / ".config/systemd/user" if service.is_users_own else Path("/etc/systemd/system")
    return folder / f"{service.name}.service"


def _log(service: Service) -> Path:
    folder = Path.home() / "Library/Logs" if service.is_users_own else Path("/var/log")
    return folder / f"{service.name}.log"


def _refuse_what_cannot_run(service: Service, options: argparse.Namespace, manager: Manager, platform: str) -> None:
    """Raise HsuError for a service that would fail at its first start."""
    if not platform.startswith("linux") or (manager is Manager.LAUNCHD and options.root == Path("/")):
        raise refuse_host("darwin" if manager is Manager.LAUNCHD else platform)
    for path in service.local:
        if not path.exists():
            raise NotFound(f"install {path}", "there is no such file", "write it first, or correct --local")
    home = f"~{service.user}"
    if service.user and options.root == Path("/") and os.path.expanduser(home) == home:
        fix = f"make it: useradd --system --home-dir {service.data_dir} {service.user}"
        raise NotFound(f"run the agent as {service.user}", "this host has no such user", fix)


def _write(path: Path, text: str, *, has_force: bool) -> bool:
    """Write the file; return whether it was not so before. Raises Conflict, HsuError."""
    try:
        present = path.read_text(encoding="utf-8") if path.exists() else None
        if present == text:
            return False
        if present is not None and not has_force:
            fix = "look at the difference (hsu-agent install --print), then give --force"
            raise Conflict(f"write {path}", "it is there already and differs", fix)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(), mode=0o644)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise HsuError(f"write {path}", why, "use sudo, or --user-unit for your own", code="install.failed") from error
    return True


def _next(service: Service, manager: Manager, path: Path) -> list[str]:
    if manager is Manager.LAUNCHD:
        domain = f"gui/{os.getuid()}" if service.is_users_own else "system"
        return [f"launchctl bootstrap {domain} {path}"]
    if service.is_users_own:
        return [
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {service.name}.service",
            "loginctl enable-linger   (it runs on when you have logged out)",
        ]
    return ["systemctl daemon-reload", f"systemctl enable --now {service.name}.service"]
