"""Short ways to a manifest for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from hsu_core.model.errors import Fault, InvalidManifest
from hsu_core.model.restarts import BreakerSpec, RestartPolicy, RestartSpec, RetryRule
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire.manifest import ParsedManifest, parse_manifest


def worker(worker_id: str = "web", **keys: Any) -> dict[str, Any]:
    """Return the data of a small worker with these keys over it."""
    unit = {"managed": {"control": {"execution": {"executable_path": "./bin/web"}}}}
    return {"id": worker_id, "unit": unit, **keys}


def manifest(*workers: Mapping[str, Any], **keys: Any) -> str:
    """Return the YAML of a manifest with these workers (default: one small one)."""
    return yaml.safe_dump({**keys, "workers": list(workers) or [worker()]}, sort_keys=False)


def parse(text: str, **arguments: Any) -> ParsedManifest:
    """Return the parsed text, as the command line reads it."""
    given: dict[str, Any] = {"file": "shop.yaml", "environment": {}, "read_file": None, **arguments}
    return parse_manifest(text, **given)


def parse_worker(**keys: Any) -> WorkerSpec:
    """Return the specification of one worker with these keys."""
    return parse(manifest(worker(**keys))).spec.workers[0]


def faults(text: str, **arguments: Any) -> list[Fault]:
    """Return the faults of a text, which must have some."""
    with pytest.raises(InvalidManifest) as caught:
        parse(text, **arguments)
    assert caught.value.faults
    return list(caught.value.faults)


def only_fault(text: str, **arguments: Any) -> Fault:
    """Return the one fault of a text."""
    found = faults(text, **arguments)
    assert len(found) == 1, [str(fault) for fault in found]
    return found[0]


def hsu_restart(policy: RestartPolicy, base_s: float = 5.0) -> RestartSpec:
    """Return what HSU's defaults of context-aware restart come to."""
    severities = (("critical", 1.0), ("emergency", 2.0), ("warning", 0.5))
    limits = RetryRule(base_s * 2, 1.5)
    return RestartSpec(policy, base_s, 1.5, limits=limits, breaker=BreakerSpec(retries=3), severities=severities)
