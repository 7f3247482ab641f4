"""Rules of the hashes: what a change of the specification restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsu_core.model.limits import LimitsSpec, MemoryLimits
from hsu_core.model.spec import (
    AppSpec,
    Execution,
    FileSpec,
    Guarantee,
    HealthSpec,
    LogSpec,
    OnReturn,
    PlacementSpec,
    PortSpec,
    Probe,
    ProcessCheck,
    Resources,
    RestartSpec,
    RolloutSpec,
    StopSpec,
    WorkerSpec,
)
from hsu_core.wire.manifest import content_hash, spec_hash

WORKER = WorkerSpec("web", Execution("./web", ("--x",)), ports=(PortSpec("http"),))
APP = AppSpec("default", "shop", (WORKER,))


@pytest.mark.parametrize(
    "change",
    [
        {"execution": Execution("./web")},
        {"execution": Execution("./web", ("--x",), (("A", "1"),))},
        {"ports": (PortSpec("http", 80),)},
        {"files": (FileSpec("a", "b"),)},
        {"logs": LogSpec(1000, 1)},
        {"id": "other"},
    ],
    ids=str,
)
def test_what_the_process_is_made_of_restarts_it(change: dict[str, object]) -> None:
    assert spec_hash(replace(WORKER, **change), "/srv") != spec_hash(WORKER, "/srv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 5},
        {"health": HealthSpec(liveness=Probe(ProcessCheck()))},
        {"restart": RestartSpec(max_retries=3)},
        {"stop": StopSpec("SIGINT", 1)},
        {"resources": Resources(100, 100)},
        {"placement": PlacementSpec(max_per_node=1)},
        {"rollout": RolloutSpec("recreate")},
        {"guarantee": Guarantee.STRICT},
        {"on_return": OnReturn.KEEP_ORIGINAL},
        {"depends_on": ("db",)},
        {"is_enabled": False},
        {"limits": LimitsSpec(memory=MemoryLimits(max_rss_bytes=2**26))},
    ],
    ids=str,
)
def test_what_can_change_under_a_running_process_does_not_restart_it(change: dict[str, object]) -> None:
    changed = replace(WORKER, **change)  # type: ignore[arg-type]
    assert spec_hash(changed, "/srv") == spec_hash(WORKER, "/srv")
    assert content_hash(replace(APP, workers=(changed,))) != content_hash(APP)


def test_base_directory_restarts() -> None:
    assert spec_hash(WORKER, "/srv/a") != spec_hash(WORKER, "/srv/b")


def test_hashes_are_the_same_everywhere() -> None:
    """Written down: masters of different versions must agree, or an upgrade restarts every worker."""
    assert (spec_hash(WORKER, "/srv"), content_hash(APP)) == ("58981a0d8772ef58", "121f38df3d0dfea8")
