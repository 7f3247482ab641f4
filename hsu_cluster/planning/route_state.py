"""The record of a route through its changes: announced, confirmed, refused. Pure.

An instance is in the record from before it is registered until after it was deregistered and its requests are done,
so that whoever stops instances needs to look at the record alone. Nobody waits for ever: a request has `drain_s`, a
provider that does not answer has GIVE_UP_S more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hsu_cluster.planning.traffic import WantedRoute
from hsu_core.model.ids import InstanceId
from hsu_core.model.routes import HaproxyProvider, Provider, RouteState, TemplateProvider, WebhookProvider

GIVE_UP_S = 30.0
"""How long, beyond `drain_s`, an instance that is to leave waits for a provider that does not confirm it.

A dead load balancer sends nobody requests, and must not stop deploys for good."""


def departing(state: RouteState, wish: WantedRoute) -> frozenset[InstanceId]:
    """Return the instances that are in the record and not wanted (any more)."""
    stays = {endpoint.instance for endpoint in wish.endpoints}
    return frozenset({endpoint.instance for endpoint in state.endpoints} | set(state.leaving)) - stays


def cut_off(
    wish: WantedRoute, asked_at_s: Mapping[InstanceId, float], leaving: Collection[InstanceId], now_s: float
) -> frozenset[InstanceId]:
    """Return which of `leaving` get no more time: their process is gone, or `drain_s` is over."""
    return frozenset(
        one for one in leaving if one not in wish.alive or now_s >= asked_at_s.get(one, now_s) + wish.spec.drain_s
    )


def announced(state: RouteState, wish: WantedRoute) -> RouteState:
    """Return the record to have before the provider is told: with all that may become registered."""
    known = {endpoint.instance: endpoint for endpoint in state.endpoints}
    new = [endpoint for endpoint in wish.endpoints if known.get(endpoint.instance) != endpoint]
    if not new:
        return state
    merged = known | {endpoint.instance: endpoint for endpoint in new}
    joining = set(state.joining) | {one.instance for one in new if one.instance not in known}
    return replace(
        state,
        endpoints=tuple(merged[one] for one in sorted(merged)),
        leaving=tuple(one for one in state.leaving if one not in merged),
        joining=tuple(sorted(joining)),
        spec=state.spec or wish.spec,
    )


def confirmed(
    state: RouteState, wish: WantedRoute, busy: Collection[InstanceId] | None, cut: Collection[InstanceId]
) -> RouteState:
    """Return the record after the provider took the change.

    `busy`: deregistered instances that are at a request; None: the provider cannot tell, so each gets all its time.
    """
    leaves = departing(state, wish) - frozenset(cut)
    return replace(
        state,
        endpoints=wish.endpoints,
        weights=wish.weights,
        leaving=tuple(sorted(leaves if busy is None else leaves & frozenset(busy))),
        trouble="",
        joining=(),
        spec=wish.spec,
    )


def refused(
    state: RouteState, wish: WantedRoute, trouble: str, asked_at_s: Mapping[InstanceId, float], now_s: float
) -> RouteState:
    """Return the record after the provider did not take the change: what has waited long enough is let go."""
    leaves = departing(state, wish)
    patience_s = wish.spec.drain_s + GIVE_UP_S
    gone = {one for one in leaves if one not in wish.alive or now_s >= asked_at_s.get(one, now_s) + patience_s}
    late = cut_off(wish, asked_at_s, state.leaving, now_s)
    return replace(
        state,
        endpoints=tuple(one for one in state.endpoints if one.instance not in gone),
        leaving=tuple(one for one in state.leaving if one not in gone | late),
        joining=tuple(one for one in state.joining if one not in gone),
        trouble=trouble,
    )


def is_settled(state: RouteState, wish: WantedRoute) -> bool:
    """Return whether the record says that everything wanted is in effect, and nobody is on the way out."""
    return (
        state.endpoints == wish.endpoints
        and state.weights == wish.weights
        and state.spec == wish.spec
        and not (state.leaving or state.joining or state.trouble)
    )


def remnants(old: Provider | None, new: Provider | None) -> tuple[Provider, ...]:
    """Return what of an earlier provider the new one does not take over, and has to be cleared."""
    if isinstance(old, HaproxyProvider):
        return tuple(
            HaproxyProvider((address,), backend) for address, backend in sorted(_backends(old) - _backends(new))
        )
    if isinstance(old, TemplateProvider) and isinstance(new, TemplateProvider) and old.path == new.path:
        return ()
    if isinstance(old, WebhookProvider) and isinstance(new, WebhookProvider) and old.url == new.url:
        return ()
    return () if old is None or old == new else (old,)


def _backends(provider: Provider | None) -> set[tuple[str, str]]:
    if not isinstance(provider, HaproxyProvider):
        return set()
    names = (provider.backend, provider.preview_backend)
    return {(address, name) for address in provider.addresses for name in names if name}
