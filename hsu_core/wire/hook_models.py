"""The words of `hooks:`. No meaning yet."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire import forms
from hsu_core.wire.fields import Duration, Strict, TextList
from hsu_core.wire.forms import Takes, beside


def _command(value: Any) -> Any:
    """Return the map of a hook; a bare list (or one word) is its command."""
    return {"command": value} if isinstance(value, list | str) else value


class HookModel(Strict):
    """One hook: program and arguments, and the longest that it may take."""

    command: TextList
    timeout: Duration | None = None


Hook = Annotated[HookModel, Takes(_command, beside(forms.TEXT_LIST))]


class HooksModel(Strict):
    """The four hooks, in the order in which they run."""

    pre_start: Hook | None = None
    post_start: Hook | None = None
    pre_stop: Hook | None = None
    post_stop: Hook | None = None
