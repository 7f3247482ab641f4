"""Commands that ask or steer a running agent, and those that look at a manifest.

Exit codes for scripts: 0 done, 1 it failed (or a worker is not well), 2 wrong input, 3 no agent runs, 4 there is no
such worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hsu_agent.local import render
from hsu_agent.local.client import NotRunning, Refused, ask
from hsu_agent.local.options import add_data_dir, data_dir_of, duration_of
from hsu_core.model.errors import HsuError, InvalidManifest

FAILED, WRONG, NOT_RUNNING, NO_SUCH_WORKER = 1, 2, 3, 4

LOOK_S = 0.1
"""Between two looks of a command that waits."""

NEW_WORKERS_S = 1.0
"""Between two looks of `logs -f` for workers that were not there before."""

TOP_S = 1.0
"""Between two pictures of `top`."""

WELL = ("running", "stopped")


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands."""
    for name, text in (
        ("status", "show the workers of the running agent"),
        ("describe", "show all that is known of workers"),
        ("top", "show what workers use"),
        ("events", "show what has happened"),
    ):
        _named(commands, name, text).add_argument("-o", dest="form", choices=("table", "json"), default="table")
    for name, text in (
        ("start", "start workers that were stopped or have ended"),
        ("stop", "stop workers; they stay stopped"),
        ("restart", "restart workers"),
    ):
        command = _named(commands, name, text, is_needed=True)
        command.add_argument("--all", action="store_true", help="every worker")
        command.add_argument("--wait", action="store_true", help="wait until it is so")
        command.add_argument("--timeout", default="60s", metavar="TIME", help="longest wait (default: 60s)")
    logs = _named(commands, "logs", "show the output of workers")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is written")
    logs.add_argument(
        "-n", "--tail", type=int, metavar="LINES", help="last lines of each (default: 100; all, if --since)"
    )
    logs.add_argument("--since", metavar="TIME", help="not older than this: 10m, or 2026-01-31T12:00:00Z")
    logs.add_argument("--until", metavar="TIME", help="older than this, as --since")
    logs.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    logs.add_argument("--stream", choices=("stdout", "stderr"), help="one of the two streams")
    send = _named(commands, "signal", "send a signal to workers", is_needed=True)
    send.add_argument("--signal", "-s", default="SIGHUP", metavar="NAME", help="for example SIGUSR1 (default: SIGHUP)")
    reload = _plain(commands, "reload", "read the files again; only what differs is touched")
    reload.add_argument("--dry-run", action="store_true", help="show the differences and change nothing")
    shutdown = _plain(commands, "shutdown", "end the agent and its workers")
    shutdown.add_argument("--keep-workers", action="store_true", help="the workers run on; the next agent takes them")
    validate = commands.add_parser("validate", help="check manifests and end")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.add_argument("--strict", action="store_true", help="warnings are faults")
    _add_convert(commands)


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="print files of HSU, supervisord, PM2 or systemd as a manifest")
    kinds = ("hsu", "supervisord", "pm2", "systemd")
    convert.add_argument("--from", dest="source", choices=kinds, help="what the files are (default: as they look)")
    convert.add_argument("--app", default="", metavar="NAME", help="name of the app (default: the first file's)")
    convert.add_argument("files", nargs="+", type=Path, metavar="FILE")
    doctor = _plain(commands, "doctor", "show how this host holds each limit, and why not better")
    doctor.add_argument("-o", dest="form", choices=("table", "json"), default="table")
    commands.add_parser("schema", help="print the JSON Schema of manifests, for editors")


