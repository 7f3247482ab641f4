"""What the converters of other process managers' files share: places, warnings, texts, and the worker that comes out.

A converter takes files and what it may ask of the host (`Surroundings`), and gives a `Conversion`: a manifest in the
native form, and a warning for everything that is not carried over. It reads nothing by itself. Neighbours:
`foreign_supervisord`, `foreign_pm2` and `foreign_systemd`, and `foreign_kinds`, which chooses one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hsu_core.model.errors import Fault, InvalidManifest
from hsu_core.model.ids import NAME_LIMIT, is_name
from hsu_core.wire.faults import FAULT_LIMIT
from hsu_core.wire.fields import nearest
from hsu_core.wire.manifest import parse_manifest
from hsu_core.wire.yaml_text import dump_yaml

WORKER_LIMIT = 1000
"""Most workers of one conversion: a host with more has its files made by a program, which can write ours."""

CODE = "convert.not-carried-over"

SLOT, NODE = "\0{slot}\0", "\0{node}\0"
"""References in a text on the way: between two NULs, which no file may hold, so that `native` tells them from text."""

_FILLED_IN = re.compile(r"\{(?:port\.[^{}]{0,100}|slot|app|worker|node|files)\}")
_ENVIRONMENT = re.compile(r"\0\$\{env:([^{}\0]*)\}\0")


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One file of another process manager. `folder` is its absolute folder, where its relative paths start."""

    name: str
    text: bytes
    folder: str = "/"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a converter may ask: variables, files by their path (raises OSError), and files by a pattern."""

    environment: Mapping[str, str]
    read_file: Callable[[str], bytes]
    find_files: Callable[[str], Sequence[ForeignFile]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A manifest in the native form, and what its reader should know or do."""

    manifest: dict[str, Any]
    warnings: tuple[Fault, ...]

    @property
    def text(self) -> str:
        """Return the manifest as YAML."""
        return dump_yaml(self.manifest)


class Place(NamedTuple):
    """Where something stands: `path` is as people say it, such as `[program:web] command`; `line` from 1."""

    file: str
    path: str
    line: int = 0


class Notes:
    """Collects warnings and faults of a conversion. Faults beyond FAULT_LIMIT end it."""

    def __init__(self, what: str) -> None:
        self.faults: list[Fault] = []
        self._warnings: dict[Fault, None] = {}
        self._suggestions = 0
        self._what = what

    def warn(self, place: Place, text: str, fix: str = "") -> None:
        """Add a warning, once."""
        self._warnings[Fault(place.path, text, fix, place.file, place.line, CODE)] = None

    def suggestion(self, word: str, known: Iterable[str]) -> str:
        """Return what an unknown word may be meant for, or an empty text; after FAULT_LIMIT words it costs too much."""
        self._suggestions += 1
        near = nearest(word, sorted(known)) if self._suggestions <= FAULT_LIMIT else ""
        return f"did you mean {near}?" if near else ""

    @property
    def warnings(self) -> list[Fault]:
        """Return the warnings in the order of the files and their lines."""
        return sorted(self._warnings, key=lambda found: (found.file, found.line))

    def fault(self, place: Place, text: str, fix: str = "") -> None:
        """Add a fault. Raises InvalidManifest when there are too many."""
        self.faults.append(Fault(place.path, text, fix, place.file, place.line))
        if len(self.faults) >= FAULT_LIMIT:
            raise self.refusal()

    def refusal(self) -> InvalidManifest:
        """Return the error with every fault."""
        count = f"{len(self.faults)} fault{'' if len(self.faults) == 1 else 's'}"
        return InvalidManifest(f"convert {self._what}", count, "", faults=self.faults)


