"""The `limits` block: HSU's nested keys, its older flat ones, and ours."""

from __future__ import annotations

from typing import Any

import pytest

from hsu_core.model.limits import NO_LIMITS, LimitPolicy, LimitsSpec, MemoryLimits
from hsu_core.model.spec import Resources, WorkerSpec
from hsu_core.wire.codec import decode, encode, from_plain, to_plain
from tests.wire.builders import manifest, only_fault, parse, parse_worker, worker


def limited(limits: Any, **control: Any) -> dict[str, Any]:
    """Return a worker with HSU's `limits` in its unit."""
    execution = {"executable_path": "./bin/web"}
    return {"unit": {"managed": {"control": {"execution": execution, "limits": limits, **control}}}}


def limits_of(limits: Any, **control: Any) -> LimitsSpec:
    """Return the limits that a worker gets."""
    return parse_worker(**limited(limits, **control)).limits


def test_hsus_block_is_read_in_full() -> None:
    found = limits_of(
        {
            "priority": 5,
            "cpu_shares": 512,
            "memory": {"max_rss": 67108864, "max_virtual": "1GiB", "max_swap": 0, "policy": "restart-adjusted"},
            "cpu": {"max_cores": 0.5, "max_percent": 40, "max_time": "1h", "warning_threshold": 70},
            "io": {"weight": 200, "max_read_bps": "1MiB", "max_write_ops": 100},
            "process": {"max_processes": 10, "max_file_descriptors": 64, "max_child_processes": 3},
            "network": {"max_connections": 20},
            "storage": {"max_log_size": "10MB", "max_temporary_size": "1MB"},
            "monitoring": {"enabled": True, "interval": "5s", "history_retention": "1h", "alerting_enabled": False},
        }
    )
    assert dict(found.stated()) == {
        "memory.max_rss": 67108864,
        "memory.max_virtual": 2**30,
        "memory.max_swap": 0,
        "cpu.max_cores": 500,
        "cpu.max_percent": 40,
        "cpu.max_time": 3600,
        "io.weight": 200,
        "io.max_read_bps": 2**20,
        "io.max_write_ops": 100,
        "process.max_processes": 10,
        "process.max_file_descriptors": 64,
        "process.max_child_processes": 3,
        "network.max_connections": 20,
        "storage.max_log_size": 10_000_000,
        "storage.max_temporary_size": 1_000_000,
        "priority": 5,
        "cpu_shares": 512,
    }
    assert found.policy_of("memory.max_rss") is LimitPolicy.RESTART_ADJUSTED
    assert found.policy_of("cpu.max_cores") is None
    assert found.cpu.max_milli == 400
    assert (found.cpu.warning_threshold_percent, found.memory.warning_threshold_percent) == (70, 80)
    assert found.monitoring.is_enabled
    assert not found.monitoring.is_alerting
    assert found.monitoring.interval_s == 5


@pytest.mark.parametrize(
    ("limits", "stated"),
    [
        ({"memory": "64MiB", "cpu": "500m"}, {"memory.max_rss": 2**26, "cpu.max_cores": 500}),
        ({"memory": {"limit_mb": 64}}, {"memory.max_rss": 2**26}),
        ({"max_processes": 5, "max_open_files": 64}, {"process.max_processes": 5, "process.max_file_descriptors": 64}),
        ({"process": 5}, {"process.max_processes": 5}),
        ({"memory": {"max_rss": 0}}, {}),
    ],
    ids=str,
)
def test_older_and_short_forms(limits: Any, stated: dict[str, float]) -> None:
    assert dict(limits_of(limits).stated()) == stated


@pytest.mark.parametrize("word", ["immediate_kill", "immediate-kill"])
def test_a_policy_may_be_written_with_either_line(word: str) -> None:
    assert limits_of({"memory": {"max_rss": 1, "policy": word}}).memory.policy is LimitPolicy.IMMEDIATE_KILL


def test_times_of_context_aware_restart_hold_for_limits() -> None:
    context = {"sustained_violation_time": "5m", "spike_tolerance_time": "10s"}
    found = limits_of({"memory": "64MiB"}, context_aware_restart=context)
    assert (found.sustained_violation_s, found.spike_tolerance_s) == (300, 10)
    own = limits_of({"memory": "64MiB", "spike_tolerance_time": "1s"}, context_aware_restart=context)
    assert (own.sustained_violation_s, own.spike_tolerance_s) == (300, 1)


def test_limits_may_stand_beside_the_unit() -> None:
    found = parse_worker(limits={"memory": "64MiB", "cpu": 0.5})
    assert found.limits.memory == MemoryLimits(max_rss_bytes=2**26)
    assert found.resources == Resources(cpu_milli=500, memory_bytes=2**26)


def test_nothing_is_warned_of() -> None:
    body = {"memory": {"max_rss": "64MiB", "policy": "restart"}, "process": {"max_processes": 5}, "priority": 1}
    assert parse(manifest(worker(**limited(body)))).warnings == ()


@pytest.mark.parametrize(
    ("limits", "where", "text"),
    [
        ({"memory": {"policy": "explode"}}, "memory.policy", "'explode' is not a policy of limits"),
        ({"memory": {"warning_threshold": 180}}, "memory.warning_threshold", "180 is not a percentage"),
        ({"memory": {"max_rss": 1, "limit_mb": 1}}, "memory.limit_mb", "max_rss says another size"),
        ({"priority": 40}, "priority", "40 is not a priority"),
        ({"cpu_shares": 1}, "cpu_shares", "1 is outside 2 to 262144"),
        ({"io": {"weight": 5000}}, "io.weight", "5000 is outside 1 to 1000"),
        ({"monitoring": {"interval": "1ms"}}, "monitoring.interval", "is too often"),
        ({"process": {"max_processes": 3}, "max_processes": 4}, "max_processes", "process.max_processes says 3"),
        ({"memory": {"max_rs": 1}}, "memory.max_rs", "max_rss"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_a_fault(limits: Any, where: str, text: str) -> None:
    fault = only_fault(manifest(worker(**limited(limits))))
    assert str(fault.path).endswith(f"limits.{where}")
    assert text in str(fault)


def test_limits_in_two_places_are_a_fault() -> None:
    fault = only_fault(manifest(worker(**limited({"memory": "1GiB"}), limits={"memory": "2GiB"})))
    assert "described here and in the unit" in str(fault)


def test_an_older_record_has_no_limits() -> None:
    stored = to_plain(parse_worker())
    assert isinstance(stored, dict)
    stored.pop("limits", None)
    assert from_plain(WorkerSpec, stored).limits == NO_LIMITS


def test_limits_survive_the_store() -> None:
    found = parse_worker(limits={"memory": {"max_rss": "64MiB", "policy": "restart"}, "priority": 3})
    assert decode(WorkerSpec, encode(found)) == found
