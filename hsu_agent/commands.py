"""The command line of the agent. `run` reads the configuration, then becomes `hsu_agent.daemon`."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hsu_agent.keeper import EXIT_CONFIGURATION
from hsu_agent.version import program_version
from hsu_core.model.errors import InvalidSettings
from hsu_core.runtime.settings import AgentSettings
from hsu_core.wire.settings import parse_agent_settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hsu-agent", description="Runs the workers of one host of an HSU cluster.")
    parser.add_argument("--version", action="version", version=f"hsu-agent {program_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="join a cluster and run what it assigns to this host")
    check = commands.add_parser("validate-config", help="check a configuration file and end")
    for command in (run, check):
        command.add_argument("--config", required=True, type=Path, metavar="FILE", help="configuration of the agent")
    run.add_argument("--log-format", choices=("json", "text"), help="form of the agent's own log")
    return parser


def read_settings(path: Path) -> AgentSettings:
    """Return the settings in a file. Raises InvalidSettings with every fault."""
    try:
        text = path.read_bytes()
    except OSError as error:
        fix = "give the path of the agent's configuration with --config"
        raise InvalidSettings(f"read {path}", error.strerror or str(error), fix) from error
    return parse_agent_settings(text, file=str(path))


def _authorities(settings: AgentSettings) -> dict[str, str]:
    """Return variables that keep the system's certificate authorities out of memory (2 MB) where nobody needs them."""
    if settings.ca_file is not None:
        return {"SSL_CERT_FILE": str(settings.ca_file), "SSL_CERT_DIR": os.devnull}
    if all(url.startswith("http://") for url in settings.masters):
        return {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (78: the configuration is at fault). `run` does not return."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(options.config)
    except InvalidSettings as error:
        print(f"hsu-agent: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    if options.command == "validate-config":
        print(f"{options.config}: ok")
        return 0
    settings = replace(settings, log_format=options.log_format or settings.log_format)
    descriptor = os.memfd_create("settings", 0)
    os.write(descriptor, pickle.dumps(settings))
    os.lseek(descriptor, 0, os.SEEK_SET)
    command = [sys.executable, "-P", "-m", "hsu_agent.daemon", str(descriptor)]
    os.execve(command[0], command, os.environ | _authorities(settings))


if __name__ == "__main__":
    sys.exit(main())
