"""The benchmark of faults, in small: nothing runs twice, no write is lost, nobody else is restarted or left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.failures.figures import percentile, seconds, table
from tests.support.cluster import ROOT

FAULTS = ("worker-kill", "leader-kill")


@pytest.mark.etcd
@pytest.mark.slow
def test_faults_deaths_and_an_outage_leave_no_trace(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    quick = ["--repetitions", "1", "--deaths", "4", "--outage-minutes", "0.1", "--no-swarm", "--json", str(figures)]
    command = [sys.executable, str(ROOT / "bench" / "ha.py"), *quick, "--only", *FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(figures.read_text())
    for fault in FAULTS:
        found = document["faults"][fault]
        assert (found["duplicates"], found["lost_writes"]) == (0, 0), (fault, found)
        assert len(found["seconds"]) == 1
        assert found["writes"] > 0
    assert document["faults"]["leader-kill"]["restarts"] == 0
    assert document["outage"]["restarts"] == 0
    deaths = document["deaths"]
    assert deaths["deaths"] >= 4
    assert (deaths["restarts"], deaths["duplicates"], deaths["orphans"]) == (0, 0, 0)
    assert table(document) in done.stdout


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert seconds([0.123, 12.0]) == "0.12 / 12.0 s"
    assert seconds([]) == "–"
