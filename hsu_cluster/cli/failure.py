"""Errors as a user of the command line meets them: the text on stderr and the exit status. Pure."""

from __future__ import annotations

from hsu_cluster.cli.text import shown
from hsu_core.model.errors import Fault, HsuError, InvalidInput, InvalidSettings, NotSupported

FAILED = 1
"""It was tried and failed, or the app is not healthy."""

BAD_INPUT = 2
"""What was given is wrong; nothing was changed. Usage errors too."""

BAD_CONFIGURATION = 78
"""A program refuses its configuration (EX_CONFIG): starting it again cannot help."""

INTERRUPTED = 130
"""Ended by Ctrl-C, as shells report it."""


def exit_status(error: HsuError) -> int:
    """Return the exit status that stands for an error."""
    if isinstance(error, InvalidSettings):
        return BAD_CONFIGURATION
    if isinstance(error, InvalidInput | NotSupported) or error.status in (400, 413, 501):
        return BAD_INPUT
    return FAILED


def error_lines(error: HsuError) -> list[str]:
    """Return `error: cannot ... [code]` and below it every fault with its place."""
    sentence = shown(error.sentence).rstrip(";: ")
    return [f"error: {sentence} [{shown(error.code)}]", *(f"  {shown(fault)}" for fault in error.faults)]


def warning_lines(warnings: list[Fault]) -> list[str]:
    """Return one `warning:` line for each thing that is odd and not wrong."""
    return [f"warning: {shown(warning)}" for warning in warnings]
