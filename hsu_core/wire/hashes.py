"""Hashes of specifications: two equal contents have equal hashes on every master and version of Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from hsu_core.model.checks import AllCheck, AnyCheck, NotifyCheck
from hsu_core.model.logging_rules import NO_RULES
from hsu_core.model.restarts import RestartSpec
from hsu_core.model.spec import AppSpec, LogSpec, RolloutSpec, WorkerSpec

HASH_DIGITS = 16
"""64 bits: an accidental match of two revisions of an app is out of the question."""

ADDED_LATER: Mapping[type, frozenset[str]] = {
    RestartSpec: frozenset({"health", "limits", "breaker", "grace_s", "success_codes", "final_codes", "severities"}),
    WorkerSpec: frozenset(
        {
            *("limits", "hooks", "dependency_conditions", "schedule", "process", "unmanaged", "process_file", "groups"),
            "on_return",
        }
    ),
    AppSpec: frozenset({"routes", "analyses"}),
    RolloutSpec: frozenset(field.name for field in fields(RolloutSpec)[6:]),
    LogSpec: frozenset({"rules", "rate_bytes_s", "max_age_s", "is_compressed"}),
}
"""Fields that came after the first release: they count only when they say something, or an upgrade would be a change.

Every new field of a specification belongs here.
"""

SAME_FIELDS = (AllCheck, AnyCheck, NotifyCheck)
"""Classes that another class is not told from by its fields; their name is part of their content."""


def content_hash(spec: AppSpec) -> str:
    """Return the hash of everything an app says: equal means a deploy changes nothing."""
    return _hash(_content(spec))


def spec_hash(worker: WorkerSpec, base_directory: str) -> str:
    """Return the hash of what a running instance must be restarted for.

    Left out, since they take effect on a running one: replicas, placement, rollout, health, restart, stop, hooks,
    schedule, resources, limits, depends_on, guarantee, on_return, is_enabled, process_file, groups; rules, rate, age
    and compression of logs. What a worker is told of its notices at its start (that somebody listens, the time of its
    watchdog) counts.
    """
    notices = {"notices": worker.health.watchdog_s} if worker.health.has_notices else {}
    process = {} if worker.process.is_empty else {"process": _content(worker.process)}
    if worker.unmanaged is not None:
        found_by = replace(worker.unmanaged, can_terminate=False, can_restart=False, allowed_signals=None, interval_s=0)
        process = {"unmanaged": _content(found_by)}
    return _hash(
        notices
        | process
        | {
            "base_directory": base_directory,
            "execution": _content(worker.execution),
            "files": [_content(file) for file in worker.files],
            "id": worker.id,
            "logs": _content(replace(worker.logs, rules=NO_RULES, rate_bytes_s=0, max_age_s=0.0, is_compressed=False)),
            "ports": [_content(port) for port in worker.ports],
            "profile_type": worker.profile_type,
            "type": worker.type,
        }
    )


def _content(value: Any) -> Any:
    """Return a specification as maps, lists and scalars."""
    if is_dataclass(value):
        later = ADDED_LATER.get(type(value), frozenset())
        kind = {"kind": type(value).__name__} if isinstance(value, SAME_FIELDS) else {}
        return kind | {
            item.name: _content(getattr(value, item.name))
            for item in fields(value)
            if item.name not in later or item.default is MISSING or getattr(value, item.name) != item.default
        }
    return [_content(item) for item in value] if isinstance(value, tuple) else value


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:HASH_DIGITS]
