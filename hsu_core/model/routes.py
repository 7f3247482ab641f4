"""Routes: a virtual endpoint of a worker with weighted backends, and what its provider has confirmed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.ids import AppId, InstanceId

DRAIN_S = 10.0
"""Longest time that a deregistered instance is given to finish its requests before it is stopped."""


@dataclass(frozen=True, slots=True)
class HaproxyProvider:
    """HAProxy's runtime API at `addresses` (paths of sockets, or host:port); servers are added to `backend`.

    With blue-green the preview set is added to `preview_backend`, if there is one.
    """

    addresses: tuple[str, ...]
    backend: str
    preview_backend: str = ""


@dataclass(frozen=True, slots=True)
class TemplateProvider:
    """A file written from a template on the master, and the command that reloads who reads it."""

    template: str
    path: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WebhookProvider:
    """A URL that is told the whole state of the route at every change."""

    url: str
    timeout_s: float = 10.0


Provider = HaproxyProvider | TemplateProvider | WebhookProvider


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A virtual endpoint: the instances of `worker` on its `port`. `provider` None: read over the API alone."""

    name: str
    worker: str
    port: str
    provider: Provider | None = None
    drain_s: float = DRAIN_S


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance as a route's provider knows it: `group` is stable, canary, active or preview; weight 0..100 of it
    is the share of the whole group."""

    instance: InstanceId
    epoch: int
    host: str
    port: int
    group: str = "stable"


@dataclass(frozen=True, slots=True)
class RouteState:
    """What the provider of a route has confirmed: written by the leader after each change that took effect.

    `endpoints` are all that may be sent requests: an instance is written down before it is registered (it is in
    `joining` until the provider has confirmed it), and erased after it was deregistered. `weights` are (group,
    percent). `leaving`: deregistered, and perhaps still at a request. `trouble`: why the newest change is not in effect
    (empty: it is). `spec` is what was applied, so that a provider can be cleared after the route left the manifest.
    """

    app: AppId
    name: str
    endpoints: tuple[Endpoint, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    leaving: tuple[InstanceId, ...] = ()
    trouble: str = ""
    changed_at: float = 0.0
    joining: tuple[InstanceId, ...] = ()
    spec: RouteSpec | None = None
