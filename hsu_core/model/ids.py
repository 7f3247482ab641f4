"""Names of things: namespace, app, worker, slot, node. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hsu_core.model.errors import InvalidInput

NAME_LIMIT = 64
"""HSU's limit for worker ids, used for every name."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LIMIT}}}", re.ASCII)
_NODE_NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{NAME_LIMIT - 1}}}", re.ASCII)
_TARGET = re.compile(r"(?P<app>[A-Za-z0-9_-]+)(?:/(?P<worker>[A-Za-z0-9_-]+)(?:\.(?P<slot>\d{1,6}))?)?", re.ASCII)

DEFAULT_NAMESPACE = "default"

SLOT_LIMIT = 10_000
"""Most instances of one worker: slots are written with five digits in store keys."""


def is_name(text: str) -> bool:
    """Return whether `text` can name a namespace, app, worker or port: letters, digits, `_`, `-`, 1 to 64."""
    return _NAME.fullmatch(text) is not None


def is_node_name(text: str) -> bool:
    """Return whether `text` can name a node: as `is_name`, with dots (host names)."""
    return _NODE_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class AppId:
    """One app in its namespace."""

    namespace: str
    app: str

    def __str__(self) -> str:
        return self.app if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}:{self.app}"


@dataclass(frozen=True, slots=True, order=True)
class InstanceId:
    """One numbered slot of a worker; `str()` is what users read: `shop/web.2`."""

    namespace: str
    app: str
    worker: str
    slot: int

    def __str__(self) -> str:
        return f"{self.app_id}/{self.worker}.{self.slot}"

    @property
    def app_id(self) -> AppId:
        """Return the app this instance belongs to."""
        return AppId(self.namespace, self.app)

    @property
    def short(self) -> str:
        """Return the id without the namespace, `shop/web.2`, as the API's `id` shows it."""
        return f"{self.app}/{self.worker}.{self.slot}"


@dataclass(frozen=True, slots=True)
class TargetName:
    """What a verb is aimed at: an app, one worker of it, or one instance."""

    app: str
    worker: str | None = None
    slot: int | None = None


def parse_target(text: str) -> TargetName:
    """Return the parts of `APP[/WORKER[.SLOT]]`. Raises InvalidInput."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"read target {text[:80]!r}", "", "write APP, APP/WORKER or APP/WORKER.SLOT", code="input.target"
        )
    slot = match.group("slot")
    return TargetName(match.group("app"), match.group("worker"), int(slot) if slot is not None else None)
