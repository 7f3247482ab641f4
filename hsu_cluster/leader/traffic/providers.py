"""From what a manifest says of a provider to what speaks with it."""

from __future__ import annotations

from hsu_cluster.leader.traffic.haproxy import HaproxyRouter
from hsu_cluster.leader.traffic.router import NoRouter, Router
from hsu_cluster.leader.traffic.template import TemplateRouter
from hsu_cluster.leader.traffic.webhook import WebhookRouter
from hsu_core.model.routes import HaproxyProvider, Provider, TemplateProvider, WebhookProvider


def router_of(provider: Provider | None, *, allow_templates: bool) -> Router:
    """Return a router for a provider. `allow_templates`: whether manifests may write files and run programs here."""
    match provider:
        case HaproxyProvider():
            return HaproxyRouter(provider)
        case TemplateProvider():
            return TemplateRouter(provider, is_allowed=allow_templates)
        case WebhookProvider():
            return WebhookRouter(provider)
        case None:
            return NoRouter()
