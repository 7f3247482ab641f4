"""What the README tells people to type exists: every command in its `sh` blocks is known and tested somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

RUN_IN_ORDER = "tests/e2e/test_readme.py runs it against a standalone cluster"
LOADED = "tests/tidy/test_deploy_files.py loads the file it names"
SHELL = "the shell's own"
HOW_TESTED = {
    "make demo": "tests/e2e/test_demo.py",
    "make test": "it is what runs this test",
    "export": SHELL,
    "hsu-cluster master": LOADED,
    "hsu-agent run": LOADED,
    "hsu-cluster": RUN_IN_ORDER,
}
"""For each command (longest beginning first) what tests it."""


def commands() -> list[str]:
    """Return the lines of the README's `sh` blocks, without comments and empty lines."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def how_tested(command: str) -> str:
    """Return what tests a command, or an empty text."""
    known = sorted(HOW_TESTED, key=len, reverse=True)
    return next((HOW_TESTED[key] for key in known if command == key or command.startswith(f"{key} ")), "")


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_tested(command: str) -> None:
    assert how_tested(command), "add it to HOW_TESTED with the test that runs it"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    told = {shlex.split(command)[1] for command in commands() if command.startswith("make ")}
    assert told <= targets
    assert {"demo", "test", "lint", "bench", "clean", "help"} <= targets


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_named_in_the_readme_exist() -> None:
    named = re.findall(r"`((?:examples|deploy|docs|tests)/[\w./-]*|[\w-]+\.yml|\.ci/run)`", README)
    assert [path for path in named if not (ROOT / path).exists()] == []
