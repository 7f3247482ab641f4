"""What every provider of routes can do: be told the whole of a route, again and again, and say who is still busy."""

from __future__ import annotations

from typing import Protocol

from hsu_cluster.planning.traffic import WantedRoute
from hsu_core.model.errors import HsuError
from hsu_core.model.ids import InstanceId


class TrafficError(HsuError):
    """A provider did not take a change. The text goes into the route's record, so it holds no time and no count."""

    code = "traffic.provider"
    status = 502


class Router(Protocol):
    """A provider of one route. Told the same twice, it changes nothing the second time."""

    verify_s: float | None
    """How often it is told again though nothing changed, in seconds, as it may forget (None: it does not)."""

    async def apply(self, wish: WantedRoute, cut: frozenset[InstanceId]) -> frozenset[InstanceId] | None:
        """Register the endpoints with their weights and deregister all others of this route.

        `cut`: deregistered instances that get no more time for their requests. Returns the deregistered ones that
        are at a request (None: it cannot tell). Takes a bounded time; raises TrafficError.
        """
        ...


class NoRouter:
    """Nobody is told: the endpoints are read over the API."""

    verify_s: float | None = None

    async def apply(self, wish: WantedRoute, cut: frozenset[InstanceId]) -> frozenset[InstanceId] | None:
        """Confirm at once."""
        return None
