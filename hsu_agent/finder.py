"""Looks for unmanaged processes in a thread, while any is missing; what it found the next start of it takes.

Decides nothing about instances: a process that is found wakes its instance, whose plan then holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from hsu_agent.host.discovery import Finder, NotFoundHere
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.model.unmanaged import UnmanagedSpec
from hsu_core.runtime.tasks import Wake

Answers = Mapping[InstanceId, Process | str]


class NotYetFound(ProcessError):
    """The process of an unmanaged unit is not there, or not looked for yet."""

    code = "process.not-found"


class Looker:
    """Holds the latest answers. `on_found` is called for an instance whose process was just found."""

    def __init__(self, finder: Finder, tasks: asyncio.TaskGroup, on_found: Callable[[InstanceId], None]) -> None:
        self._finder = finder
        self._on_found = on_found
        self._wanted: dict[InstanceId, UnmanagedSpec] = {}
        self._found: dict[InstanceId, Process] = {}
        self._why: dict[InstanceId, str] = {}
        self._wake = Wake()
        self._task = tasks.create_task(self._run(), name="looks for unmanaged processes")

    def take(self, instance: InstanceId, order: Desired) -> Process:
        """Return the process that was found since the last call. Raises NotYetFound; a look begins then."""
        spec = order.spec.worker.unmanaged
        assert spec is not None
        found = self._found.pop(instance, None)
        if found is not None and self._wanted.get(instance) == spec:
            del self._wanted[instance]
            return found
        self._wanted[instance] = spec
        self._wake.wake()
        why = self._why.pop(instance, f"by {spec.described}")
        raise NotYetFound(f"find the process of {instance}", why, "it is taken as soon as it is there")

    def forget(self, instance: InstanceId) -> None:
        """Look for this one no more."""
        for book in (self._wanted, self._found, self._why):
            book.pop(instance, None)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            missing = {each: spec for each, spec in self._wanted.items() if each not in self._found}
            answers = await asyncio.to_thread(self._look, missing)
            for instance, answer in answers.items():
                if self._wanted.get(instance) != missing[instance]:
                    continue  # asked otherwise meanwhile
                if isinstance(answer, str):
                    self._why[instance] = answer
                else:
                    self._found[instance] = answer
                    self._on_found(instance)

    def _look(self, missing: Mapping[InstanceId, UnmanagedSpec]) -> Answers:
        return {instance: self._one(spec) for instance, spec in missing.items()}

    def _one(self, spec: UnmanagedSpec) -> Process | str:
        try:
            return self._finder.find(spec)
        except NotFoundHere as error:
            return str(error)
        except (OSError, ValueError, RuntimeError) as error:  # psutil: a line of /proc that it cannot read
            return f"by {spec.described}: {error}"

    def close(self) -> None:
        """Look no more."""
        self._task.cancel()
