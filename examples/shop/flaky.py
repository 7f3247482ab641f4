"""A worker that works for some seconds at random, then crashes with code 1. Ends cleanly on SIGTERM."""

import argparse
import random
import signal
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--within", type=float, default=40.0, help="longest time until a crash, in seconds")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    life_s = random.uniform(arguments.within / 4, arguments.within)
    print("working", flush=True)
    time.sleep(life_s)
    print(f"crashing after {life_s:.1f} s", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
