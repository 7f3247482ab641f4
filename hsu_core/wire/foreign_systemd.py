"""systemd's service units as a manifest. What their keys mean is from systemd.service(5), .exec(5) and .unit(5)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hsu_core.wire.foreign import (
    Conversion,
    Draft,
    ForeignFile,
    Notes,
    Place,
    Surroundings,
    app_name,
    environment_reference,
    finish,
    native,
    worker_id,
)
from hsu_core.wire.foreign_ini import Entry, Section, read_unit
from hsu_core.wire.foreign_systemd_blocks import (
    BLOCK_KEYS,
    health_block,
    limits_block,
    process_keys,
    restart_block,
    stop_block,
    timeout_text,
)
from hsu_core.wire.foreign_systemd_exec import (
    Command,
    filled,
    hook_command,
    parse_commands,
    specified,
    split_words,
)
from hsu_core.wire.foreign_systemd_keys import NOT_CARRIED_UNIT, ORDER, why_not
from hsu_core.wire.tree import decode

_HOOKS: Mapping[str, str] = {
    "ExecStartPre": "pre_start", "ExecStartPost": "post_start", "ExecStop": "pre_stop", "ExecStopPost": "post_stop",
}  # fmt: skip
_OWN_KEYS = frozenset(
    {"Type", "ExecStart", "Environment", "EnvironmentFile", "PassEnvironment", "WorkingDirectory", *_HOOKS}
)
SERVICE_KEYS = _OWN_KEYS | BLOCK_KEYS
"""Keys of [Service] that are carried over."""

_UNIT_KEYS = frozenset({"Description", "Documentation", "After", "Before", "Requires", "Wants", "BindsTo", "Requisite"})
_START_LIMITS = frozenset({"StartLimitIntervalSec", "StartLimitInterval", "StartLimitBurst"})
_KILL = re.compile(r"(?:/usr)?/bin/kill (?:-s |-)?(?P<signal>[A-Z0-9]+ )?\$\{?MAINPID\}?")


@dataclass(slots=True)
class Unit:
    """One unit: its name, its sections put together, and the worker that it becomes."""

    name: str
    place: Place
    keys: dict[str, list[Entry]] = field(default_factory=dict)
    unit_keys: dict[str, list[Entry]] = field(default_factory=dict)
    draft: Draft | None = None

    @property
    def type(self) -> str:
        """Return the type of the service."""
        return self.last("Type", "simple")

    def last(self, key: str, default: str = "") -> str:
        """Return the value of a key of [Service] that counts."""
        return self.keys[key][-1].value if self.keys.get(key) else default


def convert_systemd(files: Sequence[ForeignFile], around: Surroundings, app: str = "") -> Conversion:
    """Return the services of these units. Raises InvalidManifest with every fault."""
    notes = Notes(", ".join(file.name for file in files))
    units = [unit for file in files if (unit := _unit(file, notes)) is not None]
    for unit in units:
        unit.draft = _draft(unit, around, notes)
    _order(units, notes)
    drafts = [unit.draft for unit in units if unit.draft is not None]
    if not drafts and not notes.faults:
        notes.fault(Place("", ""), "there is no unit", "give FILE.service")
    return finish(drafts, app_name(files, app), notes, around)


def _unit(file: ForeignFile, notes: Notes) -> Unit | None:
    name = posixpath.basename(file.name)
    if not name.endswith(".service"):
        ending = posixpath.splitext(name)[1]
        if ending in (".socket", ".timer", ".path", ".target", ".mount", ".slice", ".swap", ".device"):
            fix = "write `schedule:` for a timer" if ending == ".timer" else "give the .service files only"
            notes.fault(Place(file.name, ""), f"units of the kind {ending} are not carried over", fix)
            return None
        name += ".service"
    sections = read_unit(file, notes)
    unit = Unit(name, next((each.place for each in sections), Place(file.name, "", 1)))
    for section in sections:
        if section.name in ("Service", "Unit"):
            _collect(section, unit.keys if section.name == "Service" else unit.unit_keys)
        elif section.name == "Install":
            text = "is not carried over: all workers of the file start with the agent"
            notes.warn(section.place, text, "enable the unit of the agent")
        elif not section.name.startswith("X-"):
            notes.warn(section.place, "is not known as a section of a service", "remove it, or mend its name")
    return unit


def _collect(section: Section, keys: dict[str, list[Entry]]) -> None:
    """Add the entries; an empty value takes back what was said before."""
    for entry in section.entries:
        if entry.key.startswith("X-"):
            continue
        if entry.value:
            keys.setdefault(entry.key, []).append(entry)
        else:
            keys.pop(entry.key, None)


def _draft(unit: Unit, around: Surroundings, notes: Notes) -> Draft | None:
    _warn_of_keys(unit, notes)
    starts = _commands(unit, "ExecStart", notes)
    if not starts:
        if "ExecStart" not in unit.keys:
            notes.fault(unit.place, "the unit has no ExecStart", "add ExecStart=/path/to/program")
        return None
    stem = unit.name.removesuffix(".service")
    draft = Draft(worker_id(stem, unit.place, notes), [], unit.place)
    draft.environment = _environment(unit, around, notes)
    draft.command = _start(unit, starts, draft.environment, notes)
    draft.directory = _directory(unit, notes)
    described = unit.unit_keys.get("Description")
    if described:
        draft.description = _text(unit, described[-1], notes)
    draft.health = health_block(unit.keys, unit.type, notes)
    draft.restart = restart_block(unit.keys, unit.unit_keys, unit.type, notes)
    draft.stop = stop_block(unit.keys, unit.place, notes)
    draft.hooks = _hooks(unit, draft, notes)
    draft.limits = limits_block(unit.keys, notes)
    draft.process = process_keys(unit.keys, lambda entry: _text(unit, entry, notes), notes)
    return draft


def _warn_of_keys(unit: Unit, notes: Notes) -> None:
    for key, entries in unit.keys.items():
        if key not in SERVICE_KEYS | _START_LIMITS:
            for entry in entries:
                notes.warn(entry.place, *why_not(key))
    for key, entries in unit.unit_keys.items():
        if key in _UNIT_KEYS | _START_LIMITS:
            continue
        why, fix = NOT_CARRIED_UNIT.get(key, ("it is not known here", "see docs/migrate.md for what is"))
        if key.startswith(("Condition", "Assert")):
            why, fix = "there are no conditions", "let a pre_start hook fail instead"
        for entry in entries:
            notes.warn(entry.place, f"is not carried over: {why}", fix)
    if unit.type in ("forking", "dbus", "idle") or unit.type not in (
        "simple",
        "exec",
        "notify",
        "notify-reload",
        "oneshot",
    ):
        place = unit.keys["Type"][-1].place
        if unit.type == "forking":
            text = "a program that leaves its first process is taken for ended"
            notes.warn(place, text, "add the option that keeps it in the foreground")
        elif unit.type in ("dbus", "idle"):
            notes.warn(place, f"{unit.type} is not carried over: the worker is taken for simple", "write a probe")
        else:
            notes.fault(place, f"{unit.type[:40]!r} is not a type", "write simple, notify or oneshot")


def _text(unit: Unit, entry: Entry, notes: Notes) -> str:
    return native(specified(entry.value, unit.name, entry.place, notes), entry.place, notes)


def _commands(unit: Unit, key: str, notes: Notes) -> list[tuple[Command, Place]]:
    return [
        (command, entry.place)
        for entry in unit.keys.get(key, [])
        for command in parse_commands(entry.value, unit.name, entry.place, notes)
    ]


def _start(unit: Unit, starts: list[tuple[Command, Place]], variables: Mapping[str, str], notes: Notes) -> list[str]:
    command, place = starts[0]
    if len(starts) == 1:
        if command.is_failure_ignored:
            notes.warn(place, "- is not carried over: a failure counts", "write restart.exit_codes.success")
        return filled(command, variables, place, notes)
    if unit.type != "oneshot":
        notes.fault(starts[1][1], "only a oneshot has several commands", "keep one, or write Type=oneshot")
    notes.warn(starts[1][1], f"{len(starts)} commands are written as one of /bin/sh", "make them workers of their own")
    return hook_command(starts, variables, notes)


def _directory(unit: Unit, notes: Notes) -> str:
    entries = unit.keys.get("WorkingDirectory")
    if not entries:
        return "/"
    path = _text(unit, entries[-1], notes)
    if path.startswith("-"):
        notes.warn(entries[-1].place, "- is not carried over: the folder must be there", "make it")
        path = path[1:]
    if path == "~":
        notes.warn(entries[-1].place, "~ is not carried over: / is written", "write the path of the home folder")
        return "/"
    if not path.startswith("/"):
        notes.fault(entries[-1].place, f"{path[:60]!r} is not an absolute path", "begin it with /")
    return path


def _environment(unit: Unit, around: Surroundings, notes: Notes) -> dict[str, str]:
    """Return the variables of Environment=, and over them those of the files, which are read now."""
    found: dict[str, str] = {}
    for entry in unit.keys.get("Environment", []):
        pairs = split_words(entry.value, entry.place, notes)
        _assign([specified(pair, unit.name, entry.place, notes) for pair in pairs], found, entry.place, notes)
    for entry in unit.keys.get("PassEnvironment", []):
        for name in entry.value.split():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                found[name] = native(environment_reference(name), entry.place, notes).replace("}", ":-}")
            else:
                notes.fault(entry.place, f"{name[:60]!r} is not the name of a variable", "mend it")
    for entry in unit.keys.get("EnvironmentFile", []):
        path = specified(entry.value, unit.name, entry.place, notes)
        is_optional = path.startswith("-")
        try:
            content = decode(around.read_file(posixpath.join(entry.folder, path.lstrip("-"))), path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            if not is_optional:
                notes.warn(
                    entry.place, f"cannot be read here ({why}): its variables are missing", "add them to `environment`"
                )
            continue
        before = len(found)
        _assign(_file_pairs(content, Place(path, ""), notes), found, entry.place, notes)
        text = f"is read now: {len(found) - before} variables of it are written into the manifest"
        notes.warn(entry.place, text, "keep the manifest as private, and convert again when the file changes")
    return found


def _assign(pairs: Sequence[str], found: dict[str, str], place: Place, notes: Notes) -> None:
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            notes.fault(place, f"{pair[:60]!r} is not NAME=value", 'write NAME=value, or "NAME=two words"')
            continue
        found[name] = native(value, place, notes)


def _file_pairs(content: str, place: Place, notes: Notes) -> list[str]:
    """Return NAME=value of the lines of an environment file; quotes and escapes are taken off."""
    pairs: list[str] = []
    for number, line in enumerate(content.replace("\\\n", "").replace("\0", "").splitlines(), start=1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        name, equals, value = text.partition("=")
        value = value.strip()
        if value[:1] in "\"'" and value:
            at = Place(place.file, "", number)
            value = "".join(split_words(value, at, notes)[:1]) if value[0] == '"' else value[1:].partition("'")[0]
        pairs.append(f"{name.strip()}{equals}{value}")
    return pairs


def _hooks(unit: Unit, draft: Draft, notes: Notes) -> dict[str, object]:
    hooks: dict[str, object] = {}
    for key, name in _HOOKS.items():
        entries = unit.keys.get(key, [])
        if key == "ExecStop" and (signal := _kill_signal(entries)):
            draft.stop.setdefault("signal", signal)
            continue
        usable = []
        for command, place in _commands(unit, key, notes):
            if any("MAINPID" in word for word in command.words):
                notes.warn(
                    place, "is not carried over: a hook does not know $MAINPID", "set stop.signal, or write a script"
                )
            else:
                usable.append((command, place))
        if usable:
            hooks[name] = {
                "command": hook_command(usable, draft.environment, notes),
                "timeout": timeout_text(unit.keys, name in ("pre_start", "post_start"), notes),
            }
    return hooks


def _kill_signal(entries: Sequence[Entry]) -> str:
    """Return the signal of `ExecStop=/bin/kill -s QUIT $MAINPID`, or an empty text."""
    match = _KILL.fullmatch(entries[0].value.lstrip("-")) if len(entries) == 1 else None
    if match is None:
        return ""
    name = (match["signal"] or "TERM").strip()
    name = name if name.startswith("SIG") else f"SIG{name}"
    return name if name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH") else ""


def _order(units: Sequence[Unit], notes: Notes) -> None:
    """Fill in depends_on from After, Before, Requires and their like, as far as the other unit is given."""
    known = {unit.name: unit for unit in units}
    for unit in units:
        after: set[str] = set()
        for key, entries in unit.unit_keys.items():
            if key not in ("After", "Before", "Requires", "Wants", "BindsTo", "Requisite"):
                continue
            for entry in entries:
                for name in specified(entry.value, unit.name, entry.place, notes).split():
                    other = known.get(name)
                    if other is None:
                        shown_name = name.replace("\0", "")[:80]
                        notes.warn(entry.place, f"{shown_name} is not carried over: {ORDER[0]}", ORDER[1])
                    elif key == "After":
                        after.add(name)
                        _depend(unit, other)
                    elif key == "Before":
                        _depend(other, unit)
                    elif key == "BindsTo":
                        notes.warn(entry.place, f"a stop of {name} does not stop this worker", "stop both by name")
        for key in ("Requires", "BindsTo", "Requisite"):
            for entry in unit.unit_keys.get(key, []):
                for name in entry.value.split():
                    if name in known and name not in after:
                        notes.warn(entry.place, f"{name} is not waited for without After=", "write depends_on")


def _depend(unit: Unit, other: Unit) -> None:
    """Let a unit wait for another as systemd does: for its start, its word that it is ready, or its end."""
    if unit.draft is None or other.draft is None or unit is other:
        return
    needed = [entry.value.split() for key in ("Requires", "BindsTo") for entry in unit.unit_keys.get(key, [])]
    end = "completed_successfully" if any(other.name in names for names in needed) else "completed"
    waits = {"notify": "healthy", "notify-reload": "healthy", "oneshot": end}
    unit.draft.depends_on[other.draft.id] = {"condition": waits.get(other.type, "started")}
