"""The two line formats, supervisord's ini files and systemd's units, as sections of entries. No meaning yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hsu_core.wire.foreign import ForeignFile, Notes, Place
from hsu_core.wire.tree import decode

LINE_LIMIT = 20_000
"""Most lines of one file: more were made by a program, and bound the time that a hostile one can take."""

_HEADER = re.compile(r"\[(?P<name>.+)\]")
_MARK = re.compile(r"[=:]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key = value` with its place; `folder` is the folder of its file."""

    key: str
    value: str
    place: Place
    folder: str


@dataclass(slots=True)
class Section:
    """One `[name]` with its entries in their order."""

    name: str
    place: Place
    folder: str
    entries: list[Entry] = field(default_factory=list)
    _last: dict[str, Entry] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Add an entry at the end."""
        self.entries.append(entry)
        self._last[entry.key] = entry

    def last(self, key: str) -> Entry | None:
        """Return the last entry of this key, which is the one that counts, or None."""
        return self._last.get(key)


def _lines(file: ForeignFile, notes: Notes) -> list[str]:
    text = decode(file.text, file.name)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        notes.fault(Place(file.name, "", line), "the file holds the character NUL", "remove it")
        raise notes.refusal()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > LINE_LIMIT:
        notes.fault(Place(file.name, ""), f"the file has {len(lines)} lines, the limit is {LINE_LIMIT}", "split it")
        raise notes.refusal()
    return lines


def read_ini(file: ForeignFile, notes: Notes) -> list[Section]:
    """Return the sections of an ini file as supervisord reads it.

    Keys are lower case; ` ;` and ` #` start comments; lines that are indented deeper go on with the value above.
    """
    sections: list[Section] = []
    open_entry: tuple[str, int, list[str]] | None = None
    indent = 0
    for number, raw in enumerate(_lines(file, notes), start=1):
        line = _without_comment(raw)
        text = line.strip()
        if not text:
            continue
        own_indent = len(line) - len(line.lstrip())
        if own_indent > indent and open_entry is not None:
            open_entry[2].append(text)
            continue
        indent = own_indent
        if open_entry is not None:
            _close(sections[-1], open_entry, file)
        open_entry = None
        header = _HEADER.match(text)
        if header is not None:
            place = Place(file.name, f"[{header['name']}]", number)
            sections.append(Section(header["name"], place, file.folder))
            continue
        mark = _MARK.search(text)
        if mark is None or mark.start() == 0:
            notes.fault(Place(file.name, "", number), f"{text[:60]!r} is not `key = value`", "mend the line")
        elif not sections:
            notes.fault(Place(file.name, "", number), "stands before the first [section]", "add [program:NAME] above")
        else:
            open_entry = (text[: mark.start()].strip().lower(), number, [text[mark.end() :].strip()])
    if open_entry is not None:
        _close(sections[-1], open_entry, file)
    return sections


def _close(section: Section, entry: tuple[str, int, list[str]], file: ForeignFile) -> None:
    key, line, lines = entry
    place = Place(file.name, f"[{section.name}] {key}", line)
    section.add(Entry(key, "\n".join(lines).strip(), place, file.folder))


def _without_comment(line: str) -> str:
    for index, letter in enumerate(line):
        if letter in ";#" and (index == 0 or line[index - 1].isspace()):
            return line[:index]
    return line


def read_unit(file: ForeignFile, notes: Notes) -> list[Section]:
    """Return the sections of a unit as systemd reads it: keys as written, a backslash at the end joins lines."""
    sections: list[Section] = []
    for number, text in _joined(_lines(file, notes)):
        header = _HEADER.fullmatch(text)
        if header is not None:
            sections.append(Section(header["name"], Place(file.name, f"[{header['name']}]", number), file.folder))
            continue
        key, mark, value = text.partition("=")
        if not mark or not key.strip():
            notes.fault(Place(file.name, "", number), f"{text[:60]!r} is not `Key=value`", "mend the line")
        elif not sections:
            notes.fault(Place(file.name, "", number), "stands before the first [Section]", "add [Service] above")
        else:
            place = Place(file.name, f"[{sections[-1].name}] {key.strip()}", number)
            sections[-1].add(Entry(key.strip(), value.strip(), place, file.folder))
    return sections


def _joined(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Give the logical lines with their numbers; comments between joined lines are left out."""
    held, start = "", 0
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not held):
            continue
        start = start if held else number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        yield start, (held + line).strip()
        held = ""
    if held.strip():
        yield start, held.strip()
