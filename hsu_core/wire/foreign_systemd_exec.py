"""Command lines, variables and specifiers of systemd's units (systemd.service(5), systemd.unit(5)) as words."""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from hsu_core.wire.foreign import NODE, Notes, Place, environment_reference, native

_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'",
    "s": " ",
}  # fmt: skip
_CODES = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}
_SPACE = " \t\n"
_BARE = re.compile(r"(\\?);(?=\s|$)")
_NO_CHARACTER = "\udc00"
"""Stands for an escape that is no character of UTF-8 by itself; no decoded text holds it."""
_SEPARATOR = "\udc01"
"""Stands for a `;` between commands, which is one without quotes."""

_FOLDERS: Mapping[str, str] = {
    "C": "/var/cache", "E": "/etc", "L": "/var/log", "S": "/var/lib", "T": "/tmp", "V": "/var/tmp", "t": "/run",
}  # fmt: skip
_OF_ROOT: Mapping[str, str] = {"h": "/root", "u": "root", "U": "0", "g": "root", "G": "0", "s": "/bin/sh"}

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))")
_GIVEN_BY_AGENT = ("PATH", "HOME", "LANG", "USER", "TZ")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a unit: its words, and what its prefixes say."""

    words: tuple[str, ...]
    is_failure_ignored: bool = False
    has_variables: bool = True


def specified(text: str, unit: str, place: Place, notes: Notes) -> str:
    """Return a text with its `%` specifiers filled in, for the unit's file name; others are warned of and kept."""
    if "%" not in text:
        return text
    stem = unit.rpartition(".")[0] or unit
    prefix, mark, instance = stem.partition("@")
    named = {
        "%": "%", "n": unit, "N": stem, "p": prefix, "i": instance, "I": instance.replace("-", "/"),
        "j": prefix.rpartition("-")[2], **_FOLDERS,
    }  # fmt: skip

    def fill(match: re.Match[str]) -> str:
        letter = match[1]
        if letter in ("i", "I") and mark and not instance:
            notes.warn(
                place, f"%{letter} is empty in a template", "name the file as an instance, such as web@1.service"
            )
        if letter in named:
            return named[letter]
        if letter in _OF_ROOT:
            notes.warn(
                place, f"%{letter} is taken for {_OF_ROOT[letter]}, as in units of the system", "correct it for others"
            )
            return _OF_ROOT[letter]
        if letter == "H":
            notes.warn(place, "%H is taken for the name of the node", "they are the same if nothing else is said")
            return NODE
        notes.warn(place, f"%{letter} is not carried over and stands as it is", "write what it means")
        return match[0]

    return re.sub(r"%(.)", fill, text, flags=re.DOTALL)


def split_words(text: str, place: Place, notes: Notes) -> list[str]:
    """Return the words of a text by systemd's rules of quotes and C escapes; a fault for an open quote."""
    return [";" if word == _SEPARATOR else word for word in _split(text, place, notes)]


def _split(text: str, place: Place, notes: Notes) -> list[str]:
    """Return the words; a bare `;` is _SEPARATOR."""
    words: list[str] = []
    word: list[str] | None = None
    quote, index = "", 0
    while index < len(text):
        bare = _BARE.match(text, index) if word is None else None
        if bare is not None:
            words.append(";" if bare[1] else _SEPARATOR)
            index = bare.end()
            continue
        letter = text[index]
        index += 1
        if letter == "\\" and index < len(text):
            found, index = _escape(text, index)
            word = [] if word is None else word
            word.append(found)
        elif quote:
            if letter == quote:
                quote = ""
            elif word is not None:
                word.append(letter)
        elif letter in "\"'":
            quote, word = letter, [] if word is None else word
        elif letter in _SPACE:
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = [] if word is None else word
            word.append(letter)
    if quote:
        notes.fault(place, f"a {quote} is not closed", "close it")
    if word is not None:
        words.append("".join(word))
    if any(_NO_CHARACTER in each for each in words):
        notes.fault(place, "holds a character that no program can be given", "remove it")
        return []
    return words


