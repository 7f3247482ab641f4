"""The meaning of `hooks:`."""

from __future__ import annotations

from hsu_core.model.hooks import NO_HOOKS, HookName, HookSpec, HooksSpec
from hsu_core.wire.faults import FaultList
from hsu_core.wire.hook_models import HookModel, HooksModel
from hsu_core.wire.tree import Path


def convert_hooks(body: HooksModel | None, path: Path, found: FaultList) -> HooksSpec:
    """Return the hooks of the worker at `path`."""
    if body is None:
        return NO_HOOKS
    at = (*path, "hooks")
    return HooksSpec(
        pre_start=_hook(body.pre_start, (*at, HookName.PRE_START.value), found),
        post_start=_hook(body.post_start, (*at, HookName.POST_START.value), found),
        pre_stop=_hook(body.pre_stop, (*at, HookName.PRE_STOP.value), found),
        post_stop=_hook(body.post_stop, (*at, HookName.POST_STOP.value), found),
    )


def _hook(body: HookModel | None, path: Path, found: FaultList) -> HookSpec | None:
    if body is None:
        return None
    if not body.command or not body.command[0]:
        found.fault((*path, "command"), "the command is empty", "write for example [./bin/migrate, --all]")
    if body.timeout is not None and body.timeout <= 0:
        found.fault((*path, "timeout"), "a hook needs time to run", "write for example 30s")
    default = HookSpec(())
    return HookSpec(tuple(body.command), default.timeout_s if body.timeout is None else body.timeout)
