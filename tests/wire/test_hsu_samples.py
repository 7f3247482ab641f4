"""Files of HSU users: each gives a specification with warnings, or faults that a person can act on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsu_core.model.errors import InvalidManifest
from hsu_core.model.spec import HttpCheck, Probe, ProcessCheck, RestartPolicy
from tests.wire.builders import hsu_restart, parse

FIXTURES = Path(__file__).parent / "fixtures"


def read(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def test_the_echo_sample() -> None:
    spec = parse(read("hsu-echotest.yaml"), file="hsu-echotest.yaml").spec
    worker = spec.workers[0]
    assert spec.app == "hsu-echotest"
    assert worker.execution.args == ("--run-duration", "0", "--memory-mb", "1")
    assert worker.restart == replace(hsu_restart(RestartPolicy.ALWAYS), grace_s=30.0)
    assert worker.health.liveness == Probe(ProcessCheck(), 10.0, 5.0, 2.0, 1, 2)
    assert worker.resources.memory_bytes == 104_857_600


def test_the_older_restart_block() -> None:
    worker = parse(read("hsu-logging-full.yaml")).spec.workers[0]
    assert worker.restart == hsu_restart(RestartPolicy.ON_FAILURE)
    assert worker.execution.executable_path.startswith("..\\..\\")


def test_the_second_dialect() -> None:
    parsed = parse(read("hsu-process-manager.yaml"))
    worker = parsed.spec.workers[0]
    assert (worker.id, worker.profile_type, worker.stop.grace_s) == ("echo-test", "short_running_task", 10.0)
    assert worker.execution.environment == (("RUST_LOG", "info"),)
    assert worker.health.readiness == Probe(HttpCheck(url="http://localhost:8080/health"), 30.0, 5.0, 0.0, 1, 2)
    assert parse(json.dumps(parsed.document), environment=None).spec == parsed.spec


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("hsu-*.yaml")), ids=lambda path: path.stem)
def test_transcript_of_a_sample(path: Path, golden: Callable[[str, str], None]) -> None:
    try:
        lines = [str(warning) for warning in parse(path.read_text(encoding="utf-8"), file=path.name).warnings]
    except InvalidManifest as error:
        lines = [str(error)]
    golden(path.stem, "\n".join(lines))
