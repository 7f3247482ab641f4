"""Measures supervisors of one host side by side: ours, and whatever of the others is installed.

    python bench/supervisors.py [--workers 100 1000] [--only hsu-agent runit] [--path DIR ...] [--json FILE]

All columns are taken from outside, over workers of C that announce themselves: `start` all workers; `crash` of one
until it runs again (median, 99th percentile); `mass` crash of all; `stop` all; `memory` of everything that is no worker
(PSS); `idle` processor time; output of one worker (rate, lines lost, processor time of the supervisor); and after a
kill -9 of the supervisor: workers that live on, copies, and the time until one that then dies runs again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers.drivers import DRIVERS
from bench.peers.measure import Figures, Plan, measure
from bench.peers.workers import build

OURS = "hsu-agent"

COLUMNS: Mapping[str, tuple[str, str]] = {
    "start_s": ("start s", "low"),
    "crash_ms": ("crash ms", "low"),
    "crash_p99_ms": ("p99 ms", "low"),
    "mass_s": ("mass s", "low"),
    "stop_s": ("stop s", "low"),
    "memory_mb": ("memory MB", "low"),
    "idle_cpu_s_min": ("idle s/min", "low"),
    "log_mb_s": ("log MB/s", "high"),
    "log_lost": ("lost", "low"),
    "log_cpu_s": ("log cpu s", "low"),
    "survived": ("survive", "high"),
    "doubled": ("doubled", "low"),
    "back_ms": ("back ms", "low"),
}
"""Heads of the columns, and which end of them is good."""


def table(rows: Mapping[str, Figures]) -> str:
    """Return the figures, and below them how ours stand to the best of the others (below 1: ours is better)."""
    lines = [["", *(head for head, _ in COLUMNS.values())]]
    lines += [[name, *(_number(figures.get(key)) for key in COLUMNS)] for name, figures in rows.items()]
    if OURS in rows and len(rows) > 1:
        lines.append(["ours to best", *(_ratio(key, good, rows) for key, (_, good) in COLUMNS.items())])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _ratio(key: str, good: str, rows: Mapping[str, Figures]) -> str:
    ours = rows[OURS].get(key)
    others = [value for name, figures in rows.items() if name != OURS and (value := figures.get(key)) is not None]
    if ours is None or not others:
        return "-"
    best: Callable[[Sequence[float]], float] = min if good == "low" else max
    above, below = (ours, best(others)) if good == "low" else (best(others), ours)
    return "=" if above == below else f"{above / below:.2f}" if below else "more"


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--only", nargs="+", choices=list(DRIVERS), metavar="NAME", help=", ".join(DRIVERS))
    parser.add_argument("--path", nargs="*", default=[], metavar="DIR", help="folders with programs of the others")
    parser.add_argument("--kills", type=int, default=100, help="single crashes (default: 100)")
    parser.add_argument("--idle", type=float, default=10.0, metavar="S", help="seconds of idling (default: 10)")
    parser.add_argument("--log-mb", type=int, default=200, help="output of one worker (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    search = os.pathsep.join([*map(os.path.abspath, options.path), os.environ["PATH"]])
    chosen = {name: kind for name, kind in DRIVERS.items() if not options.only or name in options.only}
    for name, kind in list(chosen.items()):
        if why := kind.why_not(search):
            print(f"{name}: not measured: {why}")
            del chosen[name]
    result: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="hsu-bench-") as folder:
        program = build(Path(folder))
        for count in options.workers:
            plan = Plan(count, min(options.kills, count), options.idle, options.log_mb * 10_000)
            rows: dict[str, Figures] = {}
            for name, kind in chosen.items():
                print(f"{name} with {count} workers ...", file=sys.stderr, flush=True)
                rows[name] = measure(kind, plan, Path(folder), program, search)
            print(f"\n{count} workers\n{table(rows)}", flush=True)
            result[str(count)] = rows
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
