"""PM2's ecosystem files (JSON or YAML) as a manifest. What its keys mean is from pm2.keymetrics.io/docs/usage."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire.fields import shown
from hsu_core.wire.foreign import (
    SLOT,
    WORKER_LIMIT,
    Conversion,
    Draft,
    ForeignFile,
    Notes,
    Place,
    Surroundings,
    app_name,
    finish,
    joined,
    native,
    process_block,
    worker_id,
)
from hsu_core.wire.foreign_pm2_keys import ALIASES, KNOWN, NOT_CARRIED, limits_block, restart_block, stop_block
from hsu_core.wire.foreign_values import boolean, whole
from hsu_core.wire.tree import Document, Path, dotted, refuse, text_of
from hsu_core.wire.yaml_text import load_document

INTERPRETERS: Mapping[str, str] = {
    ".js": "node", ".cjs": "node", ".mjs": "node", ".py": "python3", ".sh": "bash", ".rb": "ruby", ".pl": "perl",
    ".php": "php", ".coffee": "coffee", ".ls": "lsc", ".ts": "bun", ".tsx": "bun",
}  # fmt: skip
"""PM2's table of what runs a script by its ending."""

_WORD = re.compile(r"""[^\s"'=]+="[^"]*"|[^\s"'=]+='[^']*'|"[^"]*"|'[^']*'|\S+""")
"""A word of `args`, as PM2's lib/tools/Config.js has it."""

_SCRIPT_FIX = "print it as JSON first: node -p \"JSON.stringify(require('./ecosystem.config.js'))\" > ecosystem.json"


@dataclass(frozen=True, slots=True)
class App:
    """One app of a file: its keys by PM2's main names, and where they stand."""

    keys: Mapping[str, Any]
    written: Mapping[str, str]
    path: Path
    document: Document
    folder: str

    def place(self, key: str = "") -> Place:
        """Return where a key stands, or the app."""
        path = (*self.path, self.written.get(key, key)) if key else self.path
        return Place(self.document.file, dotted(path, self.document.data), self.document.line(path))


def convert_pm2(files: Sequence[ForeignFile], around: Surroundings, app: str = "") -> Conversion:
    """Return the apps of ecosystem files. Raises InvalidManifest with every fault."""
    notes = Notes(", ".join(file.name for file in files))
    drafts = [draft for file in files for each in _apps(file, notes) if (draft := _draft(each, notes)) is not None]
    if not drafts and not notes.faults:
        notes.fault(Place(files[0].name if files else "", ""), "there is no app", 'add "apps": [{"script": "..."}]')
    return finish(drafts, app_name(files, app), notes, around)


def _apps(file: ForeignFile, notes: Notes) -> list[App]:
    if file.name.endswith((".js", ".cjs", ".mjs", ".ts")):
        raise refuse(file.name, 0, "it is a program, and programs are not run here", _SCRIPT_FIX)
    try:
        document = load_document(file.text, file.name)
    except InvalidManifest as error:
        if b"module.exports" in file.text:
            raise refuse(file.name, 0, "it is a program, and programs are not run here", _SCRIPT_FIX) from error
        raise
    data, path = document.data, ()
    items: Any = [data]
    paths: list[Path] = [path]
    if isinstance(data, list):
        items, paths = data, [(index,) for index in range(len(data))]
    elif isinstance(data, dict) and "apps" in data:
        for key in data:
            if key != "apps":
                text = "deploying over SSH is not carried over" if key == "deploy" else "is not known beside apps"
                notes.warn(Place(file.name, key, document.line((key,))), text, "remove it")
        items = data["apps"] if isinstance(data["apps"], list) else [data["apps"]]
        is_list = isinstance(data["apps"], list)
        paths = [("apps", index) if is_list else ("apps",) for index in range(len(items))]
    found: list[App] = []
    for item, at in zip(items, paths, strict=True):
        place = Place(file.name, dotted(at, data), document.line(at))
        if not isinstance(item, dict):
            notes.fault(place, f"an app is a map of keys, found {shown(item)}", 'write {"script": "..."}')
            continue
        written: dict[str, str] = {}
        for key in item:
            name = ALIASES.get(key, key)
            if name in written:
                notes.fault(place, f"{written[name]} and {key} say the same", "keep one of them")
            written[name] = key
        keys = {name: item[key] for name, key in written.items() if item[key] is not None}
        found.append(App(keys, written, at, document, file.folder))
    return found


def _draft(app: App, notes: Notes) -> Draft | None:
    _warn_of_keys(app, notes)
    script = text(app, "script", notes)
    if not script.strip():
        notes.fault(app.place(), "the app has no `script`", 'add "script": "path/to/program"')
        return None
    stem = script if " " in script else posixpath.splitext(posixpath.basename(script.rstrip("/")))[0]
    draft = Draft(worker_id(text(app, "name", notes) or stem, app.place("name"), notes), [], app.place())
    draft.directory = joined(app.folder, text(app, "cwd", notes))
    if "cwd" not in app.keys:
        notes.warn(app.place(), f"has no cwd: {app.folder} is written", "write the folder where PM2 was started")
    draft.command = [native(word, app.place("script"), notes) for word in _command(app, script, draft.directory, notes)]
    draft.directory = native(draft.directory, app.place("cwd"), notes)
    draft.replicas = _replicas(app, notes)
    draft.environment = _environment(app, draft.replicas, notes)
    if "python" in draft.command[0]:
        draft.environment["PYTHONUNBUFFERED"] = "1"
    draft.is_enabled = flag(app, "autostart", True, notes)
    if not draft.is_enabled:
        text_of_it = "enabled: false is written: `hsu-agent start` does not know it"
        notes.warn(app.place("autostart"), text_of_it, "enable it, then stop it by hand")
    draft.restart = restart_block(app.keys, app.place, notes)
    draft.stop = stop_block(app.keys, app.place, notes)
    draft.limits = limits_block(app.keys, app.place, notes)
    draft.process = process_block(
        user=native(text(app, "uid", notes), app.place("uid"), notes),
        group=native(text(app, "gid", notes), app.place("gid"), notes),
    )
    return draft


