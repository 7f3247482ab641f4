"""What a changed status is worth telling people: crashes, giving up, breakers, readiness. Pure."""

from __future__ import annotations

from typing import NamedTuple

from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.lifecycle import State


class Happening(NamedTuple):
    """One thing that happened to an instance: a CamelCase code and a sentence."""

    code: str
    text: str


def happening(before: InstanceStatus | None, after: InstanceStatus) -> Happening | None:
    """Return what happened between two reports of an instance, or None if it is everyday.

    The first report, starts and stops on request are everyday: whoever asked for them has an event already.
    """
    if before is None:
        return None
    name = after.instance.short
    if after.state is State.FAILED and before.state is not State.FAILED:
        return Happening("InstanceFailed", _sentence(f"{name} failed", after.reason))
    if after.breaker == "open" and before.breaker != "open":
        return Happening("BreakerOpened", _sentence(f"the breaker of {name} is open", after.reason))
    if before.breaker and not after.breaker and after.state is State.RUNNING:
        return Happening("BreakerClosed", f"the breaker of {name} is closed: its start on trial has lasted")
    if after.state is State.RESTARTING and (before.state, before.last_exit) != (after.state, after.last_exit):
        code = "StartFailed" if before.last_exit == after.last_exit else "InstanceEnded"
        return Happening(code, _sentence(f"{name} is not running", after.reason))
    if after.restarts > before.restarts and after.last_exit != before.last_exit:
        return Happening("InstanceRestarted", f"{name} ended and was started again ({after.restarts} restarts)")
    if before.state is after.state is State.RUNNING and before.pid == after.pid and before.is_ready != after.is_ready:
        if after.is_ready:
            return Happening("InstanceReady", f"{name} is ready")
        return Happening("InstanceNotReady", _sentence(f"{name} takes no work", after.reason))
    return None


def _sentence(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what
