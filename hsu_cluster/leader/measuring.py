"""Measures what analysis runs ask for, as long as this master leads: look, ask, record, wait for the next change.

The planner begins runs and ends them, this writes what was measured and the verdicts; both write the same record. Both
are in this process and hold `FencedWriter.runs` from looking at the snapshot until it shows what they wrote, so neither
overwrites what the other has written (a compare could fail a whole batch of the planner for one measurement). Another
master writes nothing: the fence. All that matters is in the record, so the next leader goes on where this one stopped:
a measurement that was not written did not take place, and one that was is not due again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from hsu_cluster.leader.queries import Unanswered, ask, new_session, shown
from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.analysis import due, failed_run, filled, judged, measurement, unanswered, with_measurement
from hsu_core.model.analysis import AnalysisRun, AnalysisSpec, Measurement, MetricSpec
from hsu_core.model.errors import StoreError
from hsu_core.model.ids import AppId
from hsu_core.model.view import ClusterView
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 32
"""Most questions that are open at the same time; more wait for their turn, the longest due first."""

IDLE_S = 30.0
"""Look at all runs this often even if nothing seems to have changed."""

_Key = tuple[AppId, str, str]
"""App, id of the run, name of the metric."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was measured; `asked_at` is when the question was put (seconds since 1970)."""

    asked_at: float
    measurement: Measurement


class Measurer:
    """Measures for all runs of the snapshot that are not over.

    `clock` gives seconds since 1970; `can_execute`: whether programs that an analysis names may be run here.
    """

    def __init__(
        self, snapshot: Snapshot, writer: FencedWriter, *, clock: Callable[[], float], can_execute: bool = False
    ) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._clock = clock
        self._can_execute = can_execute
        self._wake = Wake()
        self._asking: dict[_Key, asyncio.Task[None]] = {}
        self._answers: dict[_Key, _Answer] = {}

    def wake(self) -> None:
        """Look again: something has changed."""
        self._wake.wake()

    async def run(self) -> None:
        """Measure until cancelled. Raises LeaseLost when another leads, StoreError when the store does not answer.

        It can be run again after an error: answers that could not be written are kept until then.
        """
        failed: StoreError | None = None
        async with new_session() as session:
            try:
                async with asyncio.TaskGroup() as group:
                    try:
                        while True:
                            await self._record()
                            next_at = self._start_due(group, session)
                            wait_s = IDLE_S if next_at is None else min(IDLE_S, max(0.01, next_at - self._clock()))
                            await self._wake.wait(wait_s)
                    except StoreError as error:
                        failed = error
                        for task in self._asking.values():
                            task.cancel()
            finally:
                self._asking.clear()
        if failed is not None:
            raise failed

    def _start_due(self, group: asyncio.TaskGroup, session: aiohttp.ClientSession) -> float | None:
        """Ask for everything that is due; return when the next metric is (seconds since 1970, None: none)."""
        now_s = self._clock()
        view = self._snapshot.view()
        open_questions: list[tuple[float, _Key, MetricSpec, AnalysisRun]] = []
        for (app, run_id), run in view.runs.items():
            spec = spec_of(view, run) if run.finished_at is None else None
            times = due(spec, run) if spec is not None else {}
            open_questions += [
                (times[metric.name], (app, run_id, metric.name), metric, run)
                for metric in (spec.metrics if spec is not None else ())
                if metric.name in times and not self._is_asked((app, run_id, metric.name))
            ]
        open_questions.sort(key=lambda question: question[:2])
        for at, key, metric, run in open_questions:
            if at > now_s:
                return at
            if len(self._asking) >= ASKED_AT_ONCE:
                return None  # the end of a question wakes us
            self._asking[key] = group.create_task(self._measure(key, metric, run, session), name="measure")
        return None

    def _is_asked(self, key: _Key) -> bool:
        """Return whether a question is open, or its answer not written yet."""
        return key in self._asking or key in self._answers

    async def _measure(self, key: _Key, metric: MetricSpec, run: AnalysisRun, session: aiohttp.ClientSession) -> None:
        """Ask for one value and leave the answer for `_record`."""
        asked_at = self._clock()
        query = filled(metric.query, run)
        try:
            value = await ask(query, run, self._snapshot.view(), session, can_execute=self._can_execute)
            taken = measurement(metric, value, shown(value), self._clock())
        except Unanswered as error:
            taken = unanswered(error.sentence, self._clock())
        self._answers[key] = _Answer(asked_at, taken)
        self._asking.pop(key, None)
        self._wake.wake()

    async def _record(self) -> None:
        """Write the answers, and the verdicts of runs that are over without another one. Raises StoreError."""
        if not self._answers and not self._changed_runs():
            return
        async with self._writer.runs:
            answers = dict(self._answers)
            changed = self._changed_runs()
            operations = [Put(keys.run(run.app, run.id), encode(run)) for run in changed]
            if operations:
                events = [self._event(run) for run in changed if run.finished_at is not None]
                await self._snapshot.reach(await self._writer.write([*operations, *events]))
            for key in answers:
                self._answers.pop(key, None)

    def _changed_runs(self) -> list[AnalysisRun]:
        """Return the unfinished runs of the newest view as they should be now, those that differ."""
        view = self._snapshot.view()
        now_s = self._clock()
        found: list[AnalysisRun] = []
        for run in view.runs.values():
            if run.finished_at is not None:
                continue
            changed = self._changed(run, spec_of(view, run), now_s)
            if changed != run:
                found.append(changed)
        return found

    def _changed(self, run: AnalysisRun, spec: AnalysisSpec | None, now_s: float) -> AnalysisRun:
        if spec is None:
            return failed_run(run, f"revision {run.revision} of {run.app} has no analysis {run.analysis}", now_s)
        changed = judged(spec, run, now_s)
        for metric in spec.metrics:
            answer = self._answers.get((run.app, run.id, metric.name))
            due_at = due(spec, changed).get(metric.name) if answer is not None else None
            if answer is not None and due_at is not None and due_at <= answer.asked_at:  # else it is written already
                changed = with_measurement(spec, changed, metric.name, answer.measurement)
        return changed

    def _event(self, run: AnalysisRun) -> Put:
        text = f"analysis {run.analysis} of revision {run.revision}: {run.verdict}"
        log.info("%s/%s: %s", run.app, run.worker, text)
        return self._writer.event(
            f"Analysis{run.verdict}",
            f"{run.app.app}/{run.worker}",
            f"{text}, {run.text}" if run.text else text,
            namespace=run.app.namespace,
            app=run.app.app,
        )


def spec_of(view: ClusterView, run: AnalysisRun) -> AnalysisSpec | None:
    """Return what a run measures: the analysis of the revision it is for; None if that is gone."""
    revision = view.revisions.get((run.app, run.revision))
    return revision.spec.analysis(run.analysis) if revision is not None else None