def text(app: App, key: str, notes: Notes) -> str:
    """Return the text of a key, or an empty one."""
    value = app.keys.get(key, "")
    if isinstance(value, dict | list):
        notes.fault(app.place(key), f"needs text, found {shown(value)}", "write one value in quotes")
        return ""
    return text_of(value)


def flag(app: App, key: str, default: bool, notes: Notes) -> bool:
    """Return whether a key is true."""
    if key not in app.keys:
        return default
    found = boolean(text_of(app.keys[key]), app.place(key), notes)
    return default if found is None else found


def _warn_of_keys(app: App, notes: Notes) -> None:
    for key, value in app.keys.items():
        if key in NOT_CARRIED:
            why, fix = NOT_CARRIED[key]
            if value not in (False, [], ""):
                notes.warn(app.place(key), f"is not carried over: {why}", fix)
        elif key.startswith("env_"):
            notes.warn(app.place(key), "is not carried over: there is one environment", "copy what you need to `env`")
        elif key not in KNOWN:
            notes.warn(app.place(key), "is not known as a key of an app", notes.suggestion(key, KNOWN) or "remove it")


def _words(app: App, key: str, notes: Notes) -> list[str]:
    """Return arguments from a list, or from a text as PM2 splits it: quotes around a whole word are taken off."""
    value = app.keys.get(key, [])
    if isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            notes.fault(app.place(key), "needs a list of texts", 'write ["--port", "80"]')
            return []
        return [text_of(item) for item in value]
    words = [match[0] for match in _WORD.finditer(text(app, key, notes))]
    bare = [word[1:-1] if word[0] in "\"'" and len(word) > 1 and word[-1] == word[0] else word for word in words]
    return [word for word in bare if word.strip()]


def _command(app: App, script: str, directory: str, notes: Notes) -> list[str]:
    """Return program and arguments: the script, or what runs it."""
    place, ending = app.place("script"), posixpath.splitext(script)[1]
    arguments, options = _words(app, "args", notes), _words(app, "interpreter_args", notes)
    interpreter = text(app, "interpreter", notes)
    if " " in script:
        notes.warn(place, "is a command line and is given to bash, as PM2 does", "write script and args")
        for key, given in (("args", arguments), ("interpreter_args", options), ("interpreter", interpreter)):
            if given:
                notes.warn(app.place(key), "is passed over, as PM2 does with a command line", "put it into the script")
        return ["bash", "-c", script]
    if interpreter.startswith("node@"):
        notes.warn(app.place("interpreter"), f"{interpreter[:40]} is not looked for", "write the path of that node")
        interpreter = "node"
    interpreter = interpreter or INTERPRETERS.get(ending, "none")
    if interpreter != "none":
        return [_path(interpreter, directory), *options, joined(directory, script), *arguments]
    if options:
        notes.warn(app.place("interpreter_args"), "is not carried over: no interpreter runs it", "name one")
    if "/" not in script and not ending:
        notes.warn(place, "is looked up in PATH", f"write ./{script[:60]} if it is in the folder")
        return [script, *arguments]
    if "interpreter" not in app.keys:
        notes.warn(place, "is run as a program: its ending names no interpreter", "write `interpreter` if it needs one")
    return [joined(directory, script), *arguments]


def _path(program: str, directory: str) -> str:
    """Return the path of a program; a bare name is looked up in PATH."""
    return joined(directory, program) if "/" in program else program


def _replicas(app: App, notes: Notes) -> int:
    mode, place = text(app, "exec_mode", notes), app.place("instances" if "instances" in app.keys else "exec_mode")
    count = 1
    if "instances" in app.keys:
        word = text(app, "instances", notes)
        if word in ("max", "0") or word.startswith("-"):
            notes.warn(
                place, f"{word!r} depends on the processors of a host: 1 is written", "write the number as replicas"
            )
        else:
            count = whole(word, 1, WORKER_LIMIT, place, notes) or 1
    runs_node = text(app, "interpreter", notes) in ("", "node", "bun")
    if mode.startswith("cluster") or (count > 1 and not mode and runs_node):
        notes.warn(
            place,
            f"PM2's cluster shares one port, here {count} processes of their own start, and their ports must differ",
            "write ports: {http: dynamic} and PORT: '{port.http}' as environment",
        )
    return count


def _environment(app: App, replicas: int, notes: Notes) -> dict[str, str]:
    place, body = app.place("env"), app.keys.get("env", {})
    variable = text(app, "instance_var", notes) or "NODE_APP_INSTANCE"
    found = {variable: native(SLOT, place, notes)} if replicas > 1 or "instance_var" in app.keys else {}
    if not isinstance(body, dict):
        notes.fault(place, f"needs a map of variables, found {shown(body)}", 'write {"NAME": "value"}')
        return found
    for name, value in body.items():
        written = json.dumps(value) if isinstance(value, dict | list) else text_of(value)
        if not name or "=" in name:
            notes.fault(place, f"{name[:60]!r} cannot be the name of a variable", "rename it")
        found[name] = native(written, place, notes)
    if "port" in app.keys:
        found["PORT"] = native(text(app, "port", notes), app.place("port"), notes)
    return found
