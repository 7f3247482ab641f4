"""Finds the next run of scheduled instances, with the time zones of this host. Decides nothing: the plan does."""

from __future__ import annotations

import functools
import logging
import math
import zoneinfo
from dataclasses import replace
from datetime import UTC, datetime, tzinfo

from hsu_agent.planning import cron
from hsu_agent.planning.cron import NextRun
from hsu_agent.planning.observed import Observed
from hsu_agent.planning.reconcile import PlanRun, TakeRun
from hsu_core.model.schedules import ScheduleSpec, parse_cron

log = logging.getLogger(__name__)

_SAID = "next run at "


def apply(observed: Observed, action: PlanRun | TakeRun, now_at: float) -> Observed:
    """Return the instance with its next run, or with the run that begins now."""
    if isinstance(action, TakeRun):
        return replace(observed, next_run=NextRun(action.schedule, now_at, is_taken=True))
    return plan_run(observed, action.schedule, now_at)


def plan_run(observed: Observed, schedule: ScheduleSpec, now_at: float) -> Observed:
    """Return the instance with its next run after `now_at` (or after its last run, if it is to catch up)."""
    last = observed.next_run
    last_at = max(
        observed.process.started_at if observed.process is not None else 0.0,
        last.at if last is not None and last.is_taken else 0.0,
    )
    zone = _zone(schedule.timezone)
    after_at = cron.base_at(now_at, last_at, schedule.is_catching_up)

    def offset_at(at: float) -> float:
        offset = datetime.fromtimestamp(at, zone).utcoffset()
        return offset.total_seconds() if offset is not None else 0.0

    at = cron.next_run_at(parse_cron(schedule.expression), after_at, offset_at)
    when = "never" if at == math.inf else datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")
    before = observed.reason.partition(_SAID)[0].rstrip("; ")
    reason = f"{before}; {_SAID}{when}" if before else f"{_SAID}{when}"
    return replace(observed, next_run=NextRun(schedule, at), reason=reason)


@functools.cache
def _zone(name: str) -> tzinfo:
    if not name:
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        log.error("this host does not know the time zone %s: its schedules go by UTC; install tzdata", name)
        return UTC
