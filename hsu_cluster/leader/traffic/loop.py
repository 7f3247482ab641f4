"""The traffic loop: one keeper for each route, woken by the plans and by what changed in the snapshot.

It must not decide who leaves: that is in the plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.traffic.keeper import Keeper
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.traffic import RouteKey, WantedRoute, leaving_of, wanted
from hsu_core.model.errors import StoreError
from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.view import Plan
from hsu_core.runtime.tasks import Wake

IDLE_S = 30.0
"""All routes are looked at this often even if nothing seems to have changed."""


class Traffic:
    """The routes of one leadership. `take` is called with every plan, `run` does the work."""

    def __init__(
        self,
        snapshot: Snapshot,
        writer: FencedWriter,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        allow_templates: bool,
    ) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._clock = clock
        self._monotonic = monotonic
        self._allow_templates = allow_templates
        self._wake = Wake()
        self._leaving: frozenset[InstanceId] = frozenset()
        self._weights: dict[tuple[AppId, str], int] = {}
        self._changed: set[AppId] = set()
        self._is_everything = True
        self._has_plan = False
        """Whether there was a plan for all apps: without one it is not known who leaves, nor who has what share."""

        self._keepers: dict[RouteKey, asyncio.Task[None]] = {}
        self._wishes: dict[RouteKey, Keeper] = {}
        self._failure: StoreError | None = None

    def take(self, plan: Plan, apps: Collection[AppId] | None) -> None:
        """Take a plan that was just made on the present view for `apps` (None: all), before it is applied."""
        kept = frozenset() if apps is None else frozenset(one for one in self._leaving if one.app_id not in apps)
        self._leaving = kept | leaving_of(plan, self._snapshot.view())
        others = {} if apps is None else {key: share for key, share in self._weights.items() if key[0] not in apps}
        self._weights = {**others, **plan.weights}
        self._is_everything |= apps is None
        self._has_plan |= apps is None
        self._changed.update(apps or ())
        self._wake.wake()

    async def run(self) -> None:
        """Keep all routes until cancelled. Raises LeaseLost when another leads, StoreError when the store fails."""
        self._failure, self._is_everything = None, True
        self._keepers, self._wishes = {}, {}
        async with asyncio.TaskGroup() as group:
            while self._failure is None:
                if not self._has_plan:
                    await self._wake.wait()
                    continue
                self._forget_finished()
                apps = None if self._is_everything else frozenset(self._changed)
                self._is_everything, self._changed = False, set()
                for key, wish in wanted(self._snapshot.view(), self._leaving, self._weights, apps=apps).items():
                    if key not in self._keepers:
                        self._start(group, key)
                    self._wishes[key].wish(wish)
                if not await self._wake.wait(IDLE_S):
                    self._is_everything = True
            for task in self._keepers.values():
                task.cancel()
        raise self._failure

    def _forget_finished(self) -> None:
        for key in [key for key, task in self._keepers.items() if task.done()]:
            del self._keepers[key], self._wishes[key]

    def _start(self, group: asyncio.TaskGroup, key: RouteKey) -> None:
        keeper = Keeper(
            key,
            self._look,
            self._snapshot,
            self._writer,
            clock=self._clock,
            monotonic=self._monotonic,
            allow_templates=self._allow_templates,
        )

        async def keep() -> None:
            try:
                await keeper.run()
            except StoreError as error:  # told outside of the group, which would wrap it
                self._failure = self._failure or error
                self._wake.wake()

        self._wishes[key] = keeper
        self._keepers[key] = group.create_task(keep(), name=f"route {key[0]}/{key[1]}")

    def _look(self, key: RouteKey) -> WantedRoute | None:
        """Return what a route should be as of now."""
        return wanted(self._snapshot.view(), self._leaving, self._weights, apps={key[0]}).get(key)
