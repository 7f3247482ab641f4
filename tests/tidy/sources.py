"""Finds the sources that the tidy rules read, and walks their syntax trees."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("hsu_core", "hsu_cluster", "hsu_agent")

_FOLDERS = (*PACKAGES, "tests", "bench", "tools", "examples")


@functools.cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Return the Python files of `folders` (all of the project's where none is named), sorted."""
    found = (path for folder in folders or _FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name(path: Path) -> str:
    """Return the path as people read it, relative to the project."""
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of a chain of names and attributes, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def uses(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every attribute chain of a file, outermost first."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and (text := dotted(node)):
            yield node.lineno, text


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """Yield (line, dotted name, node) of every call of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func), node


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module or module.name) of every import of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


@functools.cache
def text_files() -> tuple[Path, ...]:
    """Return the project's own text files: what git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:  # an unpacked archive has no git
        candidates = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.parts)]
    else:
        candidates = [ROOT / line for line in listed.stdout.splitlines()]
    return tuple(sorted(path for path in candidates if path.is_file() and _is_text(path)))


def _is_text(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"\0" not in stream.read(4096)
