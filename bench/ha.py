"""What fails, and how long until all is well again: each fault of the catalogue, on real processes of this machine.

    python bench/ha.py [--repetitions 5] [--only leader-kill ...] [--deaths 200] [--outage-minutes 10] [--json FILE]

A fleet of three etcd members, three masters and three agents serves clients that write all the time and record what
they are told; each fault happens so many times. Beside the seconds: instances that ran twice after it, writes that were
lost, and workers that had no part in the fault and were restarted. Swarm is measured in the same run where `dockerd` is
there. With --json FILE what this run does not measure stays there as it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.failures.catalogue import CATALOGUE
from bench.failures.deaths import measure_deaths
from bench.failures.faults import measure
from bench.failures.figures import seconds, sentences, table
from bench.failures.outage import measure_outage
from bench.failures.site import fleet
from bench.failures.swarm import measure_swarm, why_no_swarm


def about(repetitions: int) -> dict[str, Any]:
    """Return on what and how it is measured."""
    busy = os.getloadavg()[0]
    kernel = platform.release().split("-")[0]
    return {
        "day": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} processors, Linux {kernel}, Python {platform.python_version()}",
        "load": f"load average {busy:.0f} at the start",
        "repetitions": repetitions,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(CATALOGUE), default=list(CATALOGUE), metavar="FAULT")
    parser.add_argument("--deaths", type=int, default=200, help="kills of an agent with 50 workers; 0: none")
    parser.add_argument("--outage-minutes", type=float, default=10.0, help="minutes without etcd; 0: none")
    parser.add_argument("--no-swarm", action="store_true", help="do not measure Swarm")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    document: dict[str, Any] = {"faults": {}}
    if options.json and options.json.exists():
        document = json.loads(options.json.read_text(encoding="utf-8"))
    if options.only:
        document["about"] = about(options.repetitions)
    if options.only or options.outage_minutes:
        with tempfile.TemporaryDirectory(prefix="hsu-bench-") as name, fleet(Path(name)) as site:
            for fault in options.only:
                figures = document["faults"][fault] = measure(site, fault, options.repetitions)
                print(f"{fault}: {seconds(figures['seconds'])}", flush=True)
            if options.outage_minutes:
                document["outage"] = measure_outage(site, options.outage_minutes)
                print(f"outage: {document['outage']}", flush=True)
    if options.deaths:
        document["deaths"] = measure_deaths(options.deaths)
        print(f"deaths: {document['deaths']}", flush=True)
    if options.no_swarm:
        pass
    elif reason := why_no_swarm():
        print(f"Swarm is not measured: {reason}")
    else:
        document["swarm_about"], document["swarm"] = measure_swarm(options.repetitions)
    if "about" in document:
        print(f"\n{table(document)}\n\n{sentences(document)}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
