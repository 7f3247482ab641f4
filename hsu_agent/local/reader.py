"""Reads manifests for an agent, in a process of its own: `python -m hsu_agent.local.reader FILE...`."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from hsu_agent.local.files import read_workers
from hsu_agent.local.sources import Sources
from hsu_core.model.errors import InvalidManifest


def main() -> int:
    """Write workers, warnings and the stamps of what was read to stdout (pickled).

    1, no workers and every fault on stderr if the files are wrong.
    """
    sources = Sources()
    try:
        workers, warnings = read_workers([Path(name) for name in sys.argv[1:]], dict(os.environ), sources.note)
    except InvalidManifest as error:
        print(error, file=sys.stderr)
        sys.stdout.buffer.write(pickle.dumps((None, [], sources.stamps)))
        return 1
    told = [str(warning) for warning in warnings]
    sys.stdout.buffer.write(pickle.dumps((workers, told, sources.stamps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
