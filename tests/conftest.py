"""What every suite shares: golden transcripts, rewritten only when `--update-golden` is given and read in review."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that rewrites golden files."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden transcripts of the chosen tests")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a function that compares a text with `golden/NAME.txt` beside the test's module."""
    folder = Path(str(request.path)).parent / "golden"
    is_updating = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        text = text.rstrip("\n") + "\n"
        if is_updating:
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run the test with --update-golden and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs: --update-golden accepts the new text"

    return compare
