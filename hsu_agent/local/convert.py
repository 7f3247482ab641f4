"""`hsu-agent convert`: files of HSU's dialects, supervisord, PM2 or systemd as a native manifest on stdout.

The only part of it that touches the host; what the files mean is decided in `hsu_core.wire.foreign_kinds`.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hsu_agent.local.files import native_form, print_warnings
from hsu_core.model.errors import InvalidInput, InvalidManifest
from hsu_core.wire.foreign import ForeignFile, Surroundings
from hsu_core.wire.foreign_kinds import HSU, convert_files, one_kind_of

INCLUDED_LIMIT = 1000
"""Most files that one pattern is looked up for; more is no folder of configurations."""


def convert(options: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Return the manifest of the files that the options name, and print the warnings. Raises InvalidInput."""
    files = [_read(path) for path in options.files]
    kind = options.source or one_kind_of(files)
    if kind == HSU:
        if len(files) > 1 or options.app:
            what = "more than one file" if len(files) > 1 else "with --app"
            raise InvalidInput(f"convert {what}", "HSU's files are converted one by one as they are", "give one file")
        text, warnings = native_form(options.files[0], environment)
    else:
        around = Surroundings(environment, _content, _found)
        converted = convert_files(kind, files, around, options.app)
        text, warnings = converted.text, converted.warnings
    print_warnings(warnings)
    return text


def _read(path: Path) -> ForeignFile:
    try:
        return ForeignFile(str(path), path.read_bytes(), str(path.absolute().parent))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise InvalidManifest(f"read {path}", why, "give the path of a file") from error


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


def _found(pattern: str) -> Sequence[ForeignFile]:
    """Return the files that are like a pattern, in the order of their names. Raises OSError."""
    paths = sorted(path for path in glob.iglob(pattern) if os.path.isfile(path))[:INCLUDED_LIMIT]
    return [ForeignFile(path, Path(path).read_bytes(), os.path.dirname(os.path.abspath(path))) for path in paths]
