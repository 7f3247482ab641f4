"""The meaning of `schedule:`, `timezone:` and `catch_up:`."""

from __future__ import annotations

import zoneinfo

from hsu_core.model.errors import InvalidInput
from hsu_core.model.restarts import RestartPolicy, RestartSpec
from hsu_core.model.schedules import ScheduleSpec, parse_cron
from hsu_core.wire.faults import FaultList
from hsu_core.wire.manifest_models import WorkerModel
from hsu_core.wire.tree import Path


def convert_schedule(model: WorkerModel, restart: RestartSpec, path: Path, found: FaultList) -> ScheduleSpec | None:
    """Return the schedule of the worker at `path`, or None."""
    if model.schedule is None:
        for key in ("timezone", "catch_up"):
            if getattr(model, key) is not None:
                found.fault((*path, key), "the worker has no schedule", "add `schedule`, or remove this")
        return None
    try:
        parse_cron(model.schedule)
    except InvalidInput as error:
        found.fault((*path, "schedule"), error.why, error.fix)
    zone = model.timezone or ""
    try:
        zoneinfo.ZoneInfo(zone or "UTC")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        found.fault((*path, "timezone"), f"{zone[:60]!r} is not a time zone", "write for example Europe/Berlin or UTC")
    if restart.policy in (RestartPolicy.ALWAYS, RestartPolicy.UNLESS_STOPPED):
        found.fault(
            (*path, "schedule"),
            f"a worker that starts again after each end ({restart.policy}) has no use for a schedule",
            "use the restart policy on-failure or never",
        )
    return ScheduleSpec(model.schedule, zone, model.catch_up is True)