def _plain(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    add_data_dir(command)
    return command


def _named(commands: Any, name: str, text: str, *, is_needed: bool = False) -> argparse.ArgumentParser:
    command = _plain(commands, name, text)
    means = "WORKER, WORKER.SLOT, APP/WORKER or @GROUP" + ("" if is_needed else " (default: all)")
    command.add_argument("names", nargs="*", metavar="NAME", help=means)
    return command


def perform(options: argparse.Namespace) -> int:
    """Carry a command out; return its exit code."""
    commands: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "status": _status,
        "describe": _describe,
        "top": _top,
        "events": _events,
        "start": _steer,
        "stop": _steer,
        "restart": _steer,
        "logs": _logs,
        "signal": _signal,
        "reload": _reload,
        "shutdown": _shutdown,
        "validate": _validate,
        "convert": _convert,
        "schema": _schema,
        "doctor": _doctor,
    }
    try:
        return commands[options.command](options)
    except NotRunning as error:
        return _tell(str(error), NOT_RUNNING)
    except Refused as error:
        codes = {"not-found.worker": NO_SUCH_WORKER, "input.invalid": WRONG, "manifest.invalid": WRONG}
        return _tell(str(error), codes.get(error.code, FAILED))
    except HsuError as error:
        return _tell(str(error), WRONG)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _tell(text: str, code: int) -> int:
    print(f"hsu-agent: {text}", file=sys.stderr)
    return code


def _status(options: argparse.Namespace) -> int:
    answer = ask(data_dir_of(options), "status", names=options.names)
    print(json.dumps(answer, indent=2) if options.form == "json" else render.status_table(answer, _width()))
    return 0 if all(_is_well(each) for each in answer["instances"]) else FAILED