@dataclass(slots=True)
class Draft:
    """A worker as a converter fills it in; texts are `native` already. Empty blocks are left out of the document."""

    id: str
    command: list[str]
    place: Place
    directory: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    description: str = ""
    replicas: int = 1
    is_enabled: bool = True
    depends_on: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    restart: dict[str, Any] = field(default_factory=dict)
    stop: dict[str, Any] = field(default_factory=dict)
    hooks: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the worker of the manifest."""
        execution: dict[str, Any] = {"executable_path": self.command[0] if self.command else ""}
        execution |= _given(args=self.command[1:], environment=self.environment, working_directory=self.directory)
        managed: dict[str, Any] = {"metadata": {"description": self.description}} if self.description else {}
        managed["control"] = {"execution": execution}
        more = _given(
            depends_on=self.depends_on,
            health=self.health,
            restart=self.restart,
            stop=self.stop,
            hooks=self.hooks,
            limits=self.limits,
            logs=self.logs,
            process=self.process,
        )
        head: dict[str, Any] = {"id": self.id}
        if not self.is_enabled:
            head["enabled"] = False
        if self.replicas != 1:
            head["replicas"] = self.replicas
        return head | {"unit": {"managed": managed}} | more


def _given(**keys: Any) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if value is not None and value not in ("", [], {})}


def process_block(
    *,
    user: str = "",
    group: str = "",
    groups: Sequence[str] = (),
    umask: str = "",
    nice: int | None = None,
    io_class: str = "",
    io_priority: int | None = None,
    cpu_affinity: Sequence[int] = (),
    oom_score_adj: int | None = None,
    no_new_privileges: bool | None = None,
    capabilities: Sequence[str] = (),
    rlimits: Mapping[str, int | str] | None = None,
) -> dict[str, Any]:
    """Return the `process` block of a worker: the one place that knows its keys. What is not said is left out.

    `umask` is octal text. `capabilities` are without `CAP_`. `rlimits` maps names such as nofile to a number,
    `unlimited`, or both as `soft:hard`.
    """
    return _given(
        user=user,
        group=group,
        groups=list(groups),
        umask=umask,
        nice=nice,
        io_class=io_class,
        io_priority=io_priority,
        cpu_affinity=list(cpu_affinity),
        oom_score_adj=oom_score_adj,
        no_new_privileges=no_new_privileges,
        capabilities=list(capabilities),
        rlimits=dict(rlimits or {}),
    )


def environment_reference(name: str) -> str:
    """Return the reference to a variable of the agent's environment, for a text on the way."""
    return f"\0${{env:{name}}}\0"


def native(text: str, place: Place, notes: Notes) -> str:
    """Return a text as a manifest says it: `${` of the foreign file escaped, references filled in."""
    result = ""
    for index, part in enumerate(text.split("\0")):
        if index % 2:
            if result.endswith("$"):
                notes.fault(place, "a `$` right before a variable cannot be said", "put the command into a script")
            result += part
            continue
        for found in _FILLED_IN.findall(part):
            if found.startswith("{port."):
                notes.fault(place, f"{found} would be taken for a port of the worker", "put it into a script")
            else:
                notes.warn(place, f"{found} will be filled in by the agent", "put it into a script if it is meant so")
        result += part.replace("${", "$${")
    return result


def joined(folder: str, path: str) -> str:
    """Return a path that starts in a folder, without a needless `./`; an empty one is the folder."""
    return posixpath.join(folder, path.removeprefix("./")) if path else folder


def worker_id(name: str, place: Place, notes: Notes) -> str:
    """Return the id of a worker for a foreign name; a name that cannot be one is changed, with a warning."""
    if is_name(name):
        return name
    made = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:NAME_LIMIT] or "worker"
    notes.warn(place, f"{name[:80]!r} cannot be the id of a worker, {made} is written", "use that name in commands")
    return made


def app_name(files: Sequence[ForeignFile], asked: str) -> str:
    """Return the name of the app: what was asked for, or the first file's name without its ending."""
    if asked:
        return asked
    stem = re.sub(r"\.[A-Za-z0-9]+$", "", files[0].name.replace("\\", "/").rpartition("/")[2]) if files else ""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:NAME_LIMIT] or "app"


def finish(drafts: Sequence[Draft], app: str, notes: Notes, around: Surroundings) -> Conversion:
    """Return the conversion of these workers. Raises InvalidManifest with every fault of the files.

    The manifest is read as the agent will read it; what is wrong with it then is a fault too.
    """
    seen: dict[str, Draft] = {}
    for draft in drafts:
        if draft.id in seen:
            first = seen[draft.id].place
            notes.fault(draft.place, f"worker {draft.id} is in {first.file}:{first.line} too", "rename one")
        seen[draft.id] = draft
    if len(drafts) > WORKER_LIMIT:
        notes.fault(drafts[0].place, f"{len(drafts)} workers, the limit is {WORKER_LIMIT}", "convert some of the files")
    if not is_name(app):
        notes.fault(Place("", "--app"), f"{app[:80]!r} is not a name", "use letters, digits, `_` and `-`")
    if notes.faults:
        raise notes.refusal()
    found = Conversion(
        {"app": app, "workers": [draft.document() for draft in drafts]},
        tuple(notes.warnings),
    )
    _check(found, notes, around)
    return found


def _check(found: Conversion, notes: Notes, around: Surroundings) -> None:
    """Add what the agent would refuse. A variable that is not set here is taken as set: there was a warning of it."""
    text = found.text
    named = dict.fromkeys(re.findall(r"\$\{env:([A-Za-z0-9_.]+)", text), "x")
    try:
        parse_manifest(
            text, file="its manifest", environment=named | dict(around.environment), read_file=None, is_lenient=True
        )
    except InvalidManifest as error:
        notes.faults.extend(error.faults)
        raise notes.refusal() from error