def _escape(text: str, index: int) -> tuple[str, int]:
    """Return the character of the escape that begins before `index`, and where the text goes on."""
    letter = text[index]
    if letter in _ESCAPES:
        return _ESCAPES[letter], index + 1
    if letter in _CODES:
        length, base = _CODES[letter]
        digits = text[index + 1 : index + 1 + length]
        if re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", digits):
            code = int(digits, base)
            limit = 0x80 if letter == "x" else 0x110000
            is_character = 0 < code < limit and not 0xD800 <= code < 0xE000
            return chr(code) if is_character else _NO_CHARACTER, index + 1 + length
    if re.fullmatch(r"[0-7]{3}", text[index : index + 3]):
        code = int(text[index : index + 3], 8)
        return chr(code) if 0 < code < 0x80 else _NO_CHARACTER, index + 3
    return "\\" + letter, index + 1


def parse_commands(text: str, unit: str, place: Place, notes: Notes) -> list[Command]:
    """Return the commands of one `Exec…=` line (several stand between single `;`)."""
    words = [specified(word, unit, place, notes) for word in _split(text, place, notes)]
    found: list[Command] = []
    for is_separator, own in itertools.groupby(words, lambda word: word == _SEPARATOR):
        command = None if is_separator else _command(list(own), place, notes)
        if command is not None:
            found.append(command)
    return found


def _command(words: list[str], place: Place, notes: Notes) -> Command | None:
    first = words[0].lstrip("-@:+!|")
    prefixes = words[0][: len(words[0]) - len(first)]
    words = [first, *words[1:]]
    if "@" in prefixes and len(words) > 1:
        notes.warn(place, f"@ is not carried over: the program is called with its own name, not {words[1][:60]!r}")
        del words[1]
    for mark in "+!|":
        if mark in prefixes:
            notes.warn(place, f"{mark} is not carried over: all commands run as the worker does", "change `process`")
    words[0] = posixpath.normpath(words[0]) if "/" in words[0] else words[0]
    if not words[0].strip():
        notes.fault(place, "the command is empty", "write the path of a program")
        return None
    return Command(tuple(words), "-" in prefixes, ":" not in prefixes)


def filled(command: Command, variables: Mapping[str, str], place: Place, notes: Notes) -> list[str]:
    """Return the words of a command with its variables filled in, as `native` texts.

    `variables` are the unit's own, native already. What only the agent knows is a reference to its environment.
    """
    if not command.has_variables:
        return [native(word, place, notes) for word in command.words]
    found = [native(command.words[0], place, notes)]
    for word in command.words[1:]:
        bare = _VARIABLE.fullmatch(word)
        if bare is not None and bare["bare"]:
            found += _value(bare["bare"], variables, place, notes).split()
            continue
        found.append("".join(_pieces(word, variables, place, notes)))
    return found


def _pieces(word: str, variables: Mapping[str, str], place: Place, notes: Notes) -> list[str]:
    pieces: list[str] = []
    at, literal = 0, ""
    for match in _VARIABLE.finditer(word):
        literal += word[at : match.start()]
        at = match.end()
        if match["dollar"]:
            literal += "$"
        elif match["braced"]:
            pieces += [native(literal, place, notes), _value(match["braced"], variables, place, notes)]
            literal = ""
        else:
            literal += match[0]
    pieces.append(native(literal + word[at:], place, notes))
    pieces = [piece for piece in pieces if piece]
    for first, second in itertools.pairwise(pieces):
        if first.endswith("$") and second.startswith(("$", "{")):
            notes.fault(place, "a `$` right before a variable cannot be said", "put the command into a script")
    return pieces


def _value(name: str, variables: Mapping[str, str], place: Place, notes: Notes) -> str:
    if name in variables:
        return variables[name]
    if name in _GIVEN_BY_AGENT:
        return native(environment_reference(name), place, notes).replace("}", ":-}")
    notes.warn(place, f"${name} is not set by the unit: nothing is written for it", "add it to `environment`")
    return ""


def hook_command(commands: list[tuple[Command, Place]], variables: Mapping[str, str], notes: Notes) -> list[str]:
    """Return one command for several: a shell that stops at the first that fails, unless its failure is ignored."""
    rendered = [(filled(command, variables, place, notes), command) for command, place in commands]
    if len(rendered) == 1 and not rendered[0][1].is_failure_ignored:
        return rendered[0][0]
    lines = [shlex.join(words) + (" || :" if command.is_failure_ignored else "") for words, command in rendered]
    return ["/bin/sh", "-c", "\n".join(["set -e", *lines])]
