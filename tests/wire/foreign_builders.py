"""Short ways from the text of a foreign file to a worker, and a host that is made of a few texts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire.foreign import Conversion, ForeignFile, Surroundings
from hsu_core.wire.foreign_kinds import convert_files
from hsu_core.wire.manifest import ParsedManifest, parse_manifest

FIXTURES = Path(__file__).parent / "fixtures" / "foreign"
FOLDER = "/srv/conf"
ENVIRONMENT = {"DATABASE_URL": "postgres://db", "OWNER": "shop"}


def host(files: Mapping[str, bytes], environment: Mapping[str, str] = ENVIRONMENT) -> Surroundings:
    """Return a host whose files have these absolute paths."""

    def read_file(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    def find_files(pattern: str) -> Sequence[ForeignFile]:
        names = sorted(path for path in files if fnmatch.fnmatch(path, pattern))
        return [ForeignFile(path, files[path], path.rpartition("/")[0]) for path in names]

    return Surroundings(environment, read_file, find_files)


def fixtures() -> dict[str, bytes]:
    """Return the fixtures as files below FOLDER."""
    found = [path for path in FIXTURES.rglob("*") if path.is_file()]
    return {f"{FOLDER}/{path.relative_to(FIXTURES)}": path.read_bytes() for path in found}


def converted_fixtures(kind: str, *names: str) -> Conversion:
    """Return the conversion of fixtures."""
    given = [ForeignFile(name, (FIXTURES / name).read_bytes(), FOLDER) for name in names]
    return convert_files(kind, given, host(fixtures()))


def converted(kind: str, text: str, name: str = "", around: Surroundings | None = None) -> Conversion:
    """Return the conversion of a text."""
    names = {"supervisord": "shop.conf", "pm2": "shop.json", "systemd": "shop.service"}
    file = ForeignFile(name or names[kind], text.encode(), FOLDER)
    return convert_files(kind, [file], around or host({}))


def worker_of(kind: str, text: str) -> dict[str, Any]:
    """Return the one worker of a text."""
    (worker,) = converted(kind, text).manifest["workers"]
    return dict(worker)


def execution_of(worker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the execution block of a worker."""
    return dict(worker["unit"]["managed"]["control"]["execution"])


def warnings_of(kind: str, text: str) -> list[str]:
    """Return the warnings of a text."""
    return [str(warning) for warning in converted(kind, text).warnings]


def faults_of(kind: str, text: str, name: str = "") -> list[str]:
    """Return the faults of a text, which must have some."""
    with pytest.raises(InvalidManifest) as caught:
        converted(kind, text, name)
    assert caught.value.faults
    return [str(fault) for fault in caught.value.faults]


def read_strictly(found: Conversion, environment: Mapping[str, str] = ENVIRONMENT) -> ParsedManifest:
    """Return the manifest as `validate --strict` reads it: an unknown key is a fault."""
    return parse_manifest(found.text, file="shop.yaml", environment=environment, read_file=None)
