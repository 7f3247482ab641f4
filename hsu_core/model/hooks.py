"""Commands that go along with the starts and stops of a worker, as its manifest says them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HookName(StrEnum):
    """When a hook runs: before a start, beside the started process, before the stop signal, after the last process."""

    PRE_START = "pre_start"
    POST_START = "post_start"
    PRE_STOP = "pre_stop"
    POST_STOP = "post_stop"


@dataclass(frozen=True, slots=True)
class HookSpec:
    """One command, run without a shell and killed with its group after `timeout_s`. It must be repeatable."""

    command: tuple[str, ...]
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class HooksSpec:
    """The hooks of a worker; None: there is none."""

    pre_start: HookSpec | None = None
    post_start: HookSpec | None = None
    pre_stop: HookSpec | None = None
    post_stop: HookSpec | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether the worker has no hook at all."""
        return self == NO_HOOKS

    def get(self, name: HookName) -> HookSpec | None:
        """Return the hook of this name, or None."""
        found: HookSpec | None = getattr(self, name.value)
        return found


NO_HOOKS = HooksSpec()
