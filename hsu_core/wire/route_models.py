"""The words of `routes:` of an app. No meaning yet: that is in `route_convert`."""

from __future__ import annotations

from hsu_core.wire.fields import Duration, Name, Strict, Text, TextList


class HaproxyModel(Strict):
    """`haproxy:` of a route: its runtime API (paths of sockets, or HOST:PORT), and the backend that servers join."""

    address: TextList
    backend: Text
    preview_backend: Text | None = None


class TemplateModel(Strict):
    """`template:` of a route: a text (or the file that a client reads it from), where it goes, and a reload command."""

    content: Text | None = None
    template: Text | None = None
    path: Text
    command: TextList | None = None


class WebhookModel(Strict):
    """`webhook:` of a route: who is told of every change."""

    url: Text
    timeout: Duration | None = None


class RouteModel(Strict):
    """One route: a port of a worker, and at most one provider (none: the endpoints are read over the API)."""

    worker: Name
    port: Name
    drain: Duration | None = None
    haproxy: HaproxyModel | None = None
    template: TemplateModel | None = None
    webhook: WebhookModel | None = None
