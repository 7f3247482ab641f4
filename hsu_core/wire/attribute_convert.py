"""The meaning of a worker's `process` block."""

from __future__ import annotations

from hsu_core.model.attributes import CAPABILITIES, NO_ATTRIBUTES, ProcessAttributes, Rlimit
from hsu_core.wire.attribute_models import ProcessModel
from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import closest_fix
from hsu_core.wire.tree import Path


def convert_attributes(body: ProcessModel | None, path: Path, found: FaultList) -> ProcessAttributes:
    """Return the attributes of the worker at `path`."""
    if body is None:
        return NO_ATTRIBUTES
    at = (*path, "process")
    for key in ("user", "group"):
        text = getattr(body, key)
        if text is not None and not _is_account(text):
            found.fault((*at, key), f"{text[:60]!r} is no name of a {key}", "write a name or a number")
    for index, text in enumerate(body.groups or ()):
        if not _is_account(text):
            found.fault((*at, "groups", index), f"{text[:60]!r} is no name of a group", "write a name or a number")
    if body.io_priority is not None and body.io_class == "idle":
        found.fault((*at, "io_priority"), "only best-effort and realtime have one", "use another io_class")
    return ProcessAttributes(
        user=body.user or "",
        group=body.group or "",
        groups=tuple(body.groups or ()),
        umask=body.umask,
        nice=body.nice,
        io_class=body.io_class or ("" if body.io_priority is None else "best-effort"),
        io_priority=body.io_priority,
        cpu_affinity=body.cpu_affinity or (),
        oom_score_adj=body.oom_score_adj,
        has_no_new_privileges=body.no_new_privileges is True,
        capabilities=None if body.capabilities is None else _capabilities(body.capabilities, at, found),
        rlimits=tuple(Rlimit(name, *pair) for name, pair in sorted((body.rlimits or {}).items())),
    )


def _is_account(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isprintable() and not set(text) & set(" :/,")


def _capabilities(given: list[str], at: Path, found: FaultList) -> tuple[str, ...]:
    names = [text.upper().removeprefix("CAP_") for text in given]
    for index, name in enumerate(names):
        if name not in CAPABILITIES:
            path = (*at, "capabilities", index)
            found.fault(path, f"{name[:60]!r} is no capability", closest_fix(name, CAPABILITIES))
    return tuple(sorted(set(names)))
