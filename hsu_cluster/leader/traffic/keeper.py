"""Keeps one route: records what is about to be registered, tells the provider, records what it confirmed.

The order is what makes a stop safe. An instance is in the record before the provider hears of it, and after that has
been seen in the snapshot the wish is made anew: a planner that decided earlier has told us by then, and one that
decides later sees the record and waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from hsu_cluster.leader.snapshot import Snapshot
from hsu_cluster.leader.traffic.providers import router_of
from hsu_cluster.leader.traffic.router import Router, TrafficError
from hsu_cluster.leader.writer import FencedWriter
from hsu_cluster.planning.route_state import (
    announced,
    confirmed,
    cut_off,
    departing,
    is_settled,
    refused,
    remnants,
)
from hsu_cluster.planning.traffic import RouteKey, WantedRoute
from hsu_core.model.ids import InstanceId
from hsu_core.model.routes import Provider, RouteState
from hsu_core.runtime.tasks import Wake
from hsu_core.store.base import Delete, Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import encode

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often a provider that sees sessions is asked whether those of a leaving instance are over."""

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses before a provider in trouble is told again; the last one repeats."""

SHORTEST_S = 0.01
"""Pause between two looks: no state makes this loop spin."""

NEVER_S = 3600.0
"""A wait that only a change ends."""


class Keeper:
    """One route of one leadership; `look` makes its wish from what is known now (None: it cannot be known)."""

    def __init__(
        self,
        key: RouteKey,
        look: Callable[[RouteKey], WantedRoute | None],
        snapshot: Snapshot,
        writer: FencedWriter,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        allow_templates: bool,
    ) -> None:
        self._key = key
        self._look = look
        self._snapshot = snapshot
        self._writer = writer
        self._clock = clock
        self._monotonic = monotonic
        self._allow_templates = allow_templates
        self._wish: WantedRoute | None = None
        self._wake = Wake()
        self._router: Router | None = None
        self._provider: Provider | None = None
        self._asked_at_s: dict[InstanceId, float] = {}
        self._failures = 0
        self._told_at_s: float | None = None
        self._told: WantedRoute | None = None
        self._is_blind = False

    def wish(self, wish: WantedRoute) -> None:
        """Take what the route should be from now on."""
        if wish != self._wish:
            self._wish = wish
            self._wake.wake()

    async def run(self) -> None:
        """Keep the route until nobody asks for it and it is cleared. Raises StoreError."""
        while True:
            wait_s = await self._round()
            if wait_s is None:
                return
            await self._wake.wait(max(wait_s, SHORTEST_S))

    async def _round(self) -> float | None:
        """Do what is due; return after how many seconds to look again without a change, None when it is over."""
        wish = self._wish
        if wish is None:
            return NEVER_S
        state = self._state()
        before = announced(state, wish)
        if before != state:
            await self._write(state, before)
            again = self._look(self._key)
            if again is not None and again != wish:
                self._wish = again
                return SHORTEST_S
            state = before
        now_s = self._monotonic()
        leaving = departing(state, wish)
        self._asked_at_s = {one: self._asked_at_s.get(one, now_s) for one in leaving}
        if (next_s := self._next_s(state, wish)) > now_s:
            return next_s - now_s
        cut = cut_off(wish, self._asked_at_s, leaving, now_s)
        try:
            busy = await self._router_for(wish).apply(wish, cut)
        except TrafficError as error:
            self._failures += 1
            after = refused(state, wish, str(error), self._asked_at_s, self._monotonic())
        else:
            self._failures, self._told, self._is_blind = 0, wish, busy is None
            await self._clear_remnants(state, wish)
            after = confirmed(state, wish, busy, cut)
        self._told_at_s = self._monotonic()
        if not wish.is_needed and not departing(after, wish):
            await self._commit([Delete(keys.route(*self._key)), *self._events(state, after)])
            if self._wish == wish:
                return None
            self._told_at_s = None  # wanted again meanwhile
            return SHORTEST_S
        await self._write(state, after)
        return SHORTEST_S

    def _next_s(self, state: RouteState, wish: WantedRoute) -> float:
        """Return when the provider has to be told (or asked) next, on the monotonic clock."""
        if self._told_at_s is None:
            return 0.0
        if self._failures:
            return self._told_at_s + RETRY_S[min(self._failures, len(RETRY_S)) - 1]
        if wish != self._told:
            return 0.0
        if is_settled(state, wish):
            verify_s = self._router_for(wish).verify_s
            return self._told_at_s + (NEVER_S if verify_s is None else verify_s)
        if self._is_blind and self._asked_at_s:
            return min(self._asked_at_s.values()) + wish.spec.drain_s
        return self._told_at_s + POLL_S

    def _state(self) -> RouteState:
        return self._snapshot.view().routes.get(self._key) or RouteState(*self._key)

    def _router_for(self, wish: WantedRoute) -> Router:
        provider = wish.spec.provider
        if self._router is None or provider != self._provider:
            self._router, self._provider = router_of(provider, allow_templates=self._allow_templates), provider
            self._told_at_s, self._failures = None, 0
        return self._router

    async def _clear_remnants(self, state: RouteState, wish: WantedRoute) -> None:
        """Take everything out of an earlier provider, once: it may be gone for good."""
        old = state.spec.provider if state.spec is not None else None
        for provider in remnants(old, wish.spec.provider):
            empty = replace(wish, endpoints=())
            members = frozenset(endpoint.instance for endpoint in state.endpoints) | departing(state, wish)
            try:
                await router_of(provider, allow_templates=self._allow_templates).apply(empty, members)
            except TrafficError as error:
                log.warning("route %s of %s: its earlier provider is not cleared: %s", wish.spec.name, wish.app, error)

    async def _write(self, before: RouteState, after: RouteState) -> None:
        if after == before:
            return
        put = Put(keys.route(*self._key), encode(replace(after, changed_at=self._clock())))
        await self._commit([put, *self._events(before, after)])

    async def _commit(self, operations: list[Operation]) -> None:
        await self._snapshot.reach(await self._writer.write(operations))

    def _events(self, before: RouteState, after: RouteState) -> list[Put]:
        app, name = self._key
        if bool(before.trouble) == bool(after.trouble):
            return []
        code = "RouteTrouble" if after.trouble else "RouteInEffect"
        text = f"route {name} of {app}: {after.trouble or 'the provider has confirmed it again'}"
        return [self._writer.event(code, f"{app}/{name}", text, namespace=app.namespace, app=app.app)]
