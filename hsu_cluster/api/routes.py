"""The API as one table: method, path, permission, handler, and what goes in and out.

The server, the OpenAPI document and the tests of permissions are all made from it. A route without a known
permission stops the start: nothing is ever open by omission.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from hsu_cluster.api import (
    analysis,
    apps,
    cluster,
    deploys,
    endpoints,
    events,
    instances,
    nodes,
    rebalance,
    restore,
    rollouts,
    watch,
)
from hsu_cluster.api.calls import Answer, Call
from hsu_cluster.client import documents, node_documents, restore_documents, rollout_documents, route_documents
from hsu_cluster.client.analysis_documents import AnalysisRunList
from hsu_cluster.planning.access import Permission
from hsu_core.model.errors import Bug

Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse]]

MANIFEST = "manifest"
"""Body of a deploy: a manifest, YAML or JSON."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query parameter; `kind` is a JSON schema type."""

    name: str
    summary: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `answer` is a document type or a media type; `is_stream`: no deadline.

    `is_late_auth`: a request without Authorization header is let in to authenticate by its first message.
    """

    method: str
    path: str
    permission: Permission
    handler: Handler
    summary: str
    answer: type[Any] | str
    body: type[Any] | str | None = None
    query: tuple[Query, ...] = ()
    is_stream: bool = False
    is_late_auth: bool = False

    @property
    def is_change(self) -> bool:
        """Return whether it changes something: then If-Match and Idempotency-Key are heard."""
        return self.method != "GET"


def check_routes(routes: Sequence[Route]) -> None:
    """Raise Bug for a route without a permission, or two with the same method and path."""
    seen: set[tuple[str, str]] = set()
    for route in routes:
        name = f"{route.method} {route.path}"
        if not isinstance(route.permission, Permission):
            raise Bug("start the API", f"route {name} has no permission", "name one in its row")
        if (route.method, route.path) in seen:
            raise Bug("start the API", f"route {name} is there twice", "remove one row")
        seen.add((route.method, route.path))


_NAMESPACE = Query("namespace", "Only this namespace")
_APP = Query("app", "Only this app (with namespace)")
_PAGING = (
    Query("limit", "Most items to answer, 1 to 500", "integer"),
    Query("page", "The `next` of the page before"),
)
_LISTED = (_NAMESPACE, _APP, *_PAGING)
_PIN = Query("pin", "The `pin` of a plan: refuse if the app or the manifest has changed since")
_DRY_RUN = Query("dry_run", "Return the plan, change nothing", "boolean")
_LOGS = (
    Query("tail", "Lines from the end", "integer"),
    Query("follow", "Go on with what comes", "boolean"),
    Query("since", "Nothing older than this: seconds since 1970", "number"),
    Query("until", "Nothing of then or later: seconds since 1970; not with `follow`", "number"),
    Query("timestamps", "Begin each line with its time in UTC and a space", "boolean"),
)
_WATCHED = (_NAMESPACE, _APP, Query("kinds", "Comma separated: apps, instances, routes, nodes, events, cluster"))
_ONE_APP = "/v1/namespaces/{namespace}/apps/{app}"
_ONE_INSTANCE = _ONE_APP + "/instances/{instance}"
_ROLLOUT = _ONE_APP + "/rollout"
_TARGETS = (_NAMESPACE, _APP, Query("worker", "Only this worker"), Query("port", "Only ports of this name"))
_P, _D, _N, _R, _T = Permission, documents, node_documents, rollout_documents, route_documents

ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", _P.PUBLIC, cluster.healthz, "Is the process alive", _D.HealthDocument),
    Route("GET", "/readyz", _P.PUBLIC, cluster.readyz, "Can this master serve", _D.HealthDocument),
    Route("GET", "/openapi.json", _P.READ, cluster.get_openapi, "This description", "application/json"),
    Route("GET", "/metrics", _P.READ, cluster.get_metrics, "Metrics for Prometheus", "text/plain"),
    Route("GET", "/v1/cluster", _P.READ, cluster.get_cluster, "Leader, masters and store", _D.ClusterDocument),
    Route(
        "GET", "/v1/cluster/restore", _P.READ, restore.get_restore, "What is held after a restore of the store",
        restore_documents.RestoreDocument,
    ),
    Route(
        "POST", "/v1/cluster/restore/accept", _P.ADMIN, restore.accept, "Order the nodes that hold their work",
        restore_documents.RestoreDocument, _D.EmptyBody,
    ),
    Route("GET", "/v1/session", _P.NODE, cluster.serve_session, "WebSocket of an agent", "websocket", is_stream=True),
    Route(
        "GET", "/v1/watch", _P.READ, watch.watch, "WebSocket of change notices", "websocket",
        query=_WATCHED, is_stream=True, is_late_auth=True,
    ),
    Route("GET", "/v1/events", _P.READ, events.list_events, "Events, newest first", _D.EventList, query=_LISTED),
    Route("GET", "/v1/apps", _P.READ, apps.list_apps, "All apps", _D.AppList, query=(_NAMESPACE, *_PAGING)),
    Route("GET", "/v1/workers", _P.READ, apps.list_workers, "All workers", _D.WorkerList, query=_LISTED),
    Route("GET", "/v1/instances", _P.READ, instances.list_instances, "All instances", _D.InstanceList, query=_LISTED),
    Route("GET", "/v1/endpoints", _P.READ, endpoints.list_endpoints, "All endpoints", _T.EndpointList, query=_LISTED),
    Route("GET", "/v1/routes", _P.READ, endpoints.list_routes, "All routes", _T.RouteList, query=_LISTED),
    Route(
        "GET", "/v1/prometheus/targets", _P.READ, endpoints.list_targets, "Targets for Prometheus (HTTP discovery)",
        list[_T.TargetGroupDocument], query=_TARGETS,
    ),
    Route(
        "GET", "/v1/namespaces/{namespace}/apps", _P.READ, apps.list_apps, "Apps of a namespace", _D.AppList,
        query=_PAGING,
    ),
    Route("GET", _ONE_APP, _P.READ, apps.get_app, "One app", _D.AppDocument),
    Route(
        "PUT", _ONE_APP, _P.WRITE, deploys.put_app, "Deploy a manifest", _D.DeployDocument, MANIFEST,
        query=(_DRY_RUN, _PIN),
    ),
    Route("DELETE", _ONE_APP, _P.WRITE, apps.delete_app, "Remove an app", _D.RemovedDocument),
    Route(
        "GET", _ONE_APP + "/revisions", _P.READ, apps.list_revisions, "Revisions, oldest first", _D.RevisionList,
        query=_PAGING,
    ),
    Route(
        "GET", _ONE_APP + "/analysis-runs", _P.READ, analysis.list_runs, "Analysis runs, oldest first", AnalysisRunList,
        query=_PAGING,
    ),
    Route(
        "GET", _ONE_APP + "/instances", _P.READ, instances.list_app_instances, "Instances of an app", _D.InstanceList,
        query=_PAGING,
    ),
    Route(
        "GET", _ONE_APP + "/endpoints", _P.READ, endpoints.list_app_endpoints, "Endpoints of an app", _T.EndpointList,
        query=_PAGING,
    ),
    Route(
        "POST", _ONE_APP + "/workers/{worker}/scale", _P.WRITE, apps.scale, "Set the number of instances",
        _D.AppDocument, _D.ScaleBody,
    ),
    Route(
        "POST", _ONE_APP + "/undo", _P.WRITE, deploys.undo, "Deploy an earlier revision again", _D.DeployDocument,
        _D.UndoBody,
    ),
    Route(
        "GET", "/v1/rollouts", _P.READ, rollouts.list_rollouts, "The last rollout of every app", _R.RolloutList,
        query=(_NAMESPACE, *_PAGING),
    ),
    Route("GET", _ROLLOUT, _P.READ, rollouts.get_rollout, "How far the rollout is", _R.RolloutDocument),
    Route(
        "POST", _ROLLOUT + "/promote", _P.WRITE, rollouts.promote, "End what is waited for", _D.AppDocument,
        _R.PromoteBody,
    ),
    *(
        Route("POST", f"{_ROLLOUT}/{verb}", _P.WRITE, handler, summary, _D.AppDocument, _D.EmptyBody)
        for verb, handler, summary in (
            ("pause", rollouts.pause, "Go no further until resumed"),
            ("resume", rollouts.resume, "Go on"),
            ("abort", rollouts.abort, "Go back to the stable revision"),
            ("retry", rollouts.retry, "Begin again after an abort or a rollback"),
        )
    ),
    Route(
        "POST", _ROLLOUT + "/undo", _P.WRITE, deploys.undo, "Deploy an earlier revision again", _D.DeployDocument,
        _D.UndoBody,
    ),
    Route("POST", _ROLLOUT + "/restart", _P.WRITE, apps.restart, "Restart in waves", _D.AppDocument, _D.TargetBody),
    Route("POST", _ONE_APP + "/restart", _P.WRITE, apps.restart, "Restart", _D.AppDocument, _D.TargetBody),
    Route("POST", _ONE_APP + "/stop", _P.WRITE, apps.stop, "Stop until started", _D.AppDocument, _D.TargetBody),
    Route("POST", _ONE_APP + "/start", _P.WRITE, apps.start, "Start what was stopped", _D.AppDocument, _D.TargetBody),
    Route(
        "GET", _ONE_INSTANCE + "/logs", _P.READ, instances.read_logs, "Log of an instance", "text/plain",
        query=_LOGS, is_stream=True,
    ),
    Route(
        "POST", _ONE_INSTANCE + "/signal", _P.WRITE, instances.signal, "Signal its process group",
        _D.RemovedDocument, _D.SignalBody,
    ),
    Route("GET", "/v1/nodes", _P.READ, nodes.list_nodes, "All nodes", _D.NodeList, query=_PAGING),
    Route("GET", "/v1/nodes/{node}", _P.READ, nodes.get_node, "One node", _D.NodeDocument),
    Route("POST", "/v1/nodes/{node}/cordon", _P.ADMIN, nodes.cordon, "Place nothing more on it", _D.NodeDocument,
          _D.EmptyBody),
    Route("POST", "/v1/nodes/{node}/drain", _P.ADMIN, nodes.drain, "Move its instances off", _D.NodeDocument,
          _N.DrainBody),
    Route("GET", "/v1/nodes/{node}/drain-plan", _P.READ, nodes.get_drain_plan, "What a drain would do",
          _N.DrainPlanDocument, query=(Query("force", "As if drained by force", "boolean"),)),
    Route("POST", "/v1/nodes/{node}/uncordon", _P.ADMIN, nodes.uncordon, "Take it back", _D.NodeDocument,
          _D.EmptyBody),
    Route("GET", "/v1/rebalance", _P.READ, rebalance.get_rebalance, "How far the last rebalance is",
          _N.RebalanceDocument),
    Route("GET", "/v1/rebalance/plan", _P.READ, rebalance.get_plan, "What a rebalance would do",
          _N.RebalancePlanDocument, query=(Query("max_moves", "At most so many moves", "integer"),)),
    Route("POST", "/v1/rebalance", _P.ADMIN, rebalance.begin, "Make the load of the nodes more even",
          _N.RebalanceDocument, _N.RebalanceBody),
    Route("POST", "/v1/rebalance/cancel", _P.ADMIN, rebalance.cancel, "Move no more", _N.RebalanceDocument,
          _D.EmptyBody),
    Route("POST", "/v1/nodes/{node}/remove", _P.ADMIN, nodes.remove, "Forget a lost node", _D.RemovedDocument,
          _D.EmptyBody),
)  # fmt: skip
