"""Which changes of a status are told as events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsu_core.model.assignment import InstanceStatus, LastExit
from hsu_core.model.happenings import happening
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State

UP = InstanceStatus(InstanceId("default", "shop", "web", 2), "node-a", 1, State.RUNNING, is_ready=True, pid=7)
BACK = replace(UP, state=State.RESTARTING, is_ready=False, pid=None, reason="ended with code 1; starts again in 2.0 s")


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (None, UP, None),
        (UP, UP, None),
        (UP, replace(BACK, last_exit=LastExit(1)), "InstanceEnded"),
        (UP, replace(UP, pid=8, restarts=1, last_exit=LastExit(1)), "InstanceRestarted"),
        (replace(UP, state=State.REGISTERED), replace(BACK, reason="cannot start ./web"), "StartFailed"),
        (BACK, BACK, None),
        (BACK, replace(BACK, state=State.FAILED, reason="gave up"), "InstanceFailed"),
        (UP, replace(BACK, breaker="open", last_exit=LastExit(1)), "BreakerOpened"),
        (replace(UP, breaker="half-open"), UP, "BreakerClosed"),
        (UP, replace(UP, is_ready=False, reason="readiness probe failed"), "InstanceNotReady"),
        (replace(UP, is_ready=False), UP, "InstanceReady"),
        (UP, replace(UP, state=State.STOPPING, is_ready=False), None),
        (replace(UP, state=State.STOPPING), replace(UP, state=State.STOPPED), None),
        (replace(UP, pid=6, is_ready=False), UP, None),
    ],
)
def test_what_is_worth_an_event(before: InstanceStatus | None, after: InstanceStatus, code: str | None) -> None:
    found = happening(before, after)
    assert (found.code if found else None) == code
    assert found is None or "shop/web.2" in found.text