def _width() -> int:
    """Return the columns of the terminal, 0 where there is none: a pipe gets whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _is_well(each: Mapping[str, Any]) -> bool:
    return each["state"] in WELL and (each["ready"] or each["state"] != "running")


def _describe(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options)
    answer = ask(data_dir, "status", names=options.names)
    try:
        events = ask(data_dir, "events", names=options.names)
    except Refused:  # of an agent in a cluster: its master has the events
        events = []
    if options.form == "json":
        print(json.dumps(answer | {"events": events}, indent=2))
        return 0
    parts = []
    for each in answer["instances"]:
        own = [event for event in events if event["instance"] == each["id"]]
        parts.append(render.details(each, own, answer["now"]))
    print("\n\n".join(parts))
    return 0


def _top(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options)
    ask(data_dir, "status", names=options.names, usage=True)  # rates need two looks
    time.sleep(TOP_S / 2)
    while True:
        answer = ask(data_dir, "status", names=options.names, usage=True)
        if options.form == "json":
            print(json.dumps(answer, indent=2))
            return 0
        is_live = sys.stdout.isatty()
        print(("\x1b[H\x1b[2J" if is_live else "") + render.top_table(answer), flush=True)
        if not is_live:
            return 0
        time.sleep(TOP_S)


def _events(options: argparse.Namespace) -> int:
    events = ask(data_dir_of(options), "events", names=options.names)
    print(json.dumps(events, indent=2) if options.form == "json" else render.event_lines(events, time.time()))
    return 0


def _steer(options: argparse.Namespace) -> int:
    if not options.names and not options.all:
        return _tell(f"nothing is said of what to {options.command}; name workers, or give --all", WRONG)
    data_dir, patience_s = data_dir_of(options), duration_of(options.timeout, "--timeout")
    before = {each["id"]: each for each in ask(data_dir, "status")["instances"]}
    chosen = ask(data_dir, options.command, names=options.names)
    done = {"start": "started", "stop": "stopped", "restart": "restarted"}[options.command]
    if not options.wait:
        print("\n".join(f"{name} is being {done}" for name in chosen) or "there is nothing to do")
        return 0
    deadline_s = time.monotonic() + patience_s
    while True:
        now = {each["id"]: each for each in ask(data_dir, "status")["instances"] if each["id"] in chosen}
        missing = [each for name, each in now.items() if not _has_come(options.command, before.get(name), each)]
        if not missing:
            print("\n".join(f"{name} is {done}" for name in chosen))
            return 0
        if time.monotonic() > deadline_s:
            for each in missing:
                _tell(f"{each['id']} is {each['state']} after {patience_s:g} s: {each['reason']}", FAILED)
            return FAILED
        time.sleep(LOOK_S)


def _has_come(command: str, before: Mapping[str, Any] | None, each: Mapping[str, Any]) -> bool:
    if command == "stop":
        return bool(each["state"] in ("stopped", "failed"))
    is_new = command == "start" or before is None or each["pid"] != before["pid"]
    return bool(is_new and ((each["state"] == "running" and each["ready"]) or each["state"] == "stopped"))


def _signal(options: argparse.Namespace) -> int:
    if not options.names:
        return _tell("nothing is said of whom to signal; name workers", WRONG)
    name = options.signal.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    for found in ask(data_dir_of(options), "signal", names=options.names, signal=name):
        print(f"{name} was sent to {found}")
    return 0


def _reload(options: argparse.Namespace) -> int:
    answer = ask(data_dir_of(options), "reload", dry_run=options.dry_run)
    print(render.change_lines(answer, options.dry_run))
    return 0


def _shutdown(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options)
    ask(data_dir, "shutdown", keep_workers=options.keep_workers)
    while True:
        try:
            ask(data_dir, "status")
        except (NotRunning, Refused):
            print("the agent has ended" + ("; its workers run on" if options.keep_workers else ""))
            return 0
        time.sleep(LOOK_S)


def _logs(options: argparse.Namespace) -> int:
    from hsu_agent.local import output as shown
    from hsu_core.runtime.times import since_of

    data_dir, streams = data_dir_of(options), (options.stream,) if options.stream else ("stdout", "stderr")
    now_s = time.time()
    since_at = since_of(options.since, now_s) if options.since else None
    until_at = since_of(options.until, now_s, "--until") if options.until else None
    if options.follow and until_at is not None:
        return _tell("-f has no end and --until has one: leave one of them out", WRONG)
    lines = (-1 if options.since else 100) if options.tail is None else max(0, options.tail)
    output = shown.Output(data_dir, streams, lines, since_at, until_at, is_timed=options.timestamps)
    try:
        found = ask(data_dir, "status", names=options.names)["instances"]
    except NotRunning as error:
        found = shown.left_behind(data_dir, options.names)
        if not found:
            raise
        print(f"hsu-agent: {error}; this is what is left", file=sys.stderr)
    if not options.follow:
        output.tail(found)
        return 0
    looked_s = time.monotonic()
    try:
        while True:
            if not output.follow(found):
                time.sleep(LOOK_S)
            if time.monotonic() - looked_s > NEW_WORKERS_S:
                looked_s = time.monotonic()
                with contextlib.suppress(NotRunning, Refused):  # the agent is away: the workers may write on
                    found = ask(data_dir, "status", names=options.names)["instances"]
    finally:
        output.close()


def _validate(options: argparse.Namespace) -> int:
    from hsu_agent.limits.report import shortfalls_here
    from hsu_agent.local.files import read_workers

    try:
        workers, warnings = read_workers(options.files, os.environ)
    except InvalidManifest as error:
        return _tell(str(error), WRONG)
    kind = "fault" if options.strict else "warning"
    for text in shortfalls_here((each.spec.worker for each in workers), options.files[0].absolute().parent):
        print(f"note: {text}", file=sys.stderr)
    for warning in warnings:
        print(f"{kind}: {warning}", file=sys.stderr)
    if options.strict and warnings:
        return _tell(f"{len(warnings)} warnings, and --strict takes them for faults", WRONG)
    print(f"{len(workers)} workers: ok")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from hsu_agent.local.convert import convert

    print(convert(options, os.environ), end="")
    return 0


def _schema(options: argparse.Namespace) -> int:
    from hsu_core.wire.manifest_schema import manifest_schema

    print(json.dumps(manifest_schema(), indent=1, ensure_ascii=False))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from hsu_agent.limits.report import support_here

    found = support_here(data_dir_of(options))
    if options.form == "json":
        print(
            json.dumps([{"limit": each.name, "how": str(each.how), "reason": each.reason} for each in found], indent=2)
        )
    else:
        print(render.support_table(found))
    return 0
