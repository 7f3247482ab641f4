"""How hooks change what the agent holds of an instance. Pure; its neighbour `observed` has all other changes."""

from __future__ import annotations

from dataclasses import replace

from hsu_agent.planning import observed as changes
from hsu_agent.planning.hooks import HookPhase
from hsu_agent.planning.observed import Desired, Observed
from hsu_core.model.hooks import HookName


def key_of(order: Desired) -> str:
    """Return what a pre_start is for: another specification, generation or port asks for another one."""
    assignment = order.assignment
    return f"{assignment.spec_hash} {assignment.generation} {assignment.ports}"


def begun(observed: Observed, name: HookName, order: Desired) -> Observed:
    """Return the instance while a hook runs."""
    if name is HookName.POST_START:  # it runs beside the process and holds nothing up
        return replace(observed, hooks=replace(observed.hooks, owes_post_start=False))
    hooks = replace(observed.hooks, running=name, key=key_of(order), is_prepared=False)
    return replace(observed, hooks=hooks, reason="pre_start runs" if name is HookName.PRE_START else observed.reason)


def stop_begun(observed: Observed, signal: str) -> Observed:
    """Return a stopping instance whose pre_stop runs first; `signal` follows it."""
    return replace(observed, hooks=replace(observed.hooks, running=HookName.PRE_STOP, signal=signal))


def signalled(observed: Observed) -> Observed:
    """Return a stopping instance whose stop signal was sent."""
    return replace(observed, hooks=replace(observed.hooks, signal=""))


def passed(observed: Observed, name: HookName) -> Observed:
    """Return the instance after a hook that is over (a pre_start: that ended well)."""
    hooks = replace(observed.hooks, running=None)
    if name is HookName.PRE_START:
        hooks = replace(hooks, is_prepared=True)
    elif name is HookName.POST_STOP:
        hooks = replace(hooks, owes_post_stop=False)
    return replace(observed, hooks=hooks)


def broken(observed: Observed, name: HookName, text: str) -> Observed:
    """Return the instance after a post_stop that failed: the worker's end stands, what the hook left is ended."""
    return replace(passed(observed, name), is_tree_empty=False, reason=text)


def not_prepared(observed: Observed, order: Desired, text: str, now_s: float, at: float, jitter: float) -> Observed:
    """Return the instance after a pre_start that failed: a failed start; what the hook left is ended first."""
    failed = changes.spawn_failed(observed, order, text, now_s, at, jitter)
    return replace(failed, is_tree_empty=False)


def cut_short(observed: Observed) -> Observed:
    """Return the instance whose pre_start is ended because its order changed; what the hook left is ended first."""
    return replace(observed, hooks=HookPhase(), is_tree_empty=False, reason="")
