"""Which host holds which limit with what, and that what is set really holds (where controllers can be written)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hsu_agent.host import controllers_v1, controllers_v2
from hsu_agent.host.cgroup import CgroupTree
from hsu_agent.host.controllers import ControllerGroups, describe_host, disk_of
from hsu_core.model.enforcement import Controller, Enforcement, HostLayout, enforcement, host_support, shortfalls
from hsu_core.model.limits import (
    CpuLimits,
    IoLimits,
    LimitPolicy,
    LimitsSpec,
    MemoryLimits,
    NetworkLimits,
    ProcessLimits,
)
from hsu_core.wire.codec import decode, encode
from tests.agent.harness import instance, python
from tests.support.waiting import eventually

ALL = LimitsSpec(
    memory=MemoryLimits(2**26, 2**30, 0),
    cpu=CpuLimits(500, max_time_s=60),
    io=IoLimits(weight=200, max_read_bps=2**20),
    process=ProcessLimits(5, 64, 3),
    network=NetworkLimits(4),
    priority=-3,
    cpu_shares=512,
)


def host(version: int, *names: str, **fields: object) -> HostLayout:
    """Return a host with these controllers."""
    features = frozenset({"swap", "weight"})
    controllers = tuple((name, Controller(version, f"/cg/{name}", features)) for name in names)
    return replace(HostLayout(controllers=controllers, disk="8:0", is_privileged=True), **fields)  # type: ignore[arg-type]


def how(limits: LimitsSpec, layout: HostLayout) -> dict[str, str]:
    """Return how each limit is held."""
    return {support.name: str(support.how) for support in enforcement(limits, layout)}


@pytest.mark.parametrize("version", [1, 2])
def test_a_host_with_controllers_holds_all_that_can_be_held(version: int) -> None:
    by_kernel = f"cgroup-v{version}"
    assert how(ALL, host(version, "memory", "cpu", "io", "pids")) == {
        "memory.max_rss": by_kernel,
        "memory.max_virtual": "rlimit",
        "memory.max_swap": by_kernel,
        "cpu.max_cores": by_kernel,
        "cpu.max_time": "rlimit",
        "io.weight": by_kernel,
        "io.max_read_bps": by_kernel,
        "process.max_processes": by_kernel,
        "process.max_file_descriptors": "rlimit",
        "process.max_child_processes": "sampling",
        "network.max_connections": "sampling",
        "priority": "scheduler",
        "cpu_shares": by_kernel,
    }


def test_a_host_without_controllers_samples_and_says_what_it_cannot_do() -> None:
    found = {support.name: support for support in enforcement(ALL, HostLayout(missing=(("memory", "not delegated"),)))}
    assert (found["memory.max_rss"].how, found["memory.max_rss"].reason) == (Enforcement.SAMPLING, "not delegated")
    assert found["process.max_processes"].how is Enforcement.SAMPLING
    for name in ("memory.max_swap", "io.weight", "io.max_read_bps", "cpu_shares", "priority"):
        assert found[name].how is Enforcement.UNSUPPORTED
        assert found[name].reason
    sentences = shortfalls(tuple(found.values()))
    assert "limits.memory.max_rss is only sampled on this host: not delegated" in sentences
    assert "limits.cpu_shares is not held on this host: this host has no cpu controller" in sentences
    assert not shortfalls(enforcement(ALL, host(2, "memory", "cpu", "io", "pids")))


def test_the_report_of_a_host_has_every_limit_that_there_is() -> None:
    spec = LimitsSpec()
    parts = ("memory", "cpu", "io", "process", "network", "storage")
    known = sum(item.name.startswith(("max_", "weight")) for part in parts for item in fields(getattr(spec, part)))
    names = [support.name for support in host_support(HostLayout())]
    assert len(names) == len(set(names)) == known + len(("priority", "cpu_shares"))
    assert {support.name for support in host_support(HostLayout()) if support.is_short} >= {"io.weight", "priority"}
    held = host_support(host(2, "memory", "cpu", "io", "pids"))
    assert not [support for support in held if support.is_short]


def test_what_is_told_of_a_host_has_no_places_and_says_the_same() -> None:
    here = describe_host(Path("/"))
    told = decode(HostLayout, encode(here.without_folders()))
    assert told == here.without_folders()
    assert enforcement(ALL, told) == enforcement(ALL, here)
    assert not any(controller.folder for _, controller in told.controllers)


def test_each_controller_is_judged_by_itself() -> None:
    found = how(ALL, host(1, "memory", "cpu"))
    assert (found["memory.max_rss"], found["process.max_processes"]) == ("cgroup-v1", "sampling")


@pytest.mark.parametrize("policy", [LimitPolicy.LOG, LimitPolicy.RESTART, LimitPolicy.GRACEFUL_SHUTDOWN])
def test_what_a_policy_must_see_exceeded_is_not_held_by_the_kernel(policy: LimitPolicy) -> None:
    limits = LimitsSpec(memory=MemoryLimits(2**26, policy=policy), cpu=CpuLimits(500, policy=policy))
    assert set(how(limits, host(2, "memory", "cpu")).values()) == {"sampling"}


def test_the_policy_none_holds_nothing() -> None:
    limits = LimitsSpec(memory=MemoryLimits(2**26, policy=LimitPolicy.NONE))
    assert how(limits, host(2, "memory")) == {"memory.max_rss": "none"}


def test_v1_limits_swap_only_with_memory() -> None:
    limits = LimitsSpec(memory=MemoryLimits(max_swap_bytes=0))
    assert how(limits, host(1, "memory")) == {"memory.max_swap": "unsupported"}
    assert how(limits, host(2, "memory")) == {"memory.max_swap": "cgroup-v2"}


def test_settings_of_both_versions() -> None:
    one = [f"{file}={text}" for _, file, text in controllers_v1.settings(ALL, "8:0")]
    assert one[:3] == [
        "memory.memsw.limit_in_bytes=-1",
        "memory.limit_in_bytes=67108864",
        "memory.memsw.limit_in_bytes=67108864",
    ]
    assert {"cpu.cfs_quota_us=50000", "cpu.shares=512", "pids.max=5", "blkio.throttle.read_bps_device=8:0 1048576"} <= {
        *one
    }
    two = [f"{file}={text}" for _, file, text in controllers_v2.settings(ALL, "8:0")]
    assert two == [
        "memory.high=max",
        "memory.max=67108864",
        "memory.swap.max=0",
        "cpu.max=50000 100000",
        "cpu.weight=20",
        "io.max=8:0 rbps=1048576 wbps=max riops=max wiops=max",
        "io.weight=default 200",
        "pids.max=5",
    ]


def test_a_tiny_share_gets_a_quota_that_the_kernel_takes() -> None:
    assert controllers_v1.quota(5) == (5000, 1_000_000)


def test_throttled_memory_is_high_and_not_max_on_v2() -> None:
    limits = LimitsSpec(memory=MemoryLimits(2**26, policy=LimitPolicy.THROTTLE))
    assert controllers_v2.settings(limits, "")[:2] == [
        ("memory", "memory.high", "67108864"),
        ("memory", "memory.max", "max"),
    ]


def test_a_folder_in_memory_has_no_disk() -> None:
    assert disk_of(Path("/proc")) == (
        "",
        "/proc is not on a disk of its own number (a network, memory or layered file system)",
    )


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[ControllerGroups]:
    """The groups of an agent of our own on this host."""
    found = ControllerGroups(f"test-{os.getpid()}-{time.monotonic_ns():x}", describe_host(tmp_path))
    yield found
    asyncio.run(eventually(lambda: found.remove(instance())))
    CgroupTree(Path(found.layout.unified_folder, f"hsu-{found._agent}")).remove(instance())
    found.close()


def needs(groups: ControllerGroups, *names: str) -> None:
    """Skip where the host has not these controllers."""
    for name in names:
        if groups.layout.controller(name) is None:
            pytest.skip(groups.layout.why_missing(name))


def run(groups: ControllerGroups, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that is under the limits before it begins."""
    join = "import os, sys\nfor file in sys.argv.pop().split(): open(file, 'w').write(str(os.getpid()))\n"
    command = python(join + code, *arguments, " ".join(groups.files(instance())))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_memory_beyond_the_limit_is_killed_and_counted(groups: ControllerGroups) -> None:
    needs(groups, "memory")
    assert groups.apply(instance(), LimitsSpec(memory=MemoryLimits(2**26, max_swap_bytes=0))) == []
    assert run(groups, "x = bytearray(200 * 2**20)").returncode == -9
    assert groups.oom_kills(instance()) == 1
    assert groups.apply(instance(), LimitsSpec(memory=MemoryLimits(2**29))) == []
    assert run(groups, "x = bytearray(200 * 2**20)").returncode == 0


