"""`hooks:` of a worker: its words, its faults, and that a change of them restarts nothing."""

from __future__ import annotations

from hsu_core.model.hooks import NO_HOOKS, HookSpec, HooksSpec
from hsu_core.wire.hashes import spec_hash
from tests.wire.builders import faults, manifest, parse_worker, worker


def test_a_hook_is_a_command_with_a_time_or_a_bare_list() -> None:
    hooks = {"pre_start": {"command": ["./migrate", "--all"], "timeout": "2m"}, "post_stop": ["./clean"]}
    expected = HooksSpec(pre_start=HookSpec(("./migrate", "--all"), 120.0), post_stop=HookSpec(("./clean",), 30.0))
    assert parse_worker(hooks=hooks).hooks == expected
    assert parse_worker().hooks is NO_HOOKS


def test_an_empty_command_and_no_time_are_faults_with_their_path() -> None:
    found = faults(manifest(worker(hooks={"pre_start": [], "pre_stop": {"command": ["x"], "timeout": "0s"}})))
    assert [fault.path for fault in found] == [
        "workers[web].hooks.pre_start.command",
        "workers[web].hooks.pre_stop.timeout",
    ]
    assert all(fault.fix for fault in found)


def test_a_change_of_hooks_needs_no_other_process() -> None:
    assert spec_hash(parse_worker(hooks={"pre_stop": ["./leave"]}), "") == spec_hash(parse_worker(), "")
