"""The limits' tests once more where every controller is on cgroup v2: in a small machine with its own kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.guest import find_guest, run_in_guest


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif("HSU_TEST_GUEST" in os.environ, reason="runs outside of the guest")
@pytest.mark.parametrize(
    "tests",
    [
        ["tests/agent/test_limits_hosts.py"],
        ["tests/agent/test_limits.py", "-k", "out_of_memory"],
    ],
    ids=["controllers", "agent"],
)
def test_limits_hold_on_cgroup_v2(tmp_path: Path, tests: list[str]) -> None:
    guest = find_guest()
    if guest is None:
        pytest.skip("there is no machine with cgroup v2 here: install qemu-system-x86 and run .ci/fetch-vm.sh")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    code, output = run_in_guest(guest, command, tmp_path, within_s=500)
    assert code == 0, output[-6000:]
    assert "passed" in output
