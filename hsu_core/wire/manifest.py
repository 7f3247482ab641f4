"""The manifest: text of a file in, a checked `AppSpec` out, with every fault or warning placed in the file.

The same function runs on both sides. The client gives it the environment and the files around the
manifest; the resulting `document` stands alone, and the server parses that again without either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hsu_core.model.errors import Fault
from hsu_core.model.ids import DEFAULT_NAMESPACE, is_name
from hsu_core.model.spec import AppSpec
from hsu_core.wire.analysis_convert import convert_analyses
from hsu_core.wire.dialects import resolve_dialect
from hsu_core.wire.faults import FaultList
from hsu_core.wire.hashes import content_hash, spec_hash
from hsu_core.wire.integrated import resolve_integrated
from hsu_core.wire.interpolate import escape
from hsu_core.wire.log_convert import warn_unused
from hsu_core.wire.manifest_checks import check_workers
from hsu_core.wire.manifest_convert import convert_worker
from hsu_core.wire.manifest_models import ManifestModel, WorkerModel
from hsu_core.wire.manifest_tree import as_written, inline_files, resolve_extends, resolve_variables
from hsu_core.wire.rollout_convert import check_analyses
from hsu_core.wire.route_convert import convert_routes
from hsu_core.wire.tree import SIZE_LIMIT_BYTES, Document
from hsu_core.wire.unit_convert import warn_keys
from hsu_core.wire.yaml_text import load_document

__all__ = ["ParsedManifest", "content_hash", "parse_manifest", "spec_hash"]


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """A good manifest: its specification, what to tell its author, and the resolved file as JSON-able data.

    Parsing `document` again, without environment and files, gives an equal `spec`.
    """

    spec: AppSpec
    warnings: tuple[Fault, ...]
    document: dict[str, Any]


def parse_manifest(
    text: bytes | str,
    *,
    file: str,
    namespace: str | None = None,
    app: str | None = None,
    environment: Mapping[str, str] | None,
    read_file: Callable[[str], bytes] | None,
    base_directory: str = "",
    variables: Mapping[str, str] | None = None,
    is_lenient: bool = False,
) -> ParsedManifest:
    """Return the specification of a manifest. Raises InvalidManifest with all faults.

    `namespace` and `app` are what the caller asked for and must not differ from the file's. `environment`
    and `read_file` are None where they must not be used (a master). `base_directory` is the folder of
    the file, unless the file says another. `variables` win over the file's `vars`. `is_lenient`: unknown keys
    are warnings, so that a file that HSU's programs accept is accepted.
    """
    found = FaultList(load_document(text, file), "use manifest", is_lenient=is_lenient)
    if not isinstance(found.document.data, dict):
        what = "is empty" if found.document.data is None else "is not a map of keys"
        found.fault((), f"the manifest {what}", "start with `workers:` and a list below it")
        raise found.refusal()
    resolve_dialect(found)
    expander = resolve_variables(found, environment, variables or {})
    resolve_extends(found)
    resolve_integrated(found)
    inline_files(found, expander, read_file)
    found.end_stage()
    model = found.check(ManifestModel)
    if model is None:
        raise found.refusal()
    workers = {index: found.check(WorkerModel, ("workers", index)) for index in range(len(model.workers))}
    found.end_stage()
    identity = _identity(model, found, namespace, app)
    readable = {index: worker for index, worker in workers.items() if worker is not None}
    spec = _specification(model, readable, found, identity, model.base_directory or base_directory)
    document = _document(found.document, spec)
    if len(json.dumps(document)) > SIZE_LIMIT_BYTES:
        found.fault((), f"the resolved manifest is larger than {SIZE_LIMIT_BYTES} bytes", "shorten the files in it")
    if found.faults:
        raise found.refusal()
    return ParsedManifest(spec, tuple(found.warnings), document)


def _specification(
    model: ManifestModel,
    readable: Mapping[int, WorkerModel],
    found: FaultList,
    identity: tuple[str, str],
    base_directory: str,
) -> AppSpec:
    warn_keys(model, ("master",), (), found)
    warn_unused(model.log_collection, found)
    workers = [
        convert_worker(worker, ("workers", index), found, model.log_collection) for index, worker in readable.items()
    ]
    spec = AppSpec(
        namespace=identity[0],
        app=identity[1],
        workers=tuple(worker for worker in workers if worker is not None),
        base_directory=base_directory,
        explicit_replicas=tuple(sorted(worker.id for worker in readable.values() if worker.replicas is not None)),
        analyses=convert_analyses(model.analyses, found),
        routes=convert_routes(model.routes, {worker.id: worker for worker in workers if worker is not None}, found),
    )
    check_workers(readable, spec, found)
    check_analyses(readable, spec, found)
    return spec


def _identity(model: ManifestModel, found: FaultList, namespace: str | None, app: str | None) -> tuple[str, str]:
    """Return (namespace, app); the app's default is the file's name without its ending."""
    for key, said, asked in (("namespace", model.namespace, namespace), ("app", model.app, app)):
        if said is not None and asked is not None and said != asked:
            found.fault((key,), f"the file says {said}, the request {asked}", f"remove {key}, or ask for {said}")
        if asked is not None and not is_name(asked):
            found.fault((key,), f"{asked[:80]!r} is not a name", "use letters, digits, `_` and `-`, 1 to 64 of them")
    name = app or model.app or re.sub(r"\.(ya?ml|json)$", "", PurePath(found.document.file).name)
    if not is_name(name):
        found.fault(("app",), f"the file's name {name[:80]!r} cannot be the name of the app", "add `app: NAME`")
    return namespace or model.namespace or DEFAULT_NAMESPACE, name


def _document(document: Document, spec: AppSpec) -> dict[str, Any]:
    data = escape(as_written(document.data))
    return {**data, "namespace": spec.namespace, "app": spec.app, "base_directory": escape(spec.base_directory)}
