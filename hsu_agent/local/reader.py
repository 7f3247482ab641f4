"""Reads manifests for a running agent, in a process of its own: `python -m hsu_agent.local.reader FILE...`.

With `--sources` it tells what they are read from instead.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from hsu_agent.local.files import read_workers
from hsu_agent.local.sources import Sources
from hsu_core.model.errors import InvalidManifest


def _tell_sources(files: list[Path]) -> int:
    """Write the stamps of what is read to stdout (pickled), and whether that is all of it: not of wrong files."""
    sources, is_whole = Sources(), True
    try:
        read_workers(files, dict(os.environ), sources.note)
    except InvalidManifest:
        is_whole = False
    sys.stdout.buffer.write(pickle.dumps((sources.stamps, is_whole)))
    return 0


def main() -> int:
    """Write the workers of the files to stdout (pickled); 1 and every fault on stderr if they are wrong."""
    if sys.argv[1:2] == ["--sources"]:
        return _tell_sources([Path(name) for name in sys.argv[2:]])
    try:
        workers, warnings = read_workers([Path(name) for name in sys.argv[1:]], dict(os.environ))
    except InvalidManifest as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(pickle.dumps((workers, [str(warning) for warning in warnings])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
