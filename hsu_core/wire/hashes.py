"""Hashes of specifications: two equal contents have equal hashes on every master and version of Python."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from hsu_core.model.spec import AppSpec, WorkerSpec

HASH_DIGITS = 16
"""64 bits: an accidental match of two revisions of an app is out of the question."""


def content_hash(spec: AppSpec) -> str:
    """Return the hash of everything an app says: equal means a deploy changes nothing."""
    return _hash(asdict(spec))


def spec_hash(worker: WorkerSpec, base_directory: str) -> str:
    """Return the hash of what a running instance must be restarted for.

    Left out, since they take effect on a running one: replicas, placement, rollout, health, restart,
    stop, resources, depends_on, guarantee, is_enabled.
    """
    return _hash(
        {
            "base_directory": base_directory,
            "execution": asdict(worker.execution),
            "files": [asdict(file) for file in worker.files],
            "id": worker.id,
            "logs": asdict(worker.logs),
            "ports": [asdict(port) for port in worker.ports],
            "profile_type": worker.profile_type,
            "type": worker.type,
        }
    )


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:HASH_DIGITS]
