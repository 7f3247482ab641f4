"""Generated parts of the documentation are what their sources say."""

from __future__ import annotations

import subprocess
import sys

from tests.tidy.sources import ROOT


def test_lifecycle_diagram_is_made_from_the_table() -> None:
    program = "from tools.lifecycle_diagram import PAGE, with_diagram; print(with_diagram(PAGE.read_text()), end='')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert page == done.stdout, "run tools/lifecycle_diagram.py"
