"""Which process manager a file is of, and its converter."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from hsu_core.model.errors import InvalidInput, InvalidManifest
from hsu_core.wire.foreign import Conversion, ForeignFile, Surroundings
from hsu_core.wire.foreign_pm2 import convert_pm2
from hsu_core.wire.foreign_supervisord import convert_supervisord
from hsu_core.wire.foreign_systemd import convert_systemd
from hsu_core.wire.yaml_text import load_document

HSU = "hsu"

CONVERTERS: Mapping[str, Callable[[Sequence[ForeignFile], Surroundings, str], Conversion]] = {
    "supervisord": convert_supervisord,
    "pm2": convert_pm2,
    "systemd": convert_systemd,
}
"""The converter of each kind of file that is not HSU's."""

_UNITS = (".service", ".socket", ".timer", ".path", ".target")
_INI_SECTION = re.compile(rb"^\[(program:|group:|fcgi-program:|eventlistener:|supervisord\]|include\])", re.MULTILINE)


def kind_of(file: ForeignFile) -> str:
    """Return `supervisord`, `pm2` or `systemd` for what a file's name and content say, else `hsu`."""
    name = file.name.replace("\\", "/").rpartition("/")[2]
    if name.endswith(_UNITS):
        return "systemd"
    if name.endswith((".conf", ".ini")) and _INI_SECTION.search(file.text):
        return "supervisord"
    if name.startswith(("ecosystem.", "pm2.")) or name.endswith((".config.js", ".config.cjs")):
        return "pm2"
    return "pm2" if name.endswith(".json") and _has_apps(file) else HSU


def _has_apps(file: ForeignFile) -> bool:
    try:
        data = load_document(file.text, file.name).data
    except InvalidManifest:
        return False
    first = data[0] if isinstance(data, list) and data else data
    return (
        isinstance(first, dict)
        and not {"workers", "managed_processes"} & first.keys()
        and ("apps" in first or "script" in first)
    )


def one_kind_of(files: Sequence[ForeignFile]) -> str:
    """Return the kind of all these files. Raises InvalidInput if they are of several."""
    kinds = {kind_of(file): file.name for file in files}
    if len(kinds) > 1:
        found = ", ".join(f"{name} is {kind}" for kind, name in sorted(kinds.items()))
        raise InvalidInput("convert files of several kinds", found, "convert each kind by itself, or say --from")
    return next(iter(kinds), HSU)


def convert_files(kind: str, files: Sequence[ForeignFile], around: Surroundings, app: str = "") -> Conversion:
    """Return the manifest of files of a kind in CONVERTERS. Raises InvalidManifest with every fault."""
    return CONVERTERS[kind](files, around, app)