def test_a_share_of_the_processor_holds(groups: ControllerGroups) -> None:
    needs(groups, "cpu")
    assert groups.apply(instance(), LimitsSpec(cpu=CpuLimits(200))) == []
    code = (
        "import time\nused, end = time.process_time(), time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\n"
        "print(time.process_time() - used)"
    )
    assert float(run(groups, code).stdout) < 0.6
    figures = groups.figures(instance())
    assert figures.cpu_s is not None
    assert 0.1 < figures.cpu_s < 0.8


def test_processes_beyond_the_limit_are_refused(groups: ControllerGroups) -> None:
    needs(groups, "pids")
    assert groups.apply(instance(), LimitsSpec(process=ProcessLimits(3))) == []
    code = (
        "made = 0\ntry:\n  while made < 9:\n    made += 1\n    os.fork() or os._exit(0)\n"
        "except BlockingIOError: print(made)"
    )
    assert run(groups, code).stdout.strip() == "3"


def test_writes_are_slowed(groups: ControllerGroups, tmp_path: Path) -> None:
    needs(groups, "io")
    if not groups.layout.disk:
        pytest.skip(groups.layout.disk_reason)
    assert groups.apply(instance(), LimitsSpec(io=IoLimits(max_write_bps=2**20))) == []
    code = (
        "import mmap, time\nhere = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_DIRECT)\n"
        "begin = time.monotonic()\nfor _ in range(2): os.write(here, mmap.mmap(-1, 2**20))\n"
        "print(time.monotonic() - begin)"
    )
    done = run(groups, code, str(tmp_path / "big"))
    assert float(done.stdout) > 0.9, done.stderr


def test_limits_that_are_gone_are_set_free(groups: ControllerGroups) -> None:
    needs(groups, "pids")
    groups.apply(instance(), LimitsSpec(process=ProcessLimits(3)))
    groups.apply(instance(), LimitsSpec())
    path = groups.path("pids", instance())
    assert Path(f"{path}/pids.max").read_text() == "max\n"


def test_groups_of_an_earlier_agent_are_found_and_removed(groups: ControllerGroups) -> None:
    needs(groups, "pids")
    groups.apply(instance(), LimitsSpec(process=ProcessLimits(3)))
    later = ControllerGroups(groups._agent, groups.layout)
    assert later.is_left(instance()) == (groups.layout.controllers[-1][1].version == 1)
    later.find(instance())
    assert later.files(instance()) == groups.files(instance())
    assert later.remove(instance())
    path = Path(groups.path("pids", instance()) or "/")
    assert not path.exists() or (path / "cgroup.kill").exists()
