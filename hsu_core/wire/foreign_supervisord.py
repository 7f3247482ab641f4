"""supervisord's ini files as a manifest. What its keys mean is from its manual (supervisord.org/configuration.html)."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hsu_core.wire.foreign import (
    NODE,
    SLOT,
    WORKER_LIMIT,
    Conversion,
    Draft,
    ForeignFile,
    Notes,
    Place,
    Surroundings,
    app_name,
    environment_reference,
    finish,
    joined,
    native,
    process_block,
    worker_id,
)
from hsu_core.wire.foreign_ini import Entry, Section, read_ini
from hsu_core.wire.foreign_supervisord_keys import flag_of, logs_block, restart_blocks, stop_block, whole_of
from hsu_core.wire.foreign_values import octal_mask
from hsu_core.wire.tree import SIZE_LIMIT_BYTES

INCLUDED_LIMIT = 200
"""Most files that [include] may bring in."""

_EXPANSION = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()]{1,200})\)(?P<form>0?\d{0,2}[sd])|)")

_VARIABLE = re.compile(r"%\(ENV_([^()]{1,200})\)s")

READ_NOW_KEYS = frozenset(
    {
        "numprocs", "numprocs_start", "autostart", "autorestart", "startretries", "startsecs", "exitcodes",
        "stopsignal", "stopwaitsecs", "umask", "stdout_logfile_maxbytes", "stdout_logfile_backups",
        "stderr_logfile_maxbytes",
        "stderr_logfile_backups", "redirect_stderr", "stopasgroup", "killasgroup",
    }
)  # fmt: skip
"""Keys whose value is a number or a word, which a manifest cannot take from the environment of each host."""

_LOGS = "the agent keeps output below its data folder"
_TARGET = "add log_collection with a file target to have it there too"
_EVENTS = "there are no event listeners"
_NOT_CARRIED: Mapping[str, tuple[str, str]] = {
    "priority": ("programs are not started by number", "write depends_on: [OTHER] where one needs another"),
    "process_name": ("instances are named by program and slot, such as web.0", ""),
    "stdout_logfile": (_LOGS, _TARGET),
    "stderr_logfile": (_LOGS, _TARGET),
    "stdout_syslog": ("output goes to files", "add log_collection with a syslog target"),
    "stderr_syslog": ("output goes to files", "add log_collection with a syslog target"),
    "stdout_capture_maxbytes": (_EVENTS, "remove it"),
    "stderr_capture_maxbytes": (_EVENTS, "remove it"),
    "stdout_events_enabled": (_EVENTS, "remove it"),
    "stderr_events_enabled": (_EVENTS, "remove it"),
    "serverurl": ("the agent sets no SUPERVISOR_SERVER_URL", "let the program ask `hsu-agent status -o json`"),
}
PROGRAM_KEYS = frozenset(
    {
        "command", "numprocs", "numprocs_start", "autostart", "autorestart", "startretries", "startsecs", "exitcodes",
        "stopsignal", "stopwaitsecs", "stopasgroup", "killasgroup", "directory", "environment", "user", "umask",
        "redirect_stderr", "stdout_logfile_maxbytes", "stdout_logfile_backups", "stderr_logfile_maxbytes",
        "stderr_logfile_backups", *_NOT_CARRIED,
    }
)  # fmt: skip
"""Every key of a program that has a meaning here."""

_OTHER_SECTIONS: Mapping[str, tuple[str, str]] = {
    "group": ("groups are not carried over", "name the workers in commands, as in `hsu-agent restart a b`"),
    "fcgi-program": ("FastCGI programs are not carried over: the agent opens no sockets", "let it open its own socket"),
    "eventlistener": (f"is not carried over: {_EVENTS}", "look at `hsu-agent events`, or use hooks"),
    "unix_http_server": ("is about supervisord itself", "the agent's socket is in its data folder"),
    "inet_http_server": ("is about supervisord itself", "the agent listens on a local socket only"),
    "supervisorctl": ("is about supervisorctl", "use the commands of hsu-agent"),
    "rpcinterface": ("is about supervisord itself", "use the commands of hsu-agent, with -o json"),
    "ctlplugin": ("is about supervisorctl", "use the commands of hsu-agent"),
}


@dataclass(frozen=True, slots=True)
class _Shared:
    """What [supervisord] says for all programs, and what the expansions ask."""

    environment: Mapping[str, str]
    user: str
    umask: str
    directory: str
    groups: Mapping[str, str]
    around: Surroundings
    notes: Notes


def convert_supervisord(files: Sequence[ForeignFile], around: Surroundings, app: str = "") -> Conversion:
    """Return the programs of these files and of those that they include. Raises InvalidManifest with every fault."""
    notes = Notes(", ".join(file.name for file in files))
    sections = _sections(files, around, notes)
    shared = _shared(sections, around, notes)
    drafts: list[Draft] = []
    for name, section in sections.items():
        kind, _, program = name.partition(":")
        if kind == "program":
            drafts += _program(program.strip(), section, shared)
        elif kind in _OTHER_SECTIONS:
            notes.warn(section.place, *_OTHER_SECTIONS[kind])
        elif name not in ("supervisord", "include"):
            notes.warn(section.place, "is not known as a section of supervisord", "remove it, or mend its name")
    if not drafts and not notes.faults:
        notes.fault(Place(files[0].name if files else "", ""), "there is no section [program:NAME]", "add one")
    return finish(drafts, app_name(files, app), notes, around)


def _sections(files: Sequence[ForeignFile], around: Surroundings, notes: Notes) -> dict[str, Section]:
    """Return all sections by name; one that stands twice is one, and its later keys count."""
    merged: dict[str, Section] = {}
    read: set[str] = set()
    queue = [(file, False) for file in files]
    size = 0
    while queue:
        file, is_included = queue.pop(0)
        if file.name in read:
            continue
        read.add(file.name)
        size += len(file.text)
        if size > SIZE_LIMIT_BYTES:
            notes.fault(
                Place(file.name, ""), f"all files have more than {SIZE_LIMIT_BYTES} bytes", "convert some of them"
            )
            raise notes.refusal()
        for section in read_ini(file, notes):
            known = merged.setdefault(section.name, Section(section.name, section.place, section.folder))
            for entry in section.entries:
                before = known.last(entry.key)
                if before is not None and before.value != entry.value:
                    notes.warn(before.place, f"{entry.place.file}:{entry.place.line} says another value, which counts")
                known.add(entry)
            if section.name == "include" and is_included:
                notes.warn(section.place, "an included file includes no others in supervisord", "remove it")
            elif section.name == "include":
                queue += [(found, True) for found in _included(section, around, notes)]
    return merged


def _included(section: Section, around: Surroundings, notes: Notes) -> list[ForeignFile]:
    entry = section.last("files")
    if entry is None:
        notes.fault(section.place, "has no `files`", "add files = conf.d/*.conf, or remove the section")
        return []
    found: dict[str, ForeignFile] = {}
    for pattern in entry.value.split():
        written = _expanded(pattern, {"here": entry.folder, "host_node_name": "*"}, entry, around, notes)
        if "\0" in written:
            notes.fault(entry.place, f"{pattern[:80]!r} cannot be looked up with a variable in it", "write the path")
            continue
        try:
            matches = around.find_files(posixpath.join(entry.folder, written))
        except OSError as error:
            notes.fault(entry.place, f"cannot read {pattern[:80]}: {error.strerror or error}", "mend the path")
            continue
        if not matches:
            notes.warn(entry.place, f"no file is like {pattern[:80]}", "mend the pattern, or remove it")
        found |= {match.name: match for match in matches}
    if len(found) > INCLUDED_LIMIT:
        notes.fault(entry.place, f"{len(found)} files are included, the limit is {INCLUDED_LIMIT}", "name some of them")
    return list(found.values())[:INCLUDED_LIMIT]


def _shared(sections: Mapping[str, Section], around: Surroundings, notes: Notes) -> _Shared:
    groups = {
        program.strip(): name.partition(":")[2].strip()
        for name, section in sections.items()
        if name.startswith("group:") and (programs := section.last("programs")) is not None
        for program in programs.value.split(",")
    }
    section = sections.get("supervisord")
    if section is None:
        return _Shared({}, "", "", "/", groups, around, notes)
    carried = {"environment", "user", "umask", "directory"}
    for entry in section.entries:
        if entry.key not in carried:
            notes.warn(entry.place, "is about supervisord itself, the agent has its own settings", "see docs/agent.md")
    umask, user, directory = section.last("umask"), section.last("user"), section.last("directory")
    environment = section.last("environment")

    def expand(entry: Entry) -> str:
        return _expanded(entry.value, {"here": entry.folder, "host_node_name": NODE}, entry, around, notes)

    return _Shared(
        environment=_environment(environment, expand, notes) if environment else {},
        user=native(expand(user), user.place, notes) if user else "",
        umask=octal_mask(umask.value, umask.place, notes) if umask else "",
        directory=expand(directory) if directory else "/",
        groups=groups,
        around=around,
        notes=notes,
    )


def _expanded(text: str, known: Mapping[str, object], entry: Entry, around: Surroundings, notes: Notes) -> str:
    """Return a text with its %(NAME)s filled in; what only the agent knows is a reference for `native`."""

    def fill(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        name, form = match["name"], match["form"]
        if name is None:
            notes.fault(entry.place, "a `%` stands alone", "write %% for a percent sign")
            return ""
        if name.startswith("ENV_") and name not in known:
            if name[4:] not in around.environment:
                notes.warn(entry.place, f"variable {name[4:][:80]} is not set here", "set it where the agent starts")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name[4:]):
                notes.fault(entry.place, f"{name[4:][:80]!r} is not the name of a variable", "mend it")
                return ""
            return environment_reference(name[4:])
        value = known.get(name)
        if value is None:
            notes.fault(entry.place, f"%({name[:80]})s is not known here", "see the manual of supervisord")
            return ""
        if value in (SLOT, NODE):
            if len(form) > 1:
                notes.warn(entry.place, f"%({name}){form}: {{slot}} is written, without leading zeros or blanks")
            return str(value)
        if form.endswith("d") and not isinstance(value, int):
            notes.fault(entry.place, f"%({name}){form} is not a number", f"write %({name})s")
            return ""
        return f"%{form}" % value

    return _EXPANSION.sub(fill, text)


def _program(name: str, section: Section, shared: _Shared) -> list[Draft]:
    notes = shared.notes
    _warn_of_keys(section, notes)
    section = _read_now(section, shared)
    if not name:
        notes.fault(section.place, "the program has no name", "write [program:NAME]")
        return []
    count = whole_of(section, "numprocs", 1, WORKER_LIMIT, 1, notes)
    first = whole_of(section, "numprocs_start", 0, 10**6, 0, notes)
    start = section.last("numprocs_start")
    number: object = SLOT
    if count == 1:
        number = first
    elif first and start is not None:
        notes.warn(start.place, f"slots are counted from 0, not from {first}", "add it in the program")
    known = {
        **{f"ENV_{key}": value for key, value in shared.environment.items()},
        "program_name": name,
        "group_name": shared.groups.get(name, name),
        "process_num": number,
        "numprocs": count,
        "host_node_name": NODE,
        "here": section.folder,
    }

    def expand(entry: Entry) -> str:
        return _expanded(entry.value, known | {"here": entry.folder}, entry, shared.around, notes)

    said = section.last("environment")
    environment = {**shared.environment, **(_environment(said, expand, notes) if said is not None else {})}
    known |= {f"ENV_{key}": value for key, value in environment.items()}
    draft = Draft(worker_id(name, section.place, notes), [], section.place, replicas=count)
    draft.directory, is_said = _directory(section, shared, expand)
    draft.command = _command(section, draft.directory, expand, notes, is_said=is_said)
    _warn_of_split(section.last("command"), known, shared)
    draft.directory = native(draft.directory, section.place, notes)
    place = said.place if said is not None else section.place
    draft.environment = {key: native(value, place, notes) for key, value in environment.items()}
    draft.is_enabled = flag_of(section, "autostart", True, notes)
    autostart = section.last("autostart")
    if autostart is not None and not draft.is_enabled:
        notes.warn(
            autostart.place,
            "enabled: false is written, so `hsu-agent start` does not know it",
            "enable it, then stop it by hand",
        )
    draft.restart, draft.health = restart_blocks(section, notes)
    draft.stop = stop_block(section, notes)
    draft.logs = logs_block(section, notes)
    user, umask = section.last("user"), section.last("umask")
    draft.process = process_block(
        user=native(expand(user), user.place, notes) if user else shared.user,
        umask=octal_mask(umask.value, umask.place, notes) if umask else shared.umask,
    )
    return [draft]


def _read_now(section: Section, shared: _Shared) -> Section:
    """Return the section with the variables of numbers and words filled in: a manifest has them as they are now."""
    found = Section(section.name, section.place, section.folder)
    for entry in section.entries:
        value = entry.value
        if "%" in value and entry.key in READ_NOW_KEYS:
            for name in _VARIABLE.findall(value):
                said = shared.environment.get(name, shared.around.environment.get(name))
                if said is None:
                    shared.notes.fault(entry.place, f"variable {name[:80]} is not set here", "set it and convert again")
                shared.notes.warn(entry.place, f"the value of {name[:80]} is read now", "convert again if it changes")
                value = value.replace(f"%(ENV_{name})s", said or "").replace("\0", "")
        found.add(replace(entry, value=value))
    return found


def _warn_of_keys(section: Section, notes: Notes) -> None:
    for entry in section.entries:
        if entry.key in _NOT_CARRIED:
            if entry.key.endswith(("_syslog", "_enabled")) and entry.value.lower() in ("false", "no", "off", "0"):
                continue
            notes.warn(entry.place, f"is not carried over: {_NOT_CARRIED[entry.key][0]}", _NOT_CARRIED[entry.key][1])
        elif entry.key not in PROGRAM_KEYS:
            fix = notes.suggestion(entry.key, PROGRAM_KEYS) or "remove it"
            notes.warn(entry.place, "is not known as a key of a program", fix)


def _directory(section: Section, shared: _Shared, expand: Callable[[Entry], str]) -> tuple[str, bool]:
    entry = section.last("directory")
    if entry is None:
        return shared.directory, False
    directory = expand(entry)
    if directory.startswith("~"):
        shared.notes.fault(entry.place, "a folder of `~` cannot be said", "write the path of the home folder")
    return joined(shared.directory, directory), True


def _command(
    section: Section, directory: str, expand: Callable[[Entry], str], notes: Notes, *, is_said: bool
) -> list[str]:
    entry = section.last("command")
    if entry is None:
        notes.fault(section.place, "the program has no `command`", "add command = /path/to/program")
        return []
    try:
        words = shlex.split(expand(entry))
    except ValueError as error:
        notes.fault(entry.place, f"cannot be split into words: {error}".lower(), "close the quotes")
        return []
    if not words or not words[0].strip():
        notes.fault(entry.place, "the command is empty", "write command = /path/to/program")
        return []
    if not is_said and any("/" in word and not word.startswith(("/", "-", "\0")) for word in words):
        notes.warn(
            entry.place,
            f"has a relative path and no `directory`: {directory} is written as the folder",
            "write the folder where supervisord was started as working_directory",
        )
    if "/" in words[0]:
        words[0] = joined(directory, words[0])
    return [native(word, entry.place, notes) for word in words]


def _warn_of_split(entry: Entry | None, known: Mapping[str, object], shared: _Shared) -> None:
    """Warn of variables of a command whose value supervisord would split into words."""
    if entry is None:
        return
    for name in _VARIABLE.findall(entry.value):
        value = "" if f"ENV_{name}" in known else shared.around.environment.get(name, "")
        if any(letter.isspace() or letter in "\"'\\" for letter in value):
            shared.notes.warn(
                entry.place,
                f"the value of {name} is not split into words here, as supervisord does",
                "write its words into the command",
            )


def _environment(entry: Entry, expand: Callable[[Entry], str], notes: Notes) -> dict[str, str]:
    """Return the pairs of `KEY="value",KEY2=value2`, read with supervisord's own lexer rules; not `native` yet."""
    lexer = shlex.shlex(expand(entry))
    lexer.wordchars += "/.+-():\0${}"
    try:
        tokens = list(lexer)
    except ValueError as error:
        notes.fault(entry.place, f"cannot be read: {error}".lower(), "close the quotes")
        return {}
    found: dict[str, str] = {}
    for start in range(0, len(tokens), 4):
        words = tokens[start : start + 4]
        if len(words) < 3 or words[1] != "=" or (len(words) == 4 and words[3] != ","):
            text = "".join(words).replace("\0", "")
            notes.fault(entry.place, f"{text[:60]!r} is not KEY=value", 'write KEY="value",OTHER="value"')
            return found
        name = words[0].strip("'\"")
        if not name or "=" in name or "\0" in name:
            notes.fault(entry.place, "a name is empty, or holds = or a variable", "write the name")
            return found
        found[name] = words[2].strip("'\"")
    return found
