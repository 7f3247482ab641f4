"""`log_collection`: what a worker says goes before the default; targets of all are added; patterns are bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsu_core.model.logging_rules import NO_RULES, LineFormat, LogRules, LogTarget, TargetKind
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire.hashes import content_hash, spec_hash
from tests.wire.builders import manifest, only_fault, parse

FIXTURES = Path(__file__).parent / "fixtures"


def with_logs(own: dict[str, Any] | None = None, **top: Any) -> str:
    """Return a manifest with `log_collection` at the top, and one in `control`."""
    control: dict[str, Any] = {"execution": {"executable_path": "./bin/web"}}
    if own is not None:
        control["log_collection"] = own
    return manifest({"id": "web", "unit": {"managed": {"control": control}}}, log_collection=top)


def rules(text: str) -> LogRules:
    worker: WorkerSpec = parse(text).spec.workers[0]
    return worker.logs.rules


def filtered(*patterns: str) -> dict[str, Any]:
    target = {"type": "stdout"}
    return {
        "outputs": {"forwarding": [target]},
        "processing": {"filters": {"exclude_patterns": list(patterns)}},
    }


def test_hsus_full_sample_is_read_in_full() -> None:
    spec = parse((FIXTURES / "hsu-logging-full.yaml").read_text(encoding="utf-8")).spec
    found = spec.workers[0].logs.rules
    first = found.targets[0]
    assert (first.kind, first.place, first.streams) == (TargetKind.FILE, "{worker_id}-stdout.log", ("stdout",))
    assert (first.format, first.max_bytes, first.max_age_s) == (LineFormat.PLAIN, 50_000_000, 3 * 86_400.0)


def test_a_worker_goes_before_the_default_and_targets_of_all_are_added() -> None:
    top = {
        "global_aggregation": {"targets": [{"type": "master_stdout", "prefix": "[ALL]"}]},
        "default_worker": {
            "processing": {"filters": {"level_filter": "warn"}},
            "outputs": {"separate": {"stdout": [{"type": "file", "path": "default.log"}]}},
        },
    }
    everyone = LogTarget(TargetKind.STDOUT, prefix="[ALL]")
    default = rules(with_logs(None, **top))
    assert default.targets == (everyone, LogTarget(TargetKind.FILE, "default.log", streams=("stdout",)))
    own = {"outputs": {"separate": {"stderr": [{"type": "syslog", "address": "udp://127.0.0.1:514"}]}}}
    found = rules(with_logs(own, **top))
    assert found.targets == (everyone, LogTarget(TargetKind.SYSLOG, "udp://127.0.0.1:514", streams=("stderr",)))
    assert found.level == "warn"
    assert rules(with_logs({"enabled": False}, **top)) == NO_RULES
    assert rules(with_logs(None, enabled=False, **top)) == NO_RULES


def test_rules_of_logs_do_not_restart_a_worker_but_are_a_change() -> None:
    before, after = parse(with_logs()).spec, parse(with_logs(filtered("x"))).spec
    assert spec_hash(before.workers[0], "") == spec_hash(after.workers[0], "")
    assert content_hash(before) != content_hash(after)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(", "a*b*c*d*", "(?:x|y+)*z", r"(a)\1", "x" * 300])
def test_patterns_that_could_take_too_long_are_refused(pattern: str) -> None:
    assert "exclude_patterns" in only_fault(with_logs(filtered(pattern))).path


@pytest.mark.parametrize("pattern", ["heartbeat", "^gRPC .* listening$", r"id=\d+ (ok|done)", "[a-z]{3}"])
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert rules(with_logs(filtered(pattern))).exclude == (pattern,)


@pytest.mark.parametrize(
    "target",
    [
        {"type": "file", "path": "../out.log"},
        {"type": "file"},
        {"type": "http", "url": "ftp://x"},
        {"type": "syslog", "address": "udp://host"},
    ],
)
def test_a_target_without_a_place_is_a_fault(target: dict[str, Any]) -> None:
    assert "forwarding" in only_fault(with_logs({"outputs": {"forwarding": [target]}})).path
