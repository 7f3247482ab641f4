"""Reads manifests for a running agent, in a process of its own: `python -m hsu_agent.local.reader FILE...`."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from hsu_agent.local.files import read_workers
from hsu_core.model.errors import InvalidManifest


def main() -> int:
    """Write the workers of the files to stdout (pickled); 1 and every fault on stderr if they are wrong."""
    try:
        workers, warnings = read_workers([Path(name) for name in sys.argv[1:]], dict(os.environ))
    except InvalidManifest as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(pickle.dumps((workers, [str(warning) for warning in warnings])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
