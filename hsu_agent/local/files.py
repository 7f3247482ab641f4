"""From files to local workers. The only module of local mode that reads YAML; the running agent asks a child for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hsu_agent.local.sources import MANIFEST_ENDINGS
from hsu_agent.planning.local import LocalWorker
from hsu_core.model.errors import Fault, InvalidManifest
from hsu_core.model.ids import AppId
from hsu_core.model.order import OrderSpec
from hsu_core.wire.hashes import content_hash, spec_hash
from hsu_core.wire.manifest import parse_manifest
from hsu_core.wire.yaml_text import dump_yaml, load_document


def manifest_files(path: Path) -> list[Path]:
    """Return the file, or the manifests of a folder in the order of their names. Raises InvalidManifest."""
    if not path.is_dir():
        return [path]
    found = sorted(child for child in path.iterdir() if child.suffix in MANIFEST_ENDINGS and child.is_file())
    if not found:
        raise InvalidManifest(f"use folder {path}", "it holds no manifest", "put a file such as shop.yaml there")
    return found


def is_manifest(path: Path) -> bool:
    """Return whether a file holds workers (else it is taken for the settings of an agent in a cluster)."""
    if path.is_dir():
        return True
    try:
        data = load_document(path.read_bytes(), str(path)).data
    except (OSError, InvalidManifest):
        return False
    return isinstance(data, dict) and bool({"workers", "managed_processes"} & data.keys())


def _pass(_: Path) -> None:
    pass


def read_workers(
    paths: Sequence[Path], environment: Mapping[str, str], note: Callable[[Path], None] = _pass
) -> tuple[tuple[LocalWorker, ...], tuple[Fault, ...]]:
    """Return the workers of manifests and what their authors should know. Raises InvalidManifest with every fault.

    `note` is told of each file or folder before it is read.
    """
    workers: dict[tuple[AppId, str], LocalWorker] = {}
    warnings: list[Fault] = []
    faults: list[Fault] = []
    for given in paths:
        note(given)
    for path in (file for given in paths for file in manifest_files(given)):
        folder = path.absolute().parent

        def read_file(name: str, folder: Path = folder) -> bytes:
            note(folder / name)
            return (folder / name).read_bytes()

        note(path)
        try:
            parsed = parse_manifest(
                path.read_bytes(),
                file=str(path),
                environment=environment,
                read_file=read_file,
                base_directory=str(folder),
                is_lenient=True,
            )
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise InvalidManifest(f"read {path}", why, "give the path of a manifest") from error
        except InvalidManifest as error:
            faults += error.faults
            continue
        warnings += parsed.warnings
        app = AppId(parsed.spec.namespace, parsed.spec.app)
        for worker in parsed.spec.workers:
            if (app, worker.id) in workers:
                what = f"use {path}"
                raise InvalidManifest(what, f"worker {app.app}/{worker.id} is in another file too", "rename one")
            own = replace(parsed.spec, workers=(worker,), explicit_replicas=())
            revision = int(content_hash(own)[:8], 16)
            spec = OrderSpec(app, revision, worker, parsed.spec.base_directory)
            workers[app, worker.id] = LocalWorker(spec, spec_hash(worker, parsed.spec.base_directory))
    if faults:
        names = ", ".join(str(path) for path in paths)
        raise InvalidManifest(f"use {names}", f"{len(faults)} faults", faults=tuple(faults))
    return tuple(workers.values()), tuple(warnings)


def native_form(path: Path, environment: Mapping[str, str]) -> tuple[str, tuple[Fault, ...]]:
    """Return a manifest in the native dialect, variables filled in, and its warnings. Raises InvalidManifest."""
    folder = path.absolute().parent
    try:
        parsed = parse_manifest(
            path.read_bytes(),
            file=str(path),
            environment=environment,
            read_file=lambda name: (folder / name).read_bytes(),
            base_directory=str(folder),
            is_lenient=True,
        )
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise InvalidManifest(f"read {path}", why, "give the path of a manifest") from error
    return dump_yaml(parsed.document), parsed.warnings


def print_warnings(warnings: Sequence[Fault]) -> None:
    """Write what the author of a manifest should know to stderr, a line each."""
    for warning in warnings:
        print(f"hsu-agent: warning: {warning}", file=sys.stderr)
