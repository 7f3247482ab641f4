"""The documents of endpoints and routes; the rules of `hsu_cluster.client.documents` hold for them too."""

from __future__ import annotations

from typing import TypedDict


class EndpointDocument(TypedDict):
    """A ready instance that may be sent requests. `ports`: numbers by name.

    `group`: stable or canary, with blue-green active or preview. `weight`: 0..256, against those of the worker's other
    endpoints.
    """

    namespace: str
    app: str
    worker: str
    instance: str
    slot: int
    node: str
    host: str
    ports: dict[str, int]
    group: str
    weight: int
    app_revision: int


class RouteMemberDocument(TypedDict):
    """An instance as the provider of a route knows it."""

    instance: str
    host: str
    port: int
    group: str
    weight: int


class RouteDocument(TypedDict):
    """A route with what its provider has confirmed. `provider`: haproxy, template, webhook or none.

    `weights`: percent by group. `joining`: members that are not confirmed yet; `leaving`: out, and perhaps still at a
    request. `trouble`: why the newest change is not in effect (empty: it is).
    """

    namespace: str
    app: str
    name: str
    worker: str
    port: str
    provider: str
    members: list[RouteMemberDocument]
    weights: dict[str, int]
    joining: list[str]
    leaving: list[str]
    trouble: str
    changed_at: float | None
    revision: int


class TargetGroupDocument(TypedDict):
    """Targets of Prometheus' HTTP service discovery with their labels (`__meta_hsu_...`)."""

    targets: list[str]
    labels: dict[str, str]


class EndpointList(TypedDict):
    """A page of endpoints; `next` is the `page` of the next one."""

    items: list[EndpointDocument]
    revision: int
    next: str | None


class RouteList(TypedDict):
    """A page of routes."""

    items: list[RouteDocument]
    revision: int
    next: str | None
