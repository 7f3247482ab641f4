"""Rollouts as people see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hsu_cluster.cli.render import table
from hsu_cluster.cli.render_rollout import rollout_line, rollout_tree
from hsu_cluster.cli.rollout_wait import exit_status
from tests.cli.documents import NOW, instance
from tests.cli.test_render import plain

Golden = Callable[[str, str], None]

CANARY: dict[str, Any] = {
    "namespace": "default",
    "app": "shop",
    "app_revision": 4,
    "stable_revision": 2,
    "attempt": 0,
    "phase": "Paused",
    "reason": "RolloutPaused",
    "text": "web waits for a pause of 30 s to end",
    "paused": False,
    "aborted": False,
    "started_at": NOW - 90,
    "ended_at": None,
    "deadline_at": NOW + 590,
    "workers": [
        {
            "worker": "db",
            "strategy": "in-place",
            "stage": "done",
            "step": 0,
            "steps": [],
            "weight": 100,
            "actual_weight": 100,
            "waits_for": "",
            "until": None,
            "since": NOW - 90,
            "sets": [{"app_revision": 4, "instances": ["shop/db.0"], "ready": 1, "available": 1}],
        },
        {
            "worker": "web",
            "strategy": "canary",
            "stage": "steps",
            "step": 1,
            "steps": ["set_weight 20", "pause 30s", "set_weight 60"],
            "weight": 20,
            "actual_weight": 18,
            "waits_for": "a pause of 30 s to end",
            "until": NOW + 12,
            "since": NOW - 18,
            "sets": [
                {"app_revision": 4, "instances": ["shop/web.100"], "ready": 1, "available": 1},
                {"app_revision": 2, "instances": ["shop/web.0", "shop/web.1"], "ready": 1, "available": 1},
            ],
        },
    ],
    "revision": 99,
}
INSTANCES = [
    instance("shop/web.0"),
    instance("shop/web.1", ready=False, reason="readiness probe: connection refused"),
    instance("shop/web.100"),
]


def test_a_canary_is_a_tree_of_sets_with_what_it_waits_for(golden: Golden) -> None:
    golden("rollout", plain(rollout_tree(CANARY, INSTANCES, NOW)))  # type: ignore[arg-type]
    golden("rollouts", plain(table("rollouts", [CANARY], NOW)))


def test_in_a_pipe_it_is_one_line() -> None:
    assert rollout_line(CANARY) == (  # type: ignore[arg-type]
        "shop revision 4: Paused, db done, 100 % of 100 %, web step 2/3 pause 30s, 18 % of 20 %; "
        "web waits for a pause of 30 s to end"
    )


@pytest.mark.parametrize(
    ("phase", "status"), [("Healthy", 0), ("Degraded", 1), ("Progressing", 3), ("Paused", 3), ("RollingBack", 3)]
)
def test_scripts_can_rely_on_the_exit_status(phase: str, status: int) -> None:
    assert exit_status({**CANARY, "phase": phase}) == status  # type: ignore[typeddict-item]
