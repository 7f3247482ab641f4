"""The command line of the agent. `run` reads the configuration, then becomes `hsu_agent.daemon`."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hsu_agent.install.command import add_command as add_install
from hsu_agent.install.command import perform as install
from hsu_agent.install.systemd_unit import HAND_BACK
from hsu_agent.keeper import EXIT_CONFIGURATION
from hsu_agent.local import commands as local_commands
from hsu_agent.local.options import add_local_run, data_dir_of, duration_of
from hsu_agent.local.reading import Reading, begin_reading
from hsu_agent.version import program_version
from hsu_core.model.errors import HsuError, InvalidInput, InvalidManifest, InvalidSettings
from hsu_core.runtime.settings import AgentSettings, HostDefaults


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsu-agent", description="Keeps the workers of one host running, by itself or for an HSU cluster."
    )
    parser.add_argument("--version", action="version", version=f"hsu-agent {program_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run what a cluster assigns to this host, or the workers of a file")
    run.add_argument("--config", "-c", type=Path, metavar="FILE", help="configuration of the agent, or HSU's file")
    run.add_argument("--log-format", choices=("json", "text"), help="form of the agent's own log")
    add_local_run(run)
    check = commands.add_parser("validate-config", help="check a configuration file of the agent and end")
    check.add_argument("--config", required=True, type=Path, metavar="FILE", help="configuration of the agent")
    local_commands.add_commands(commands)
    add_install(commands)
    commands.add_parser(HAND_BACK)  # not in the list of commands: units call it
    return parser


def read_settings(path: Path) -> AgentSettings:
    """Return the settings in a file. Raises InvalidSettings with every fault."""
    from hsu_core.wire.settings import parse_agent_settings  # the commands that ask a running agent need no YAML

    try:
        text = path.read_bytes()
    except OSError as error:
        fix = "give the path of the agent's configuration with --config"
        raise InvalidSettings(f"read {path}", error.strerror or str(error), fix) from error
    return parse_agent_settings(text, file=str(path))


def _configured_data_dir(path: Path) -> Path | None:
    """Return the data folder that settings name; None if the file is a manifest. Raises InvalidSettings."""
    from hsu_agent.local import files

    return None if files.is_manifest(path) else read_settings(path).data_dir


def _install(options: argparse.Namespace) -> int:
    try:
        return install(options, _configured_data_dir)
    except HsuError as error:
        print(f"hsu-agent: {error}", file=sys.stderr)
        return local_commands.WRONG if isinstance(error, InvalidInput) else local_commands.FAILED


def _authorities(settings: AgentSettings) -> dict[str, str]:
    """Return variables that keep the system's certificate authorities out of memory (2 MB) where nobody needs them."""
    if settings.ca_file is not None:
        return {"SSL_CERT_FILE": str(settings.ca_file), "SSL_CERT_DIR": os.devnull}
    if all(url.startswith("http://") for url in settings.masters):
        return {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    return {}


def _local_settings(options: argparse.Namespace) -> AgentSettings:
    host = HostDefaults.detect()
    data_dir = data_dir_of(options)
    return AgentSettings(
        node=host.hostname,
        masters=(),
        data_dir=data_dir,
        token_file=data_dir / "node.token",
        address="127.0.0.1",
        kill_workers_on_stop=True,
    )


def _is_manifest(path: Path) -> bool:
    from hsu_agent.local import files

    return files.is_manifest(path)


def _run(options: argparse.Namespace) -> None:
    """Become the agent. Raises InvalidSettings, InvalidInput; else does not return."""
    reading: Reading | None = None
    given, run_duration_s = [*options.local], duration_of(options.run_duration, "--run-duration")
    if options.config is not None and not given and _is_manifest(options.config):
        given = [options.config]
    elif options.config is None and not given:
        raise InvalidInput("run", "nothing is said of what to run", "give --config FILE (cluster) or --local FILE")
    if given:
        settings = _local_settings(options)
        reading = begin_reading(given, run_duration_s, is_watched=options.watch)
    elif options.watch:
        raise InvalidInput("watch for changes", "an agent in a cluster has no local files", "leave out --watch")
    else:
        settings = read_settings(options.config)
    settings = replace(settings, log_format=options.log_format or settings.log_format)
    descriptor = os.memfd_create("settings", 0)
    os.write(descriptor, pickle.dumps((settings, reading)))
    os.lseek(descriptor, 0, os.SEEK_SET)
    command = [sys.executable, "-P", "-m", "hsu_agent.daemon", str(descriptor)]
    os.execve(command[0], command, os.environ | _authorities(settings))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (78: the configuration is at fault). `run` does not return."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "validate-config":
            read_settings(options.config)
            print(f"{options.config}: ok")
        elif options.command == "run":
            _run(options)
        elif options.command == "install":
            return _install(options)
        elif options.command == HAND_BACK:
            from hsu_agent.install.groups import perform as hand_back

            return hand_back()
        else:
            return local_commands.perform(options)
    except (InvalidSettings, InvalidManifest, InvalidInput) as error:
        print(f"hsu-agent: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


if __name__ == "__main__":
    sys.exit(main())
