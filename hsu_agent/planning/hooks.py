"""Which hook of an instance is running, due or owed. Pure; the rows that use it are in `reconcile`."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.hooks import HookName, HooksSpec


@dataclass(frozen=True, slots=True)
class HookPhase:
    """Where an instance stands with its hooks.

    `running`: the hook under way. `is_prepared`: pre_start has ended well and the start follows. `owes_post_start`,
    `owes_post_stop`: still to be run for the latest process. `signal`: the stop signal that follows pre_stop.
    `key`: what the pre_start was for.
    """

    running: HookName | None = None
    is_prepared: bool = False
    owes_post_start: bool = False
    owes_post_stop: bool = False
    signal: str = ""
    key: str = ""


IDLE = HookPhase()
"""Of every instance whose worker has no hooks, at all times."""


def after_start(hooks: HooksSpec) -> HookPhase:
    """Return the phase of a process that was started just now."""
    if hooks.post_start is None and hooks.post_stop is None:
        return IDLE
    return HookPhase(owes_post_start=hooks.post_start is not None, owes_post_stop=hooks.post_stop is not None)


def after_adoption(hooks: HooksSpec) -> HookPhase:
    """Return the phase of a process that an earlier agent started: its post_start is not run again."""
    return IDLE if hooks.post_stop is None else HookPhase(owes_post_stop=True)


def after_end(phase: HookPhase) -> HookPhase:
    """Return the phase once a process is asked to stop or has ended: no hook runs beside it any more."""
    return phase if phase is IDLE else HookPhase(owes_post_stop=phase.owes_post_stop)
