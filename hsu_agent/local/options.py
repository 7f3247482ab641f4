"""Options that several commands of the agent share. Standard library alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from hsu_core.model.errors import InvalidInput
from hsu_core.model.quantity import parse_duration
from hsu_core.runtime.settings import HostDefaults


def add_local_run(run: argparse.ArgumentParser) -> None:
    """Add what `run` takes for a host without a cluster; HSU's own flags among them."""
    text = "run the workers of this file (or of all manifests in a folder) without a cluster; may be repeated"
    run.add_argument("--local", action="append", default=[], type=Path, metavar="FILE", help=text)
    run.add_argument("--watch", action="store_true", help="read local files again whenever they have changed")
    add_data_dir(run)
    run.add_argument("--run-duration", default="0", metavar="TIME", help="end after this time (30s; a number: seconds)")
    run.add_argument("--enable-log", action="store_true", help="accepted for HSU: output is always captured")


def add_data_dir(command: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of a local agent."""
    default = default_data_dir()
    text = f"folder of the local agent (default: {default})"
    command.add_argument("--data-dir", type=Path, metavar="DIR", help=text)


def default_data_dir() -> Path:
    """Return the folder of a local agent: a host may have one for a cluster beside it."""
    return HostDefaults.detect().data_dir("hsu-agent") / "local"


def data_dir_of(options: argparse.Namespace) -> Path:
    """Return the folder that the options name, or the default."""
    return Path(options.data_dir).absolute() if options.data_dir else default_data_dir()


def duration_of(text: str, option: str) -> float:
    """Return seconds; a bare number is in seconds. Raises InvalidInput that names the option."""
    try:
        return parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(f"read {option}", error.why or str(error), "write for example 30 or 1m30s") from error
