"""Runs seeds: `python -m tests.sim --seeds 1000`, or one of them with all it did: `python -m tests.sim --seed 42`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim.mutants import MUTANTS, find
from tests.sim.options import Options, draw
from tests.sim.run import Result, run
from tests.sim.shrink import shrink
from tests.sim.sweep import SCRIPTS, disturbed, plan, reference


def _run_seed(seed: int) -> Result:
    return run(draw(seed))


def _shrunk(result: Result) -> Options:
    name = result.violation.name if result.violation is not None else ""

    def still_fails(options: Options) -> bool:
        violation = run(options).violation
        return violation is not None and violation.name == name

    return shrink(result.options, still_fails)


def _explain(result: Result) -> None:
    print(result.report())
    smaller = _shrunk(result)
    print(f"\nsmaller, and it still fails ({run(smaller).violation}):\n{smaller.text()}")


def _sweep(jobs: int) -> int:
    failed = 0
    for script in SCRIPTS:
        expected, points = reference(script)
        chosen = list(plan(len(points), 0, 1))
        with ProcessPoolExecutor(jobs) as pool:
            results = pool.map(partial(_disturbed, script), chosen, chunksize=8)
            for (at, way), result in zip(chosen, results, strict=True):
                if result.violation is not None or result.picture != expected.picture:
                    failed += 1
                    print(
                        f"{script}: {way} {points[at]} (point {at}): {result.violation or 'ends otherwise'}", flush=True
                    )
        print(f"{script}: {len(points)} points, {len(chosen)} runs", flush=True)
    return int(failed > 0)


def _disturbed(script: str, point: tuple[int, str]) -> Result:
    return disturbed(script, *point)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one and print all its events")
    parser.add_argument("--seeds", type=int, default=100, help="how many to play (100)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--mutants", action="store_true", help="tell which seed finds each planted fault")
    parser.add_argument("--sweep", action="store_true", help="crash at every point of every script")
    parser.add_argument("--jobs", type=int, default=2, help="processes to use (2)")
    chosen = parser.parse_args(arguments)
    if chosen.sweep:
        return _sweep(chosen.jobs)
    if chosen.mutants:
        for name in MUTANTS:
            found = find(name)
            print(f"{name:24} seed {found[0]:3}  {found[1]}" if found else f"{name:24} not found", flush=True)
        return 0
    if chosen.seed is not None:
        result = _run_seed(chosen.seed)
        print("\n".join(result.log))
        if result.violation is not None:
            _explain(result)
        return int(result.violation is not None)
    started_s, virtual_s, failed = time.monotonic(), 0.0, 0
    reached: Counter[str] = Counter()
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for result in pool.map(_run_seed, range(chosen.first, chosen.first + chosen.seeds), chunksize=4):
            virtual_s += result.virtual_s
            reached += result.reached
            if result.violation is not None:
                failed += 1
                print(f"seed {result.options.seed}: {result.violation}", flush=True)
                if failed == 1:
                    _explain(result)
    took_s = time.monotonic() - started_s
    print(
        f"{chosen.seeds} seeds, {failed} failed; {virtual_s / 3600:.1f} virtual hours in {took_s:.0f} s, "
        f"{virtual_s / 60 / took_s:.1f} virtual hours in a minute"
    )
    for name, count in sorted(reached.items()):
        print(f"  {count:6d} {name}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
