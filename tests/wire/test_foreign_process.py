"""Attributes of a process (user, priority, limits of resources) in the block `process`: the dictionary that is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hsu_core.wire.foreign import process_block
from tests.wire.foreign_builders import converted_fixtures, faults_of, read_strictly, worker_of


def blocks(kind: str, name: str) -> dict[str, Any]:
    """Return the block of each worker of a fixture."""
    return {each["id"]: each["process"] for each in converted_fixtures(kind, name).manifest["workers"]}


def test_a_service_with_all_attributes() -> None:
    assert blocks("systemd", "process/limited.service") == {
        "limited": {
            "user": "www-data",
            "group": "adm",
            "groups": ["dialout", "video"],
            "umask": "027",
            "nice": 5,
            "io_class": "best-effort",
            "io_priority": 6,
            "cpu_affinity": [0, 2, 3],
            "oom_score_adj": -500,
            "no_new_privileges": True,
            "capabilities": ["NET_BIND_SERVICE", "SYS_NICE"],
            "rlimits": {"core": "unlimited", "nofile": 65536, "nproc": "512:1024"},
        }
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [("systemd", "process/limited.service"), ("supervisord", "process/users.conf"), ("pm2", "process/users.json")],
)
def test_the_blocks_pass_strict_validation(kind: str, name: str) -> None:
    for worker in read_strictly(converted_fixtures(kind, name)).spec.workers:
        assert not worker.process.is_empty


def test_what_supervisord_says_for_all_holds_where_a_program_says_nothing() -> None:
    assert blocks("supervisord", "process/users.conf") == {
        "own": {"user": "${env:OWNER}", "umask": "002"},
        "shared": {"user": "shop", "umask": "027"},
    }


def test_user_and_group_of_an_app() -> None:
    assert blocks("pm2", "process/users.json") == {"own": {"user": "shop", "group": "1000"}}
    assert worker_of("pm2", json.dumps({"script": "a.js", "user": 7}))["process"] == {"user": "7"}


def test_what_is_not_said_is_left_out() -> None:
    assert process_block() == {}
    assert process_block(nice=0, io_priority=0, oom_score_adj=0, no_new_privileges=False) == {
        "nice": 0,
        "io_priority": 0,
        "oom_score_adj": 0,
        "no_new_privileges": False,
    }


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("Nice=20", "outside -20 to 19"),
        ("IOSchedulingClass=fast", "is not a class"),
        ("IOSchedulingPriority=8", "outside 0 to 7"),
        ("CPUAffinity=3-1", "ends before it begins"),
        ("CPUAffinity=0 many", "needs a whole number"),
        ("CPUAffinity=99999", "outside 0 to 4096"),
        ("OOMScoreAdjust=2000", "outside -1000 to 1000"),
        ("NoNewPrivileges=perhaps", "needs true or false"),
        ("UMask=9", "is not a umask"),
        ("LimitNOFILE=many", "is not a limit"),
    ],
)
def test_what_is_broken_is_refused(line: str, part: str) -> None:
    assert any(part in fault for fault in faults_of("systemd", f"[Service]\nExecStart=/bin/a\n{line}"))
