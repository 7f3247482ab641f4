"""Generated parts of the documentation are what their sources say."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.failures.catalogue import CATALOGUE
from tests.tidy.sources import ROOT
from tools.failures_page import FIGURES, PAGE, with_figures


def test_lifecycle_diagram_is_made_from_the_table() -> None:
    program = "from tools.lifecycle_diagram import PAGE, with_diagram; print(with_diagram(PAGE.read_text()), end='')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert page == done.stdout, "run tools/lifecycle_diagram.py"


def test_figures_of_failures_are_made_from_what_was_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_figures(page), "run tools/failures_page.py"
    document = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert set(document["faults"]) == set(CATALOGUE), "run make bench-ha: every fault of the catalogue is measured"
