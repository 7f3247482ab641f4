"""A webhook as a provider: the whole state of the route is posted after every change; 2xx is the confirmation."""

from __future__ import annotations

from typing import Any

import aiohttp

from hsu_cluster.leader.traffic.router import TrafficError
from hsu_cluster.planning.traffic import WantedRoute, servers
from hsu_core.model.ids import InstanceId
from hsu_core.model.routes import WebhookProvider

TOLD_LIMIT = 200
"""Characters of a refusal that are told."""


def payload(wish: WantedRoute) -> dict[str, Any]:
    """Return what is posted: who the route is, its endpoints with group and weight (0..256), and percent by group."""
    return {
        "namespace": wish.app.namespace,
        "app": wish.app.app,
        "route": wish.spec.name,
        "worker": wish.spec.worker,
        "port": wish.spec.port,
        "endpoints": [
            {
                "instance": str(server.endpoint.instance),
                "host": server.endpoint.host,
                "port": server.endpoint.port,
                "group": server.endpoint.group,
                "weight": server.weight,
                "epoch": server.endpoint.epoch,
            }
            for server in servers(wish.endpoints, wish.weights)
        ],
        "weights": dict(wish.weights),
    }


class WebhookRouter:
    """One route told to one URL."""

    verify_s: float | None = None

    def __init__(self, provider: WebhookProvider) -> None:
        self._provider = provider
        self._told: dict[str, Any] | None = None

    async def apply(self, wish: WantedRoute, cut: frozenset[InstanceId]) -> frozenset[InstanceId] | None:
        """Post the state if it was not posted with success already."""
        document = payload(wish)
        if document == self._told:
            return None
        self._told = None
        url = self._provider.url
        limit = aiohttp.ClientTimeout(total=self._provider.timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.post(url, json=document, allow_redirects=False) as answer,
            ):
                status, text = (
                    answer.status,
                    " ".join((await answer.content.read(4096)).decode("utf-8", "replace").split()),
                )
        except TimeoutError:
            why = f"no answer within {self._provider.timeout_s:g} s"
            raise TrafficError(f"post to {url}", why, "answer sooner, or raise `timeout`") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TrafficError(f"post to {url}", str(error) or type(error).__name__, "is the receiver up?") from error
        if not 200 <= status < 300:
            why = f"it answered {status}" + (f": {text[:TOLD_LIMIT]}" if text else "")
            raise TrafficError(f"post to {url}", why, "it has to answer 2xx when the change is in effect")
        self._told = document
        return None
