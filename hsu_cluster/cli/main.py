"""Entry point of `hsu-cluster`: reads the arguments, runs one verb, turns every error into text and a status."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from hsu_cluster.cli import (
    commands_deploy,
    commands_doctor,
    commands_node,
    commands_read,
    commands_rollout,
    commands_run,
)
from hsu_cluster.cli.connection import Flags
from hsu_cluster.cli.failure import BAD_INPUT, FAILED, INTERRUPTED, error_lines, exit_status
from hsu_cluster.cli.follow import unwrapped
from hsu_cluster.cli.session import Session, Terminal
from hsu_cluster.cli.text import close_to
from hsu_core.model.errors import Bug, HsuError, InvalidInput

CONNECTION_OPTIONS = ("--server", "--token-file", "--ca-file", "--context")
"""Options that may stand anywhere; they are moved to the front, where the group takes them."""

EPILOG = (
    "Where the cluster is: --server (HSU_SERVER), --token-file (HSU_TOKEN, HSU_TOKEN_FILE), --ca-file (HSU_CA_FILE), "
    "--context; without them the standalone cluster of this machine. These options may stand anywhere. "
    "Exit status: 0 done, 1 failed or not healthy, 2 bad input, 78 a configuration was refused."
)


class Verbs(TyperGroup):
    """A group that names the nearest verb when one is mistyped."""

    def resolve_command(self, ctx: typer.Context, args: list[str]):  # type: ignore[no-untyped-def, override]
        """Return the verb's command, or raise a usage error with a suggestion."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            near = close_to(args[0], known)
            hint = f"did you mean {near}?" if near else f"it has {', '.join(known)}"
            raise InvalidInput(f"run {args[0][:80]!r}", "there is no such verb", hint, code="usage")
        return super().resolve_command(ctx, args)


def _connection(
    context: typer.Context,
    server: Annotated[str, typer.Option("--server", metavar="URL[,URL]", help="Masters of the cluster.")] = "",
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="File with the token.")] = "",
    ca_file: Annotated[str, typer.Option("--ca-file", metavar="FILE", help="Who signed the masters.")] = "",
    name: Annotated[str, typer.Option("--context", metavar="NAME", help="Entry of the context file.")] = "",
) -> None:
    """Keep native processes running over a fleet of hosts."""
    context.obj = Session(Flags(server, token_file, ca_file, name))


def build() -> typer.Typer:
    """Return the command line with all its verbs."""
    app = typer.Typer(
        name="hsu-cluster",
        cls=Verbs,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_connection)
    commands_deploy.register(app)
    commands_read.register(app)
    commands_doctor.register(app, Verbs)
    commands_node.register(app, Verbs)
    commands_rollout.register(app, Verbs)
    commands_run.register(app)
    return app


def hoisted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the connection options, wherever they stood before `--`, and the rest of the arguments."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in CONNECTION_OPTIONS:
            front += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.startswith(tuple(f"{option}=" for option in CONNECTION_OPTIONS)):
            front.append(argument)
        else:
            rest.append(argument)
    return front, rest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit status; no error leaves as a traceback."""
    logging.getLogger().addHandler(logging.NullHandler())
    front, rest = hoisted(arguments)
    try:
        status = _invoke(front + rest, is_plan=rest[:1] == ["plan"])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # the reader (head, less) has gone: nothing more can be said, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _invoke(arguments: list[str], *, is_plan: bool) -> int:
    try:
        status = build()(arguments, prog_name="hsu-cluster", standalone_mode=False)
    except BaseExceptionGroup as group:
        return _failed(unwrapped(group))
    except Exception as error:
        return _failed(error, is_plan=is_plan)
    return status if isinstance(status, int) else 0


def _failed(error: BaseException, *, is_plan: bool = False) -> int:
    """Tell an error and return its status; what is no error of ours is told as a bug."""
    if isinstance(error, BrokenPipeError | KeyboardInterrupt):
        raise error
    terminal = Terminal()
    if isinstance(error, HsuError):
        terminal.warn(error_lines(error))
        return exit_status(error)
    usage = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        terminal.warn(str(usage() if usage else error).splitlines())
        return BAD_INPUT
    if usage is not None:  # an error of the arguments' parser
        with contextlib.suppress(Exception):
            terminal.warn(error_lines(_usage_error(error, str(usage()))))
        return FAILED if is_plan else BAD_INPUT
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    bug = Bug("finish the command", f"{type(error).__name__}: {error}", "please report it; HSU_DEBUG=1 shows where")
    terminal.warn(error_lines(bug))
    if os.environ.get("HSU_DEBUG"):
        raise error
    return FAILED


def _usage_error(error: BaseException, message: str) -> InvalidInput:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "hsu-cluster")
    options = [option for each in getattr(getattr(context, "command", None), "params", ()) for option in each.opts]
    options += CONNECTION_OPTIONS
    near = close_to(getattr(error, "option_name", None) or "", options)
    hint = f"did you mean {near}?" if near else f"see {path} --help"
    return InvalidInput("read the command line", message.splitlines()[0].rstrip("."), hint, code="usage")


if __name__ == "__main__":
    main()
